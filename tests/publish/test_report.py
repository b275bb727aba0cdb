"""The report: its numbers against the file's, its shape, and the verb."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import time
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
from jinja2.exceptions import UndefinedError

from microscope_bench.cli.main import main
from microscope_bench.errors import ResultError
from microscope_bench.metrics.registry import METRICS, headlines
from microscope_bench.protocol import named_protocol
from microscope_bench.publish.escape import html_page
from microscope_bench.publish.report.page import render
from microscope_bench.publish.summary import Summary, plus_minus, summarise
from microscope_bench.results.result import Score, load_result
from tests.publish.many_layers import big, named
from tests.publish.report_page import Element, figure, read
from tests.results.sample import SAMPLE_FILE, failed, sample, with_scores

COMMITTED = Path(__file__).resolve().parents[2] / "results"
WITH_GAP = COMMITTED / "zoo-llava/sha256-9fd3683a3ee8ad34/scienceqa_img.json"
LINEARITY, UPDATE, DIMENSION, ANISOTROPY = HEADLINES = headlines()


def values(score: Score, change: float) -> Score:
    return score if score.value is None else replace(score, value=score.value + change)


def marks(panel: Element, curve: int) -> list[Element]:
    return [use for use in panel.all("g", class_="curve")[curve].all("use") if use.attrs.get("class") != "ring"]


def reading(panel: Element) -> tuple[list[float], list[float]]:
    """(pixels, values) of the ticks of the vertical axis, as written."""
    axis = panel.one("g", class_="axis")
    texts = [t for t in axis.all("text") if t.attrs.get("text-anchor") == "end"]
    return [float(t.attrs["y"] or "") for t in texts], [float(t.text.replace("−", "-")) for t in texts]


def read_off(panel: Element, y: float) -> float:
    """The value at a height, as a reader with a ruler finds it from the lowest and the highest tick."""
    places, ticks = reading(panel)
    return ticks[0] + (y - places[0]) / (places[-1] - places[0]) * (ticks[-1] - ticks[0])


@pytest.mark.parametrize("headline", HEADLINES, ids=lambda h: h.title)
@pytest.mark.parametrize("modality", ["text", "image", "joint"])
def test_a_ruler_reads_the_files_numbers_off_the_curves(headline, modality):
    result = sample()
    panel = figure(read(render([result])), headline.title, modality)
    rows = [
        row
        for row in result.series(headline.metric, headline.estimator, headline.stream, modality)
        if row.value is not None and not any("unmatched_n" in flag for flag in row.flags)
    ]
    places, ticks = reading(panel)
    pixel = abs((ticks[-1] - ticks[0]) / (places[-1] - places[0]))
    assert [float(m.attrs["y"] or "") for m in marks(panel, 0)], "there are marks"
    for mark, row in zip(marks(panel, 0), rows, strict=True):
        assert read_off(panel, float(mark.attrs["y"] or "")) == pytest.approx(row.value, abs=0.06 * pixel)
        share = (float(mark.attrs["x"] or "") - 42) / (380 - 42 - 112)
        assert share == pytest.approx((row.layer + METRICS.get(headline.metric).between * 0.5) / 4, abs=0.001)
        words = mark.one("title").text
        n = f"(n = {row.n_tokens:,}; {row.n_examples:,} examples)"
        assert words.startswith(f"1, layer {row.layer}: {plus_minus(row.value, row.stderr)} {n}")
    (band,) = panel.all("path", class_="band")
    corners = [float(pair.split()[1]) for pair in re.findall(r"[\d.-]+ [\d.-]+", band.attrs["d"] or "")]
    high = [read_off(panel, y) for y in corners[: len(rows)]]
    low = [read_off(panel, y) for y in corners[len(rows) :]][::-1]
    for row, top, bottom in zip(rows, high, low, strict=True):
        assert top == pytest.approx(row.value + row.stderr, abs=0.06 * pixel)
        assert bottom == pytest.approx(row.value - row.stderr, abs=0.06 * pixel)


def test_the_tables_hold_every_layer_and_the_summary_is_the_leaderboards():
    result = sample()
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


def test_the_gap_is_drawn_where_it_was_measured():
    assert "modality gap" not in render([sample()])
    result = load_result(WITH_GAP)
    panel = figure(read(render([result])), "modality gap (unit)", "image")
    rows = result.series("modality_gap", "unit", None, "image")
    assert [m.one("title").text.split(": ")[1].split(" (")[0] for m in marks(panel, 0)] == [
        plus_minus(row.value, row.stderr) for row in rows
    ]


def test_gaps_of_two_versions_of_the_metric_are_not_in_one_panel():
    result = load_result(WITH_GAP)
    other = replace(
        result,
        identity=replace(result.identity, metrics={**result.identity.metrics, "modality_gap": 2}),
        signature="",
    )
    page = read(render([result, other]))
    for version, key in ((1, "1 "), (2, "2 ")):
        panel = figure(page, f"modality gap (unit), version {version} of the metric", "image")
        assert [label.text[:2] for label in panel.all("text", class_="label")] == [key]


def test_right_and_wrong_have_panels_where_runs_split_their_scores():
    page = read(render([sample()]))
    panel = figure(page, LINEARITY.title, "image", half=True)
    assert [curve.attrs["aria-label"] for curve in panel.all("g", class_="curve")] == [
        "tiny-llava, right",
        "tiny-llava, wrong",
    ]
    assert [label.text[:7] for label in panel.all("text", class_="label")] == ["1 right", "1 wrong"]
    right = sample().series(LINEARITY.metric, LINEARITY.estimator, LINEARITY.stream, "image", "correct")
    assert plus_minus(right[0].value, right[0].stderr) in marks(panel, 0)[0].one("title").text
    plain = with_scores(sample(), lambda s: s if s.tokens in ("all", "no_sinks") else None)
    assert "answered rightly" not in render([plain])


def test_of_two_the_first_is_grey_and_differences_beyond_both_errors_are_marked():
    base, moved = (
        named("base"),
        with_scores(
            named("moved"),
            # half of the layers move by a little more than both errors, the others by a little less
            lambda s: values(s, (1.01 if s.layer % 2 else 0.99) * 2 * (s.stderr or 0)),
        ),
    )
    page = read(render([base, moved]))
    assert "base is the baseline" in page.text
    for headline in HEADLINES:
        panel = figure(page, headline.title, "image")
        curves = panel.all("g", class_="curve")
        assert [curve.attrs["class"] for curve in curves] == ["curve base", "curve c0"]
        assert not curves[0].all("use", class_="ring")
        rows = [s for s in moved.series(headline.metric, headline.estimator, headline.stream, "image") if s.value]
        expected = [s.layer for s in rows if s.layer % 2]
        titles = [mark.one("title").text for mark in marks(panel, 1)]
        assert [int(t.split("layer ")[1].split(":")[0]) for t in titles if t.endswith("; differs")] == expected
        assert len(curves[1].all("use", class_="ring")) == len(expected)
        verdicts = [row.children[0].text for row in panel.one("tbody").all("tr") if row.children[-1].text == "yes"]
        assert verdicts == [str(layer) for layer in expected]
        shown = re.search(r"at layers? ([\d, –]+) \(", panel.one("p", class_="comparison").text)
        assert shown is not None
        assert shown[1].replace(" ", "").split(",") == [str(layer) for layer in expected]
    swapped = read(render([moved, base]))
    assert "moved is the baseline" in swapped.text


def test_equal_results_do_not_differ():
    page = render([named("a"), named("b")])
    assert "differs" not in {cell.attrs.get("class") for cell in read(page).all("td")}
    assert "beyond both standard errors at" not in page


def test_what_does_not_compare_is_not_compared():
    def other_n(score):
        return replace(score, n_tokens=score.n_tokens + 1) if score.metric == "intrinsic_dimension" else score

    page = read(render([named("a"), with_scores(named("b"), lambda s: values(other_n(s), 9.0))]))
    said = figure(page, DIMENSION.title, "image").one("p", class_="comparison").text
    assert "0 of 0 compared" in said and "layers 0–4 not compared" in said
    deeper = render([named("a"), named("b", n_layers=5)])
    assert "not compared layer by layer: 4 and 5 blocks" in deeper
    three = render([named("a"), named("b"), named("c")])
    assert "baseline" not in read(three).text


def test_warnings_stand_beside_their_curve_and_nowhere_else():
    def hole(score):
        if (score.metric, score.modality, score.tokens) == ("anisotropy", "image", "all"):
            if score.layer == 1:
                return replace(score, value=None, stderr=None, reason="constant tokens")
            return replace(score, flags=("few_examples", "odd=0.5"), stderr=None if score.layer == 3 else score.stderr)
        return score

    page = read(render([with_scores(named("a"), hole), named("b"), named("c")]))
    notes = [note.text for note in figure(page, ANISOTROPY.title, "image").all("li")]
    assert "⚠ no value at layer 1: constant tokens (1)" in notes
    assert "⚠ no standard error at layer 3 (1)" in notes
    assert any("fewer than 4 examples per dimension" in note and note.endswith("(1)") for note in notes)
    assert "⚠ flag odd = 0.5 at layers 0, 2–4 (1)" in notes
    for figure_ in page.all("figure"):
        text = " ".join(note.text for note in figure_.all("li"))
        here = figure_ is figure(page, ANISOTROPY.title, "image")
        assert ("constant tokens" in text) == here
    panel = figure(page, ANISOTROPY.title, "image")
    assert panel.one("tbody").all("tr")[1].all("td")[0].text == "—"
    line = panel.all("path", class_="line")[0].attrs["d"] or ""
    assert line.count("M") == 1 and line.count("L") == 2, "the hole interrupts the line: 0 alone, 2 to 4 joined"
    assert len(marks(panel, 0)) == 4


def test_a_missing_layer_is_said():
    gone = with_scores(sample(), lambda s: None if s.metric == "anisotropy" and s.layer == 2 else s)
    panel = figure(read(render([gone])), ANISOTROPY.title, "image")
    assert any("no score of layer 2" in note.text for note in panel.all("li"))
    assert panel.one("tbody").all("tr")[2].text == "2 —"


def test_a_huge_value_does_not_flatten_the_others():
    def spike(score):
        return replace(score, value=-5000.0) if (score.metric, score.layer) == ("linearity", 1) else score

    panel = figure(read(render([with_scores(sample(), spike)])), LINEARITY.title, "image")
    assert reading(panel)[1][0] == -1.0
    below = [m for m in marks(panel, 0) if m.attrs["href"] == "#below"]
    assert len(below) == 1 and "layer 1: -5000" in below[0].one("title").text
    assert any("off the axis" in note.text and "-5000 at layer 1" in note.text for note in panel.all("li"))


@pytest.mark.parametrize("value", [1e308, -1e308, 5e-324, 0.0])
def test_extreme_values_are_drawn_without_a_traceback(value):
    extreme = with_scores(sample(), lambda s: replace(s, value=value, stderr=abs(value)) if s.layer == 1 else s)
    page = render([extreme, extreme])
    assert page.count("<svg") > 10
    assert not re.search(r' (?:x|y|d|viewBox|height)="[^"]*(?:inf|nan|e[+-])', page)


def test_results_that_do_not_compare_have_sections_of_their_own():
    other = sample(protocol=replace(named_protocol("geometry/1"), limit=7), model={"name": "limited"})
    page = read(render([other, named("a"), named("b")]))
    titles = [legend.text for legend in page.all("ul", class_="legend")]
    assert all(("limited" in text) != ("1 a" in text or "2 b" in text or "2 a" in text) for text in titles)
    assert len(set(titles)) == 2


def test_every_result_of_a_section_can_be_told_from_every_other():
    results = [
        named("m"),
        named("m", dtype="bfloat16"),
        named("m", revision="b" * 40),
        named("m-untrained"),
        named("m", control="noise_image"),
        named("m"),
    ]
    page = read(render(results))
    items = page.all("ul", class_="legend")[0].all("li")
    assert len({item.text for item in items}) == len(results)
    many = read(render([named(f"m{k}") for k in range(20)])).all("ul", class_="legend")[0].all("li")
    styles = {(i.one("svg").attrs["class"], i.one("use").attrs["href"]) for i in many}
    assert len(styles) == 20, "with more models than colours the markers differ"


def test_the_same_results_give_the_same_bytes():
    results = [sample(), named("b"), failed(named("c"))]
    assert render(results) == render(results)
    pages = {render(list(order)) for order in itertools.permutations([named("a"), named("b"), named("c")])}
    assert len(pages) == 6, "the order is the reader's choice"


def test_provenance_citation_and_command_are_there():
    result = sample()
    page = read(render([result]))
    article = page.one("article")
    assert result.signature in [code.text for code in article.all("code")]
    assert result.environment.command in [code.text for code in article.all("code")]
    assert f"torch=={result.environment.packages['torch']}" in article.text
    for value in (result.identity.model.revision, result.identity.example_ids_sha256, result.inputs.tokens_sha256):
        assert value is not None and value in article.text
    assert "0.610 ± 0.049 (n = 100)" in article.text


def test_failed_runs_are_named_and_alone_are_an_error():
    page = read(render([sample(), failed(named("broken"))]))
    assert "broken on shapesqa: failed in capture: CaptureError" in page.text
    with pytest.raises(ResultError, match="no complete result"):
        render([failed(sample())])


def test_it_can_be_read_without_seeing_it():
    page = read(render([named("a"), named("b"), failed(named("c"))]))
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
    for svg in page.all("svg"):
        if svg.attrs.get("class") == "panel":
            assert "lowest" in (svg.attrs["aria-label"] or "") and svg.attrs["role"] == "group"
    assert all(e.attrs.get("aria-label") for e in page.every() if e.attrs.get("role") == "region")
    assert all(e.all("summary") for e in page.all("details"))


def test_nothing_is_loaded_and_only_our_script_and_style_may_run():
    html = render([sample()])
    page = read(html)
    policy = page.one("meta", http_equiv="Content-Security-Policy").attrs["content"] or ""
    for tag in ("style", "script"):
        text = html.split(f"<{tag}>")[1].split(f"</{tag}>")[0]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy
    assert not re.search(r"https?://|url\(|@import|src=", html)
    assert not {e.tag for e in page.every()} & {"link", "img", "iframe", "object", "embed", "form", "base", "a:href"}


def test_a_template_that_names_nothing_is_an_error():
    with pytest.raises(UndefinedError):
        html_page("report", {"title": "x"})


def test_the_templates_are_in_the_package():
    folder = resources.files("microscope_bench.publish") / "templates"
    assert {entry.name for entry in folder.iterdir()} >= {"report.html", "report.css", "report.js"}


def test_a_report_of_ten_models_of_32_blocks_is_small_and_quick():
    results = [big(f"org/some-model-{k}-7b-hf") for k in range(10)]
    start = time.perf_counter()
    page = render(results)
    assert time.perf_counter() - start < 15
    assert len(page.encode()) < 2_000_000
    assert page.count("<use ") > 8_000


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
    assert main(["report", str(SAMPLE_FILE), str(broken), str(tmp_path / "none.json"), "-o", str(page)]) == 2
    said = capsys.readouterr().err
    assert "broken.json" in said and "none.json" in said and not page.exists()
    assert main(["report", str(tmp_path / "empty"), "-o", str(page)]) == 2
    assert main(["report", str(SAMPLE_FILE), "-o", str(tmp_path / "empty")]) == 2
    assert "is a directory; name a file" in capsys.readouterr().err
