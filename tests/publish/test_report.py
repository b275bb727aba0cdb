"""The report: its numbers against the file's, its shape, and the verb."""

from __future__ import annotations

import base64
import hashlib
import itertools
import math
import re
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.exceptions import UndefinedError
from msgspec.structs import replace

from microscope_bench.cli.main import main
from microscope_bench.errors import ResultError
from microscope_bench.metrics.core.jackknife import jackknife_stderr
from microscope_bench.metrics.registry import METRICS, headlines
from microscope_bench.protocol import named_protocol
from microscope_bench.publish.depth_lines import PlottedLine, limits_of, panels_figure
from microscope_bench.publish.escape import html_page
from microscope_bench.publish.report import charts
from microscope_bench.publish.report.charts import charts_of
from microscope_bench.publish.report.curves import shown_results
from microscope_bench.publish.report.page import render
from microscope_bench.publish.summary import Summary, plus_minus, summarise
from microscope_bench.results.records import Folds, Score
from microscope_bench.results.replicates import rounded
from microscope_bench.results.result import Result, load_result
from tests.publish.many_layers import big, named
from tests.publish.report_page import figure, read
from tests.results.sample import SAMPLE_FILE, failed, sample, signed, with_scores

COMMITTED = Path(__file__).resolve().parents[2] / "results"
WITH_GAP = COMMITTED / "zoo-llava/sha256-9fd3683a3ee8ad34/scienceqa_img.json"
LINEARITY, UPDATE, DIMENSION, ANISOTROPY = HEADLINES = headlines()


def small(name: str, **changes: Any) -> Result:
    """The same without all but the image tokens and examples: a page of it is soon drawn."""
    return with_scores(named(name, **changes), lambda s: s if (s.modality, s.tokens) == ("image", "all") else None)


def values(score: Score, change: float) -> Score:
    return score if score.value is None else replace(score, value=score.value + change)


@dataclass
class Drawn:
    """One picture of a page: its axes by title, and the legend."""

    axes: dict[str, Any]
    legend: list[str]
    styles: dict[str, dict[str, Any]]


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> list[Drawn]:
    """Gets every picture that a report draws, as matplotlib has it."""
    found: list[Drawn] = []

    def spy(Figure: Any, panels: Any, styles: Any, texts: Any) -> Any:
        figure = panels_figure(Figure, panels, styles, texts)
        axes = {a.get_title(): a for a in figure.axes if a.get_title()}
        found.append(Drawn(axes, [text.get_text() for text in figure.legends[0].get_texts()], dict(styles)))
        return figure

    monkeypatch.setattr(charts, "panels_figure", spy)
    return found


def chart(pictures: list[Drawn], title: str, half: bool = False) -> dict[str, Any]:
    """The axes of a metric's picture by modality."""
    of_metric = [p.axes for p in pictures if any(a.get_ylabel() == title for a in p.axes.values())]
    return of_metric[1 if half else 0]


@pytest.mark.parametrize("headline", HEADLINES, ids=lambda h: h.title)
def test_the_curves_are_the_files_numbers(headline, pictures):
    result = sample()
    metric = charts_of(headline, shown_results([result], 1))
    assert metric.whole.picture.startswith("data:image/svg+xml;base64,")
    for modality in ("text", "image", "joint"):
        assert_drawn(result, headline, modality, chart(pictures, headline.title)[modality])


def assert_drawn(result: Result, headline: Any, modality: str, axes: Any) -> None:
    """The line, its band and its axis are those of the file's scores."""
    rows = {
        row.layer: row
        for row in result.series(headline.metric, headline.estimator, headline.stream, modality)
        if row.value is not None
    }
    line = axes.lines[0]
    between = METRICS.get(headline.metric).between
    places = [(layer + between * 0.5) / 4 for layer in range(4 if between else 5)]
    assert list(line.get_xdata()) == pytest.approx(places)
    drawn = {k: y for k, y in enumerate(line.get_ydata()) if y == y}
    assert drawn == {layer: row.value for layer, row in rows.items()}
    (band,) = axes.collections
    corners = {(x, y) for path in band.get_paths() for x, y in path.vertices}
    for layer, row in rows.items():
        for y in (row.value - row.stderr, row.value + row.stderr):
            assert any(x == pytest.approx(places[layer]) and y == pytest.approx(v) for x, v in corners)
    low, high = axes.get_ylim()
    assert low < min(row.value for row in rows.values()) <= max(row.value for row in rows.values()) < high


def test_a_picture_is_an_svg_that_runs_and_loads_nothing():
    page = read(render([small("<script>alert(1)</script> & $x$")]))
    for image in page.all("img"):
        kind, _, data = (image.attrs["src"] or "").partition(";base64,")
        assert kind == "data:image/svg+xml"
        picture = ElementTree.fromstring(base64.b64decode(data))
        for element in picture.iter():
            assert element.tag.rpartition("}")[2] not in ("script", "foreignObject", "image", "a")
            for name, value in element.attrib.items():
                assert not name.startswith("on")
                assert not name.endswith("href") or value.startswith("#")
        assert any("<script>alert(1)</script> & $x$" in (text or "") for text in picture.itertext())


def test_the_tables_hold_every_layer_and_the_summary_is_the_leaderboards():
    result = small("tiny-llava")
    page = read(render([result]))
    rows = figure(page, ANISOTROPY.title, "image").one("tbody").all("tr")
    scores = result.series("anisotropy", "top_share", None, "image")
    assert [row.text for row in rows] == [f"{s.layer} {plus_minus(s.value, s.stderr)}" for s in scores]
    summary = summarise(result, UPDATE, "image")
    assert isinstance(summary, Summary)
    (table,) = [t for t in page.all("table", class_="summary") if t.one("caption").text == "image"]
    cell = table.one("tbody").all("td")[1].text
    assert cell.startswith(f"mean {plus_minus(summary.mean, summary.mean_stderr)} min ")
    assert f"@ {summary.layer} n = 1,536" in cell


def test_the_gap_is_drawn_where_it_was_measured(pictures):
    assert "modality gap" not in render([sample()])
    result = load_result(WITH_GAP)
    panel = figure(read(render([result])), "modality gap (unit)", "image")
    rows = result.series("modality_gap", "unit", None, "image")
    assert [row.children[1].text for row in panel.one("tbody").all("tr")] == [
        plus_minus(row.value, row.stderr) for row in rows
    ]
    line = chart(pictures, "modality gap (unit)")["image"].lines[0]
    assert list(line.get_ydata()) == [row.value for row in rows]


def test_gaps_of_two_versions_of_the_metric_are_not_in_one_panel():
    result = load_result(WITH_GAP)
    identity = replace(result.identity, metrics={**result.identity.metrics, "modality_gap": 2})
    other = signed(replace(result, identity=identity))
    page = read(render([result, other]))
    for version, key in ((1, "1 "), (2, "2 ")):
        panel = figure(page, f"modality gap (unit), version {version} of the metric", "image")
        assert [head.text[:2] for head in panel.one("thead").all("th")[1:]] == [key]


def test_right_and_wrong_have_panels_where_runs_split_their_scores(pictures):
    page = read(render([sample()]))
    panel = figure(page, LINEARITY.title, "image", half=True)
    assert [head.text.split(" n =")[0] for head in panel.one("thead").all("th")[1:]] == [
        "1 tiny-llava, right",
        "1 tiny-llava, wrong",
    ]
    assert pictures[1].legend == ["1 tiny-llava, right", "1 tiny-llava, wrong"]
    right = sample().series(LINEARITY.metric, LINEARITY.estimator, LINEARITY.stream, "image", "correct")
    assert plus_minus(right[0].value, right[0].stderr) in panel.one("tbody").all("td")[0].text
    assert chart(pictures, LINEARITY.title, half=True)["image"].lines[0].get_ydata()[0] == right[0].value
    plain = with_scores(sample(), lambda s: s if s.tokens in ("all", "no_sinks") else None)
    assert "answered rightly" not in render([plain])


def moved_in_pairs(score: Score) -> Score:
    """All layers moved by less than a standard error; the odd ones by 8 standard errors of the difference."""
    if score.value is None or not score.stderr:
        return score
    noise = score.stderr / 30  # up and down by turns: the difference has a tenth of the score's standard error
    move = (0.8 if score.layer % 2 else 0.08) * score.stderr
    replicates = [r + move + noise * (-1) ** k for k, r in enumerate(score.replicates)]
    stderr = jackknife_stderr(replicates)
    return replace(score, value=score.value + move, stderr=stderr, replicates=rounded(replicates, stderr, 10))


def test_of_two_the_first_is_grey_and_layers_that_differ_in_pairs_are_marked(pictures):
    base, moved = small("base"), with_scores(small("moved"), moved_in_pairs)
    page = read(render([base, moved]))
    assert "base is the baseline" in page.text
    for headline in HEADLINES:
        panel = figure(page, headline.title, "image")
        rows = [s for s in moved.series(headline.metric, headline.estimator, headline.stream, "image") if s.value]
        expected = [s.layer for s in rows if s.layer % 2]
        base_line, moved_line, rings = chart(pictures, headline.title)["image"].lines[:3]
        assert base_line.get_color() == charts.BASELINE != moved_line.get_color()
        depths = list(moved_line.get_xdata())
        assert [depths.index(x) for x in rings.get_xdata()] == expected and rings.get_fillstyle() == "none"
        verdicts = [row.children[0].text for row in panel.one("tbody").all("tr") if row.children[-1].text == "yes"]
        assert verdicts == [str(layer) for layer in expected]
        shown = re.search(r"at layers? ([\d, –]+) \(", panel.one("p", class_="comparison").text)
        assert shown is not None
        assert shown[1].replace(" ", "").split(",") == [str(layer) for layer in expected]
    swapped = read(render([moved, base]))
    assert "moved is the baseline" in swapped.text


def test_equal_results_do_not_differ():
    page = render([small("a"), small("b")])
    assert "differs" not in {cell.attrs.get("class") for cell in read(page).all("td")}
    assert ": differs at" not in page and "no layer differs (0 of 5 compared)" in page


def test_what_does_not_compare_is_not_compared():
    deeper = render([small("a"), small("b", n_layers=5)])
    assert "not compared layer by layer: 4 and 5 blocks" in deeper
    unequal = replace(small("b"), inputs=replace(sample().inputs, folds=Folds(10, "0" * 64)))
    assert "not compared in pairs: the examples have other pictures" in render([small("a"), unequal])
    forged = with_scores(small("b"), lambda s: replace(s, stderr=s.stderr and 2 * s.stderr))
    assert "not compared in pairs: linearity " in render([small("a"), forged])
    three = render([small("a"), small("b"), small("c")])
    assert "baseline" not in read(three).text


def test_warnings_stand_beside_their_curve_and_nowhere_else(pictures):
    def hole(score):
        if (score.metric, score.modality, score.tokens) == ("anisotropy", "image", "all"):
            if score.layer == 1:
                return replace(score, value=None, stderr=None, reason="constant tokens")
            flags = ("few_examples", "odd=0.5", *([f"concentrated=0.{score.layer}1"] if score.layer > 2 else []))
            return replace(score, flags=flags, stderr=None if score.layer == 3 else score.stderr)
        return score

    page = read(render([with_scores(named("a"), hole), named("b"), named("c")]))
    notes = [note.text for note in figure(page, ANISOTROPY.title, "image").all("li")]
    assert "⚠ no value at layer 1: constant tokens (1)" in notes
    assert "⚠ no standard error at layer 3 (1)" in notes
    assert "⚠ flag few_examples at layers 0, 2–4 (1)" in notes, "what it means is said of linearity alone"
    assert "⚠ flag odd = 0.5 at layers 0, 2–4 (1)" in notes
    assert any("5 % of the tokens carry more than half of the variance" in note for note in notes)
    assert "⚠ flag concentrated = 0.31 to 0.41 at layers 3–4 (1)" in notes, "a caution tells its values and where"
    for figure_ in page.all("figure"):
        text = " ".join(note.text for note in figure_.all("li"))
        here = figure_ is figure(page, ANISOTROPY.title, "image")
        assert ("constant tokens" in text) == here
    panel = figure(page, ANISOTROPY.title, "image")
    assert panel.one("tbody").all("tr")[1].all("td")[0].text == "—"
    first = chart(pictures, ANISOTROPY.title)["image"].lines[0].get_ydata()
    assert [k for k, y in enumerate(first) if y != y] == [1], "the hole interrupts the line"


def test_a_missing_layer_is_said():
    gone = with_scores(small("tiny-llava"), lambda s: None if s.metric == "anisotropy" and s.layer == 2 else s)
    panel = figure(read(render([gone])), ANISOTROPY.title, "image")
    assert any("no score of layer 2" in note.text for note in panel.all("li"))
    assert panel.one("tbody").all("tr")[2].text == "2 —"


def test_a_huge_value_does_not_flatten_the_others(pictures):
    def spike(score):
        return replace(score, value=-5000.0) if (score.metric, score.layer) == ("linearity", 1) else score

    panel = figure(read(render([with_scores(small("a"), spike)])), LINEARITY.title, "image")
    axes = chart(pictures, LINEARITY.title)["image"]
    assert axes.get_ylim()[0] > -1
    below = [line for line in axes.lines if line.get_marker() == "v"]
    assert [list(line.get_ydata()) for line in below] == [[axes.get_ylim()[0]]]
    assert any("off the axis" in note.text and "-5000 at layer 1" in note.text for note in panel.all("li"))


@pytest.mark.parametrize("value", [1e308, -1e308, 5e-324, 0.0])
def test_extreme_values_are_drawn_without_a_traceback(value):
    extreme = with_scores(small("a"), lambda s: replace(s, value=value, stderr=abs(value)) if s.layer == 1 else s)
    page = read(render([extreme, extreme]))
    assert len(page.all("img")) >= 4
    for image in page.all("img"):
        svg = base64.b64decode((image.attrs["src"] or "").partition(",")[2])
        assert not re.search(rb"\b(?:nan|inf)\b", svg)


FINITE = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.tuples(FINITE, FINITE.map(abs)), min_size=1, max_size=8))
def test_an_axis_holds_its_values(pairs):
    values, stderrs = ([max(-1e300, min(1e300, x)) for x in column] for column in zip(*pairs, strict=True))
    low, high = limits_of([PlottedLine("m", [0.0] * len(values), values, stderrs)])
    assert math.isfinite(low) and math.isfinite(high) and low < high
    assert all(low <= value <= high for value in values)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.floats(-1000, 1), min_size=1, max_size=8), st.floats(0, 10))
def test_an_axis_with_a_floor_holds_what_is_above_it(values, stderr):
    line = PlottedLine("m", [0.0] * len(values), values, [stderr] * len(values))
    low, high = limits_of([line], floor=-1.0)
    if max(values) > -1:
        # bands of the values that are there may take it a little below
        assert low >= -1 - 3 * (max(values) + 1) - 1
    assert all(low <= value <= high for value in values if value >= -1)


def test_results_that_do_not_compare_have_sections_of_their_own():
    other = sample(protocol=replace(named_protocol("geometry/1"), limit=7), model={"name": "limited"})
    page = read(render([other, small("a"), small("b")]))
    titles = [legend.text for legend in page.all("ul", class_="legend")]
    assert all(("limited" in text) != ("1 a" in text or "2 b" in text or "2 a" in text) for text in titles)
    assert len(set(titles)) == 2


def test_every_result_of_a_section_can_be_told_from_every_other(pictures):
    results = [
        small("m"),
        small("m", dtype="bfloat16"),
        small("m", revision="b" * 40),
        small("m-untrained"),
        small("m", control="noise_image"),
        small("m"),
    ]
    page = read(render(results))
    items = page.all("ul", class_="legend")[0].all("li")
    assert len({item.text for item in items}) == len(results)
    pictures.clear()
    render([small(f"m{k}") for k in range(20)])
    styles = {(style["color"], style["marker"]) for style in pictures[0].styles.values()}
    assert len(styles) == 20, "with more models than colours the markers differ"


def test_the_same_results_give_the_same_bytes():
    results = [small("a"), small("b"), failed(named("c"))]
    assert render(results) == render(results)
    pages = {render(list(order)) for order in itertools.permutations([small("a"), small("b"), small("c")])}
    assert len(pages) == 6, "the order is the reader's choice"


def test_provenance_citation_and_command_are_there():
    result = small("tiny-llava")
    page = read(render([result]))
    article = page.one("article")
    assert result.signature in [code.text for code in article.all("code")]
    assert result.environment.command in [code.text for code in article.all("code")]
    assert f"torch=={result.environment.packages['torch']}" in article.text
    for value in (result.identity.model.revision, result.identity.example_ids_sha256, result.inputs.tokens_sha256):
        assert value is not None and value in article.text
    assert "0.610 ± 0.049 (n = 100)" in article.text


def test_failed_runs_are_named_and_alone_are_an_error():
    page = read(render([small("tiny-llava"), failed(small("broken"))]))
    assert "broken on shapesqa: failed in capture: CaptureError" in page.text
    with pytest.raises(ResultError, match="no complete result"):
        render([failed(small("tiny-llava"))])


def test_it_can_be_read_without_seeing_it():
    page = read(render([small("a"), small("b"), failed(small("c"))]))
    html = page.one("html")
    assert html.attrs["lang"] == "en" and page.one("head").one("title").text
    levels = [int(e.tag[1]) for e in page.every() if re.fullmatch("h[1-6]", e.tag)]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), "no level is left out"
    for table in page.all("table"):
        assert table.one("caption").text
    assert {th.attrs.get("scope") for th in page.all("th")} == {"row", "col"}
    ids = [e.attrs["id"] for e in page.every() if "id" in e.attrs]
    assert len(set(ids)) == len(ids)
    for element in page.every():
        for name in ("href", "aria-labelledby"):
            if name in element.attrs:
                assert (element.attrs[name] or "").removeprefix("#") in ids
    for image in page.all("img"):
        assert "lowest" in (image.attrs["alt"] or "") and "The tables have every value" in (image.attrs["alt"] or "")
    assert all(e.attrs.get("aria-label") for e in page.every() if e.attrs.get("role") == "region")
    assert all(e.all("summary") for e in page.all("details"))


def test_nothing_is_loaded_and_only_our_style_is_applied():
    html = render([small("tiny-llava")])
    page = read(html)
    policy = page.one("meta", http_equiv="Content-Security-Policy").attrs["content"] or ""
    text = html.split("<style>")[1].split("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy and "script-src" not in policy and "<script" not in html
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy
    assert not re.search(r"https?://|url\(|@import", html)
    assert all(
        (e.attrs["src"] or "").startswith("data:image/svg+xml;base64,") for e in page.every() if "src" in e.attrs
    )
    assert not {e.tag for e in page.every()} & {"link", "iframe", "object", "embed", "form", "base", "a:href"}


def test_a_template_that_names_nothing_is_an_error():
    with pytest.raises(UndefinedError):
        html_page("report", {"title": "x"})


def test_the_templates_are_in_the_package():
    folder = resources.files("microscope_bench.publish") / "templates"
    assert {entry.name for entry in folder.iterdir()} >= {
        "report.html",
        "report.css",
        "leaderboard.html",
        "leaderboard.css",
        "leaderboard.js",
    }


def test_a_report_of_ten_models_of_32_blocks_is_small_and_quick():
    results = [big(f"org/some-model-{k}-7b-hf") for k in range(10)]
    start = time.process_time()
    page = render(results)
    assert time.process_time() - start < 15
    assert len(page.encode()) < 3_000_000
    assert page.count("<img ") == 5


def test_the_verb(tmp_path, capsys):
    folder, page = tmp_path / "results", tmp_path / "out" / "page.html"
    for name in ("a", "b"):
        named(name).save(folder / f"{name}.json")
    assert main(["report", str(folder / "b.json"), str(folder), "-o", str(page)]) == 0
    assert capsys.readouterr().out.startswith(f"wrote {page}: 2 results, 0.")
    assert "b is the baseline" in read(page.read_text(encoding="utf-8")).text, "a file named twice is there once"
    before = page.read_bytes()
    assert main(["report", str(folder / "b.json"), str(folder), "-o", str(page)]) == 0
    assert page.read_bytes() == before


def test_the_verb_refuses_what_it_cannot_use(tmp_path, capsys):
    page = tmp_path / "page.html"
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "broken.json"
    broken.write_bytes(SAMPLE_FILE.read_bytes()[:-100])
    for one in (broken, tmp_path / "none.json"):
        assert main(["report", str(SAMPLE_FILE), str(one), "-o", str(page)]) == 2
        assert one.name in capsys.readouterr().err and not page.exists()
    assert main(["report", str(tmp_path / "empty"), "-o", str(page)]) == 2
    assert main(["report", str(SAMPLE_FILE), "-o", str(tmp_path / "empty")]) == 2
    assert "is a directory; name a file" in capsys.readouterr().err
