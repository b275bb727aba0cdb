"""A training over its steps, drawn from results whose names end in one."""

from __future__ import annotations

import pytest

from microscope_bench.cli.main import main
from microscope_bench.errors import ResultError
from microscope_bench.metrics.registry import headlines
from microscope_bench.publish import step_lines
from microscope_bench.publish.step_lines import draw_over_steps, run_and_step
from microscope_bench.publish.summary import summarise
from tests.results.sample import failed, sample


def at(name):
    return sample(model={"name": name})


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("mine step 500", ("mine", 500)),
        ("Mine, step 20", ("Mine", 20)),
        ("checkpoint-1000", ("training", 1000)),
        ("run/checkpoint-3", ("run", 3)),
        ("footstep 3", None),
        ("mine", None),
        ("step 3 of mine", None),
    ],
)
def test_the_step_is_what_a_name_ends_in(name, found):
    assert run_and_step(at(name)) == found


def test_means_over_the_layers_stand_over_the_steps(tmp_path, monkeypatch):
    results = [at("b step 20"), at("a step 0"), at("b step 3"), at("no number"), failed(at("a step 9"))]
    drawn = []
    monkeypatch.setattr(step_lines, "save", lambda figure, *_: drawn.append(figure))
    (anisotropy,) = headlines(["anisotropy"])
    draw_over_steps(results, [anisotropy], tmp_path / "one.svg", modalities=["text"])
    (axes,) = drawn[0].axes
    mean = summarise(results[0], anisotropy, "text").mean
    lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
    assert lines == [([0.0], [mean]), ([3.0, 20.0], [mean, mean])]
    assert axes.get_xlabel() == "step" and axes.get_xlim()[1] > 20
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["a", "b"]


def test_two_trainings_of_one_name_are_not_drawn_as_one(tmp_path):
    results = [at("mine step 1"), sample(model={"name": "mine step 1", "revision": "sha256-" + "1" * 16})]
    with pytest.raises(ResultError, match="two results are of step 1 of mine"):
        draw_over_steps(results, headlines(), tmp_path, modalities=["text"])
    control = sample(model={"name": "mine step 1", "control": "permuted_tokens"})
    assert draw_over_steps([results[0], results[0], control], headlines(), tmp_path, modalities=["text"])


def test_results_without_a_step_say_how_to_name_them(tmp_path):
    with pytest.raises(ResultError, match="must end in `step N` or `checkpoint-N`"):
        draw_over_steps([sample()], headlines(), tmp_path, modalities=["text"])


def test_the_command_draws_into_a_directory_or_a_file(tmp_path):
    for name in ("mine step 1", "mine step 2"):
        at(name).save(tmp_path / f"{name}.json")
    assert main(["plot", str(tmp_path), "--over", "step", "-o", str(tmp_path / "out"), "--format", "png"]) == 0
    task = sample().identity.task.name
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"{task}.steps.png"]
    assert main(["plot", str(tmp_path), "--over", "step", "-o", str(tmp_path / "f.pdf"), "--metric", "linearity"]) == 0
    assert (tmp_path / "f.pdf").stat().st_size > 1000
