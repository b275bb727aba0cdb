"""Measuring beside a training: what is logged and written, that the training does not notice, and what fails."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM, AutoTokenizer, TrainerCallback

from microscope_bench import load_result
from microscope_bench.callbacks import GeometryCallback, measure_step, measured_step
from microscope_bench.errors import MicroscopeError, StoreError
from tests.callbacks.small_training import train, weights
from tests.toy import TextTask, ToyTask, result_files

ROOT = Path(__file__).parents[2]


def geometry(**options):
    return GeometryCallback(ToyTask(8), 2, **{"metrics": "anisotropy", **options})


class Report(TrainerCallback):
    """As wandb's or TensorBoard's."""

    def __init__(self):
        self.told = []

    def on_log(self, args, state, control, logs=None, **_):
        self.told.append((state.global_step, dict(logs)))


NAMES = {f"geometry/anisotropy/{modality}" for modality in ("text", "image", "joint")}
COST = {"geometry/seconds", "geometry/share_of_time"}


def measured(log):
    return [entry for entry in log if any(key.startswith("geometry/") for key in entry)]


def of_the_training(log):
    times = ("runtime", "per_second", "steps_per")
    return [
        {key: value for key, value in entry.items() if not any(word in key for word in times)}
        for entry in log
        if not any(key.startswith("geometry/") for key in entry)
    ]


def test_scores_are_logged_and_written_and_the_training_does_not_notice(tiny, tmp_path):
    report = Report()
    plain = train(tiny("llava"), tmp_path / "plain", [])
    watched = train(tiny("llava"), tmp_path / "watched", [report, geometry(name="mine")])
    assert torch.equal(weights(plain), weights(watched))
    assert of_the_training(plain.state.log_history) == of_the_training(watched.state.log_history)
    found = measured(watched.state.log_history)
    assert [entry["step"] for entry in found] == [0, 2, 4, 5]
    assert all(NAMES | COST | {"geometry/accuracy"} <= entry.keys() for entry in found)
    assert len({entry["geometry/anisotropy/text"] for entry in found}) == 4
    assert 0 < found[-1]["geometry/share_of_time"] < 1
    assert [step for step, logs in report.told if logs.keys() >= NAMES] == [0, 2, 4, 5]
    for step in (0, 2, 4, 5):
        (file,) = result_files(tmp_path / "watched" / "geometry" / f"step-{step}")
        result = load_result(file)
        assert result.identity.model.name == f"mine step {step}"
        means = [score.value for score in result.scores if (score.modality, score.tokens) == ("text", "all")]
        logged = next(entry for entry in found if entry["step"] == step)
        assert logged["geometry/anisotropy/text"] == pytest.approx(sum(means) / len(means))


def test_a_step_that_cannot_be_measured_is_told_once_in_each_training(tiny, tmp_path, caplog, monkeypatch):
    asked = []

    def failing(*_, **__):
        asked.append(1)
        raise StoreError("the disk is full")

    monkeypatch.setattr(measured_step, "evaluate", failing)
    model = AutoModelForMultimodalLM.from_pretrained(tiny("llava"))
    for n in (1, 2):
        watched = train(tiny("llava"), tmp_path / "watched", [geometry()], model=model)
        assert watched.state.global_step == 5 and len(asked) == 4 * n
        told = [record.message for record in caplog.records if record.name == "microscope_bench"]
        assert told == n * [
            "the geometry of a step could not be measured, and the training goes on: the disk is full",
        ]


def test_options_of_the_task_act_when_it_is_loaded(tiny, tmp_path):
    callback = GeometryCallback("shapesqa", 4, metrics="anisotropy", sample=8, num_fewshot=0)
    watched = train(tiny("llava"), tmp_path, [callback])
    assert [entry["step"] for entry in measured(watched.state.log_history)] == [0, 4, 5]
    (file,) = result_files(tmp_path / "geometry" / "step-4")
    assert load_result(file).identity.n_examples == 8


def text_model(tiny):
    path = tiny("llama")
    return {"model": AutoModelForCausalLM.from_pretrained(path), "processor": AutoTokenizer.from_pretrained(path)}


@pytest.mark.parametrize(
    ("given", "callback", "reason"),
    [
        (text_model, geometry, "has no modality image: it is a text-only model"),
        (lambda tiny: {}, lambda: geometry(processor=object()), "needs its processor, and object is none"),
        (lambda tiny: {}, lambda: GeometryCallback("shapesqaa", 2), "unknown task 'shapesqaa'"),
    ],
)
def test_what_cannot_be_measured_at_all_is_told_at_the_start(given, callback, reason, tiny, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "microscope_bench"):
        watched = train(tiny("llava"), tmp_path, [callback()], **given(tiny))
    assert watched.state.global_step == 5 and not measured(watched.state.log_history)
    (told,) = [record.message for record in caplog.records if record.name == "microscope_bench"]
    assert told.startswith("the geometry of this training is not measured: ")
    assert reason in told


def test_options_that_mean_nothing_are_refused_before_the_training():
    with pytest.raises(MicroscopeError, match="unknown metric 'linearty'"):
        GeometryCallback("shapesqa", 500, metrics="linearty")
    with pytest.raises(MicroscopeError, match="every"):
        GeometryCallback("shapesqa", 0)


def test_scores_without_a_mean_are_told_once(tiny, tmp_path, caplog):
    model = text_model(tiny)
    for step in (1, 2):
        found = measure_step(
            model["model"], TextTask(2), step, processor=model["processor"], metrics="linearity,anisotropy"
        )
        assert "geometry/anisotropy/text" in found and "geometry/linearity.update/text" not in found
    told = [record.message for record in caplog.records if "no mean to log" in record.message]
    assert told and len(told) == len(set(told))


@pytest.mark.heavy
def test_of_two_processes_one_measures_and_both_train_as_without(tiny, tmp_path):
    """By torchrun with gloo, as on two GPUs."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    command += ["tests.callbacks.small_training", str(tiny("llava")), str(tmp_path)]
    run = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    found = [torch.load(tmp_path / f"weights-{rank}-of-2.pt") for rank in (0, 1)]
    first = found[0]["plain"]
    assert all(torch.equal(first, one[how]) for one in found for how in ("plain", "measured"))
    results = [load_result(file) for file in result_files(tmp_path / "geometry")]
    assert len(results) == 4 and all(result.status == "complete" for result in results)
