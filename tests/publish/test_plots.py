from __future__ import annotations

import math

import matplotlib
import pytest
from msgspec.structs import replace
from PIL import Image

from microscope_bench.cli.main import main
from microscope_bench.controls import CONTROLS
from microscope_bench.errors import ResultError
from microscope_bench.metrics.registry import headlines
from microscope_bench.protocol import named_protocol
from microscope_bench.publish import plots
from microscope_bench.publish.figure_choice import chosen_headlines
from microscope_bench.publish.figure_file import shown
from microscope_bench.publish.plots import draw_all, line_of
from microscope_bench.publish.summary import layers_of
from tests.results.sample import failed, sample, with_scores

LINEARITY, UPDATE, DIMENSION, ANISOTROPY = HEADLINES = headlines()


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
    entries = plots.named([*families, *controls, *twins])
    labels = [label for label, _ in entries]
    assert len(set(labels)) == len(labels) == 9 + 5 + 2
    styles = {label: tuple(map(str, style.values())) for label, style in plots.styles_of(entries).items()}
    assert len(set(styles.values())) == len(labels)
    assert len({style[0] for label, style in styles.items() if label.startswith("m0")}) == 1, "one model, one colour"
    assert [label for label in labels if label.startswith("m0")] == labels[:8], "and side by side"
    assert set(CONTROLS) == plots.STYLES.keys() - {""}


def test_labels_say_what_is_untrained_and_what_is_a_control():
    assert [plots.name_of(named(name)) for name in ("m", "zoo-x-untrained")] == ["m", "zoo-x-untrained"]
    assert plots.name_of(named("m", trained=False)) == "m (untrained)"
    assert plots.name_of(named("zoo-x-untrained", trained=False)) == "zoo-x-untrained"
    assert plots.name_of(named("m", control="noise_image")) == "m, noise_image"
    assert plots.name_of(named("m", trained=False, control="untrained")) == "m, untrained"


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
    for given, message in (
        ("nowhere", "no such file or directory"),
        ("file", "not complete JSON"),
        ("out", "no result files there"),
    ):
        assert main(["plot", str(tmp_path / given)]) == 2
        assert message in capsys.readouterr().err


def saved(directory, *results):
    directory.mkdir()
    for k, result in enumerate(results):
        result.save(directory / f"{k}.json")
    return str(directory)


@pytest.mark.parametrize("suffix", ["svg", "pdf", "png"])
def test_one_picture_of_what_is_asked_for_is_the_same_bytes_every_time(tmp_path, suffix):
    results = saved(tmp_path / "r", named("a"), named("b"))
    for name in ("1", "2"):
        out = str(tmp_path / f"{name}.{suffix}")
        assert main(["plot", results, "--metric", "linearity", "--modality", "text", "-o", out]) == 0
    assert (tmp_path / f"1.{suffix}").read_bytes() == (tmp_path / f"2.{suffix}").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"r", f"1.{suffix}", f"2.{suffix}"}


def test_a_pdf_holds_no_time_and_whole_fonts(tmp_path):
    assert main(["plot", saved(tmp_path / "r", sample()), "-o", str(tmp_path / "f.pdf")]) == 0
    written = (tmp_path / "f.pdf").read_bytes()
    assert b"CreationDate" not in written and b"/Type3" not in written and b"/FontFile2" in written


def test_a_users_own_settings_of_matplotlib_change_no_byte(tmp_path):
    draw = plots.draw
    draw([sample()], HEADLINES, tmp_path / "1.svg")
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "svg.hashsalt": None}):
        draw([sample()], HEADLINES, tmp_path / "2.svg")
        assert matplotlib.rcParams["font.size"] == 20
    assert (tmp_path / "1.svg").read_bytes() == (tmp_path / "2.svg").read_bytes()


def test_what_does_not_compare_is_refused_in_one_picture(tmp_path, capsys):
    other = sample(protocol=replace(named_protocol("geometry/1"), limit=7))
    results = saved(tmp_path / "r", sample(), other)
    assert main(["plot", results, "-o", str(tmp_path / "f.pdf")]) == 2
    assert "2 kinds that do not compare" in capsys.readouterr().err
    assert main(["plot", f"{results}/0.json", f"{results}/0.json", "-o", str(tmp_path / "f.pdf")]) == 0


def test_what_is_not_there_is_named_with_what_is(tmp_path, capsys):
    results = saved(tmp_path / "r", sample())
    out = ["-o", str(tmp_path / "f.pdf")]
    for options, message in (
        (["--metric", "linearty"], "Did you mean linearity"),
        (["--modality", "imag"], "unknown modality 'imag'"),
        (["--task", "nothing"], "unknown task 'nothing'"),
        (["--metric", "linearity", "--stream", "updat"], "Did you mean update"),
        (["--metric", "anisotropy", "--estimator", "nothing"], "unknown estimator 'nothing'"),
        (["--estimator", "cross_fitted"], "belongs to a metric"),
        (["--format", "svg"], "contradicts"),
        (["-o", str(tmp_path / "f.jpeg")], "drawn as svg, png, pdf"),
        (["-o", str(tmp_path / "f.xyz")], "drawn as svg, png, pdf"),
    ):
        assert main(["plot", results, *out, *options]) == 2, options
        assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("f.*"))


def test_any_estimator_can_be_drawn(tmp_path):
    results = [sample()]
    (hidden, update) = chosen_headlines(results, "linearity", "in_sample")
    assert len(layers_of(results[0], hidden)) == 4 and (hidden.stream, update.stream) == ("hidden", "update")
    (only,) = chosen_headlines(results, "linearity", "in_sample", "update")
    assert only == update
    assert chosen_headlines(results, None, stream="update") == [UPDATE]
    (dimension,) = chosen_headlines(results, "intrinsic_dimension", "twonn_mle")
    assert len(layers_of(results[0], dimension)) == 5
    line = line_of(sample(), "m", update, "text")
    assert line.values == [r.value for r in sample().series("linearity", "in_sample", "update", "text")]


def test_a_strangers_name_is_one_line_of_characters():
    assert shown("a\nb\u202e\x00c\ud800") == "a b c"
    assert shown("_hidden") == " _hidden", "a legend would leave it out"
    assert len(shown("x" * 500)) <= 60 and "…" in shown("x" * 500)


def test_a_stream_without_a_headline_is_drawn_in_the_headline_estimator():
    def change(score):
        return replace(score, stream="mainflow") if score.stream == "update" else score

    (only,) = chosen_headlines([with_scores(sample(), change)], "linearity", stream="mainflow")
    assert (only.estimator, only.stream) == ("cross_fitted", "mainflow")


def test_the_axis_of_linearity_ends_where_that_of_the_report_does(monkeypatch):
    far = with_scores(sample(), lambda s: replace(s, value=-900.0) if (s.metric, s.layer) == ("linearity", 1) else s)
    ends = []
    monkeypatch.setattr(plots, "save", lambda figure, *_: ends.extend(axes.get_ylim()[0] for axes in figure.axes))
    assert plots.draw([far], [LINEARITY], "unused.svg")
    assert len(ends) == 3 and min(ends) > -2
