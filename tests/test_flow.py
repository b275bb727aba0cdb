"""``flow()`` and ``microscope-bench flow``: from a model and a task to a result that everything else reads."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch
from PIL import Image

from microscope_bench import flow, load_result
from microscope_bench.cli.main import main
from microscope_bench.errors import AdapterError, MicroscopeError
from microscope_bench.example import Example
from microscope_bench.results import provenance
from microscope_bench.results.json_schema import violations
from microscope_bench.results.plausibility import implausible
from microscope_bench.system.processes import Processes
from tests.causal.planted import ANY, PlantedAdapter
from tests.toy import TextTask, ToyAdapter, ToyTask

EDGES = ("image->question", "question->last", "none->last")


class Brightness(ToyTask):
    """Whether a picture is bright, A, or dark, B; two questions of each picture, the first ``wrong`` falsely keyed."""

    name = "brightness"

    def __init__(self, n: int = 40, wrong: int = 0) -> None:
        super().__init__(n)
        self.wrong = wrong

    def example(self, index: int) -> Example:
        dark = (index // 2) % 2
        image = Image.new("RGB", (8, 8), (20 + index // 2,) * 3 if dark else (235 - index // 2,) * 3)
        answer = dark if index >= self.wrong else 1 - dark
        return Example(
            f"q{index}", f"<image>Bright{'?' * (1 + index % 3)}", (image,), choices=("A", "B"), answer=answer
        )


def measured(task=None, adapter=None, **options):
    options = {"edges": EDGES, "window": 1, "progress": False} | options
    return flow(adapter or PlantedAdapter(), task or Brightness(), **options)


def curve(result, estimator):
    return [score.value for score in result.scores if score.estimator == estimator]


def test_the_planted_circuit_is_told_in_a_result():
    result = measured()
    assert np.flatnonzero(np.abs(curve(result, "image->question")) > 1).tolist() == [1]
    assert np.flatnonzero(np.abs(curve(result, "question->last")) > 1).tolist() == [3]
    assert curve(result, "none->last") == [0.0] * 6
    assert result.accuracy.value == 1.0
    assert curve(result, "image->question/letter")[1] == pytest.approx(-50, abs=1)
    assert curve(result, "none->last/accuracy") == [1.0] * 6


def test_it_has_the_format_identity_and_signature_of_every_result(tmp_path):
    result = measured(output_path=tmp_path, limit=30)
    (path,) = tmp_path.rglob("*.json")
    assert path.name == "brightness~flow.json"
    assert load_result(path).to_dict() == result.to_dict()
    assert violations(path.read_bytes()) == [] and implausible(result) == []
    assert result.signature.startswith(
        "flow/1|limit=30|window=1|edges=image-%3Equestion,question-%3Elast,none-%3Elast|"
    )
    assert result.identity.metrics == {"knockout": 1}
    assert result.environment.command.startswith("microscope-bench flow --model planted --tasks brightness")
    assert "--window 1" in result.environment.command and "image->question" in result.environment.command
    (score, *_) = result.scores
    assert (score.modality, score.layer, score.n_examples, score.flags) == ("image", 0, 30, ("keys=4",))


def test_errors_are_by_picture():
    result = measured()
    score = next(s for s in result.scores if s.estimator == "question->last" and s.layer == 3)
    assert len(score.replicates) == result.inputs.folds.n == 10
    mean = np.mean(score.replicates)
    assert score.stderr == pytest.approx(math.sqrt(0.9 * np.sum((np.array(score.replicates) - mean) ** 2)), rel=2e-3)
    assert len(set(score.replicates)) > 1


def test_batches_change_nothing_but_rounding():
    one, eight = (measured(batch_size=n) for n in (1, 8))
    assert [s.value for s in one.scores] == pytest.approx([s.value for s in eight.scores], abs=1e-3)
    assert one.identity == eight.identity


def test_wrongly_answered_examples_do_not_count_unless_all_do():
    result = measured(Brightness(wrong=16))
    assert {score.n_examples for score in result.scores} == {24} and result.inputs.n_examples == 40
    assert result.accuracy.value == pytest.approx(24 / 40)
    everything = measured(Brightness(wrong=16), counted="all")
    assert {score.n_examples for score in everything.scores} == {40}
    assert "counted=all" in everything.signature


def test_too_few_right_answers_give_no_value_but_their_number():
    result = measured(Brightness(wrong=33))
    assert {score.value for score in result.scores} == {None}
    assert {score.n_examples for score in result.scores} == {7}
    assert all("7 of 40 examples count" in score.reason for score in result.scores)
    assert implausible(result) == []


@pytest.mark.parametrize(
    "options, said",
    [
        ({"edges": ["imgae->question"]}, "Did you mean image"),
        ({"edges": []}, "no edge is named"),
        ({"window": 7}, "wider than the model, which has 6"),
        ({"window": 2}, "odd number"),
        ({"task": TextTask(12)}, "toy_task has no pictures, and image->question cannot be cut without"),
        ({"tap": "vision"}, "tap means nothing in attention knockout"),
    ],
)
def test_what_means_nothing_is_refused(options, said):
    with pytest.raises(MicroscopeError, match=said):
        measured(**options)


def test_where_a_control_leaves_no_picture_an_edge_from_it_has_no_value():
    result = measured(control="text_only")
    (reason,) = {s.reason for s in result.scores if s.estimator == "image->question"}
    assert reason.startswith("too few examples: 0 of 40 examples count and have both ends of the edge")


def test_a_task_without_pictures_has_edges_of_its_words():
    result = measured(TextTask(20), edges=["question->last"], counted="all")
    assert len(curve(result, "question->last")) == 6


def test_an_answer_of_several_tokens_is_told(monkeypatch):
    def refuse(*_):
        raise AdapterError("two tokens")

    monkeypatch.setattr(PlantedAdapter, "choice_token_ids", refuse)
    with pytest.raises(MicroscopeError, match=r"example q0: .*two tokens.*--counted all"):
        measured()


def test_a_model_whose_blocks_take_no_mask_is_refused_and_the_reason_noted(tmp_path):
    with pytest.raises(AdapterError, match=r"block 1 \(ToyBlock\)"):
        measured(ToyTask(12), ToyAdapter(), output_path=tmp_path)
    (path,) = tmp_path.rglob("*.json")
    assert load_result(path).error.message.startswith("block 1 (ToyBlock)")


def test_the_geometry_protocol_is_not_taken_for_it(tmp_path):
    from microscope_bench import RunConfig

    with pytest.raises(MicroscopeError, match="flow/1 is that of attention knockout; run: microscope-bench flow"):
        RunConfig(protocol="flow/1")


def test_the_command_on_a_zoo_model(tmp_path, capsys, caplog, monkeypatch):
    monkeypatch.setattr(provenance, "_checkout", lambda package: (None, None))  # whatever was edited here
    command = ["flow", "--model", "zoo-llava", "--tasks", "shapesqa", "--limit", "12", "--window", "3"]
    command += ["--edges", "image->question,none->question", "--output_path", str(tmp_path)]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "image->question" in out and "0 ± 0" in out and out.strip().endswith(load_result(*files(tmp_path)).short_id)
    with caplog.at_level(logging.INFO):
        assert main(command) == 0
    assert "is there" in caplog.text and capsys.readouterr().out == out
    assert main(["validate", str(tmp_path)]) == 0


def files(path):
    return sorted(path.rglob("*.json"))


def test_the_leaderboard_leaves_it_out_and_compare_reads_it(tmp_path):
    measured(output_path=tmp_path / "results")
    (path,) = files(tmp_path / "results")
    assert main(["compare", str(path), str(path)]) == 0
    assert main(["difference", str(path), str(path), "--all"]) == 0
    assert main(["leaderboard", str(tmp_path / "results")]) == 0
    page = (tmp_path / "leaderboard.md").read_text()
    assert "attention knockout, of which no table tells" in page and "## Protocol" not in page


def test_an_example_counts_only_if_its_first_token_is_the_right_choice():
    adapter = PlantedAdapter()
    with torch.no_grad():
        adapter.head.weight[ord("?"), ANY] = 20.0  # likelier than either choice, of which the right one is the likelier
    result = measured(adapter=adapter)
    assert result.accuracy.value == 1.0
    assert {score.n_examples for score in result.scores} == {0}
    assert {score.n_examples for score in measured(adapter=adapter, counted="all").scores} == {40}


def test_an_edge_that_is_named_twice_is_cut_once():
    twice = measured(edges=("image->question", "image -> question"))
    assert twice.identity.protocol.edges == ("image->question",)
    assert twice.scores == measured(edges=("image->question",)).scores


def test_several_processes_are_refused_from_the_command_line_too(monkeypatch, capsys):
    monkeypatch.setattr("microscope_bench.run.flow.launched", lambda: Processes(rank=1, size=2))
    assert main(["flow", "--model", "zoo-llava-untrained", "--tasks", "shapesqa", "--limit", "2"]) == 2
    assert "attention knockout runs in one process" in capsys.readouterr().err
