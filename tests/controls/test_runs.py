"""Controls as runs: resumed, in batches of any size, signed, and never in the model's own place."""

from __future__ import annotations

import pytest

from microscope_bench import evaluate, load_result
from microscope_bench.cli.main import main
from microscope_bench.controls import CONTROLS
from microscope_bench.errors import CaptureError, StoreError, UnknownNameError
from microscope_bench.publish.terminal import summary_table
from microscope_bench.results.result_files import each_result, find_results
from tests.publish.small import render
from tests.toy import ToyAdapter, ToyTask, result_files


class Toy(ToyAdapter):
    """The toy model with token ids under their usual name, and weights that can be drawn anew."""

    def encode(self, examples):
        batch = super().encode(examples)
        batch.inputs["input_ids"] = batch.inputs.pop("ids")
        return batch

    def forward(self, batch, *, logits):
        batch.inputs["ids"] = batch.inputs["input_ids"]
        return super().forward(batch, logits=logits)

    def fresh_weights(self, seed):
        return Toy(break_at=self.break_at, seed=seed + 1)


def run(path=None, adapter=None, **options):
    options = {"metrics": "anisotropy", "progress": False, **options}
    return evaluate(adapter or Toy(), ToyTask(40), output_path=path, **options)


def comparable(result):
    return {
        (s.metric, s.estimator, s.stream, s.modality, s.tokens, s.layer): (s.value, s.n_tokens) for s in result.scores
    }


@pytest.fixture(scope="module")
def plain():
    return run()


@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_is_a_run_like_any_other(control, plain, tmp_path):
    adapter = Toy()
    result = run(tmp_path / "a", adapter, control=control)
    assert result.identity.model.control == control
    assert f"|control:{control}|" in result.signature
    assert f"; control: {control}\n" in summary_table(result)
    assert comparable(result) != comparable(plain)
    assert result.identity.example_ids_sha256 == plain.identity.example_ids_sha256
    assert result.inputs.folds == plain.inputs.folds, "so that the two can be compared in pairs"
    assert adapter.info.control is None
    assert run(adapter=adapter).scores == plain.scores, "the model that was given is as before"

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", Toy(break_at=4), control=control)
    resumed = run(tmp_path / "b", control=control)
    assert (resumed.scores, resumed.identity) == (result.scores, result.identity)

    in_threes = comparable(run(control=control, batch_size=3))
    assert in_threes.keys() == comparable(result).keys()
    for row, (value, n_tokens) in comparable(result).items():
        assert in_threes[row] == (pytest.approx(value, rel=1e-4), n_tokens), row


@pytest.mark.parametrize("control", CONTROLS)
def test_accuracy_is_scored_unless_the_end_of_the_prompt_is_permuted(control):
    accuracy = run(control=control).accuracy
    assert accuracy.n == 40
    if control == "permuted_tokens":
        assert accuracy.value is None and "the prompt's end is permuted" in accuracy.reason
    else:
        assert accuracy.value is not None


@pytest.mark.parametrize("control", ["noise_image", "shuffled_image"])
def test_another_seed_is_another_draw(control):
    seen = [run(control=control, seed=seed).inputs.media_sha256 for seed in (0, 1, 1)]
    assert seen[0] != seen[1] == seen[2]


@pytest.mark.parametrize("control", CONTROLS)
def test_the_store_of_another_run_is_not_continued(control, tmp_path):
    run(store=tmp_path / "s", keep_store=True)
    with pytest.raises(StoreError, match=r"states of another run \(different: .*model"):
        run(store=tmp_path / "s", control=control)


@pytest.mark.parametrize("controls", [["noise_image", None], [None, "noise_image"]])
def test_whichever_comes_first_the_model_has_its_own_place_and_row(controls, tmp_path):
    for control in controls:
        run(tmp_path, control=control)
    entries = [(path.name, result) for path, result in each_result(find_results(tmp_path))]
    assert [(name, result.identity.model.control) for name, result in entries] == [
        ("toy_task.json", None),
        ("toy_task~noise_image.json", "noise_image"),
    ]
    page, hidden = render(entries).split("## Not shown")
    assert "(./toy_task.json)" in page and "noise_image" not in page
    assert "- [toy (untrained)](./toy_task~noise_image.json) on toy_task: control: noise_image" in hidden


def test_a_control_that_fails_leaves_its_error_in_its_own_place(tmp_path):
    class Broken(Toy):
        def forward(self, batch, *, logits):
            raise ZeroDivisionError("broken")

    with pytest.raises(CaptureError, match="ZeroDivisionError in the model: broken"):
        run(tmp_path, Broken(), control="noise_image")
    ((path, result),) = each_result(find_results(tmp_path))
    assert (path.name, result.status) == ("toy_task~noise_image.json", "failed")
    assert "control: noise_image; failed in capture: CaptureError: 16 of 40" in render([("x.json", result)])


def test_an_unknown_control_is_refused_before_anything_is_loaded():
    with pytest.raises(UnknownNameError, match="shuffled_image"):
        evaluate("no such model", "no such task", control="shuffle_image")


def test_the_command_line_runs_and_lists_controls(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["run", "--model", "zoo-omnifusion-untrained", "--tasks", "shapesqa", "--limit", "8"]
    assert main([*command, "--metrics", "anisotropy", "--control", "untrained"]) == 0
    assert "zoo-omnifusion-untrained on shapesqa, geometry/1; control: untrained" in capsys.readouterr().out
    (file,) = result_files(tmp_path / "results")
    assert file.name == "shapesqa~untrained.json"
    assert "--control untrained" in load_result(file).environment.command
    assert main([*command, "--control", "untraind"]) == 2
    assert "Did you mean untrained?" in capsys.readouterr().err
    assert main(["ls", "controls"]) == 0
    assert "permuted_tokens" in capsys.readouterr().out
