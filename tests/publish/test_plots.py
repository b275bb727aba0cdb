from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from microscope_bench.cli.main import main
from microscope_bench.errors import ResultError
from microscope_bench.publish.plots import draw_all, label_of, line_of
from microscope_bench.publish.summary import HEADLINES
from tests.results.sample import sample

LINEARITY, UPDATE, DIMENSION, ANISOTROPY = HEADLINES


def named(name, **changes):
    return sample(model={"name": name, **changes})


def test_a_value_between_two_boundaries_lies_half_way():
    result = sample()
    n_layers = result.identity.model.n_layers
    line = line_of(result, LINEARITY, "text")
    rows = result.series("linearity", "held_out", "hidden", "text")
    assert line is not None
    assert line.depths == [(row.layer + 0.5) / n_layers for row in rows if row.value is not None]
    assert line.values == [row.value for row in rows if row.value is not None]
    there = line_of(result, ANISOTROPY, "text")
    if there is not None:
        assert all(0 <= depth <= 1 for depth in there.depths)


def test_what_was_not_measured_is_not_drawn():
    assert line_of(sample(), LINEARITY, "audio") is None


def test_the_same_results_give_the_same_files_in_any_order(tmp_path):
    results = [named("b/model"), named("a $x_1$ <b>&", trained=False), named("a", control="untrained")]
    first = draw_all(results, tmp_path / "1")
    second = draw_all(results[::-1], tmp_path / "2")
    assert [path.name for path in first] == [path.name for path in second]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))
    assert "<b>" not in first[0].read_text(), "a stranger's name is text, not markup"


def test_labels_tell_twins_and_controls_apart():
    assert label_of(named("m")) == "m"
    assert label_of(named("m", trained=False)) == "m (untrained)"
    assert label_of(named("m", control="noise_image")) == "m, noise_image"


def test_pictures_are_pictures(tmp_path):
    (path, *_) = draw_all([sample()], tmp_path, file_format="png")
    assert Image.open(path).size[0] > 300


def test_nothing_to_draw_is_an_error(tmp_path):
    empty = replace(sample(), scores=())
    with pytest.raises(ResultError, match="nothing to draw"):
        draw_all([empty], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ResultError, match=r"pip install 'microscope-bench\[plots\]'"):
        draw_all([sample()], tmp_path)


def test_the_verb(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    assert main(["plot", "results", "-o", str(tmp_path / "out")]) == 0
    written = capsys.readouterr().out.splitlines()
    assert len(written) == len(list((tmp_path / "out").iterdir())) >= 4
    (tmp_path / "file").write_text("")
    assert main(["plot", "results", "-o", str(tmp_path / "file")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert main(["plot", str(tmp_path / "nowhere")]) == 2
