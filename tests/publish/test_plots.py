from __future__ import annotations

import math
from dataclasses import replace

import matplotlib
import pytest
from PIL import Image

from microscope_bench.cli.main import main
from microscope_bench.controls import CONTROLS
from microscope_bench.errors import ResultError
from microscope_bench.protocol import named_protocol
from microscope_bench.publish import plots
from microscope_bench.publish.plots import draw_all, line_of
from microscope_bench.publish.summary import HEADLINES
from tests.results.sample import failed, sample, with_scores

LINEARITY, UPDATE, DIMENSION, ANISOTROPY = HEADLINES


def named(name, **changes):
    return sample(model={"name": name, **changes})


def test_a_value_between_two_boundaries_lies_half_way():
    result = sample()
    n_layers = result.identity.model.n_layers
    line = line_of(result, "m", LINEARITY, "text")
    assert line.depths == [(layer + 0.5) / n_layers for layer in range(n_layers)]
    there = line_of(result, "m", ANISOTROPY, "text")
    assert there.depths == [layer / n_layers for layer in range(n_layers + 1)]
    rows = result.series("anisotropy", "top_share", None, "text")
    assert {row.layer: row.value for row in rows if row.value is not None}.items() <= dict(
        enumerate(there.values)
    ).items()


def test_a_hole_interrupts_the_line_and_a_missing_error_the_band():
    def change(score):
        if score.metric != "anisotropy":
            return score
        if score.layer == 1:
            return replace(score, value=None, stderr=None, reason="constant")
        return replace(score, value=0.5, stderr=None, reason=None) if score.layer == 0 else score

    line = line_of(with_scores(sample(), change), "m", ANISOTROPY, "text")
    assert math.isnan(line.values[1]) and math.isnan(line.stderrs[1])
    assert line.values[0] == 0.5 and math.isnan(line.stderrs[0])


def test_what_was_not_measured_is_not_drawn():
    assert line_of(sample(), "m", LINEARITY, "audio") is None


def test_the_same_results_give_the_same_files_in_any_order(tmp_path):
    results = [
        named("b/model"),
        named("a $x_1$ <b>&", trained=False),
        named("a", control="untrained"),
        failed(sample()),
    ]
    first = draw_all(results, tmp_path / "1")
    second = draw_all(results[::-1], tmp_path / "2")
    assert [path.name for path in first] == [path.name for path in second]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))
    assert "<b>" not in first[0].read_text(), "a stranger's name is text, not markup"
    assert not list(tmp_path.rglob(".*")), "nothing half written is left"


def test_what_does_not_compare_is_not_in_one_picture(tmp_path):
    other = sample(protocol=replace(named_protocol("geometry/1"), limit=7))
    names = [path.name for path in draw_all([sample(), other], tmp_path)]
    task = sample().identity.task.name
    assert f"{task}.anisotropy.svg" in names and f"{task}~2.anisotropy.svg" in names


def test_token_sets_do_not_take_each_others_files(tmp_path):
    names = {path.name for path in draw_all([sample()], tmp_path)}
    assert all("no_sinks" not in name for name in names)


def test_every_line_can_be_told_from_every_other():
    families = [named(f"m{i}") for i in range(9)]
    controls = [named("m0", control=control) for control in CONTROLS]
    twins = [named("m0-untrained", trained=False), named("m0", revision="b" * 40)]
    entries = plots._named([*families, *controls, *twins])
    labels = [label for label, _ in entries]
    assert len(set(labels)) == len(labels) == 9 + 5 + 2
    styles = {label: tuple(map(str, style.values())) for label, style in plots._styles(entries).items()}
    assert len(set(styles.values())) == len(labels)
    assert len({style[0] for label, style in styles.items() if label.startswith("m0")}) == 1, "one model, one colour"
    assert [label for label in labels if label.startswith("m0")] == labels[:8], "and side by side"
    assert set(CONTROLS) == plots.STYLES.keys() - {""}


def test_labels_say_what_is_untrained_and_what_is_a_control():
    assert [plots._name(named(name)) for name in ("m", "zoo-x-untrained")] == ["m", "zoo-x-untrained"]
    assert plots._name(named("m", trained=False)) == "m (untrained)"
    assert plots._name(named("zoo-x-untrained", trained=False)) == "zoo-x-untrained"
    assert plots._name(named("m", control="noise_image")) == "m, noise_image"
    assert plots._name(named("m", trained=False, control="untrained")) == "m, untrained"


def test_a_value_on_another_number_of_tokens_is_not_in_the_line(tmp_path):
    def change(score):
        odd = score.metric == "intrinsic_dimension" and score.layer == 0
        return replace(score, flags=("unmatched_n",)) if odd else score

    result = with_scores(sample(), change)
    line = line_of(result, "m", DIMENSION, "text")
    assert line.left_out == 1 and math.isnan(line.values[0])
    draw_all([result], tmp_path)


def test_pictures_are_pictures_and_cite_their_results(tmp_path):
    backend = matplotlib.get_backend()
    (path, *_) = draw_all([sample()], tmp_path, file_format="png")
    picture = Image.open(path)
    assert picture.size[0] > 300
    assert picture.text["Description"] == sample().signature
    assert matplotlib.get_backend() == backend


def test_nothing_to_draw_is_an_error(tmp_path):
    empty = replace(sample(), scores=())
    with pytest.raises(ResultError, match="nothing to draw"):
        draw_all([empty], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ResultError, match=r"pip install 'microscope-bench\[plots\]'"):
        draw_all([sample()], tmp_path)


def test_the_verb(tmp_path, capsys):
    (tmp_path / "results").mkdir()
    sample().save(tmp_path / "results" / "one.json")
    assert main(["plot", str(tmp_path / "results"), "-o", str(tmp_path / "out")]) == 0
    written = capsys.readouterr().out.splitlines()
    assert len(written) == len(list((tmp_path / "out").iterdir())) >= 1
    (tmp_path / "file").write_text("")
    assert main(["plot", str(tmp_path / "results"), "-o", str(tmp_path / "file")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    for given, message in (("nowhere", "is not a directory"), ("file", "is a file"), ("out", "holds no result files")):
        assert main(["plot", str(tmp_path / given)]) == 2
        assert message in capsys.readouterr().err
