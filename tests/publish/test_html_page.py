"""leaderboard.html: the rows of leaderboard.md, and nothing live but one script of ours."""

from __future__ import annotations

import base64
import hashlib
import html
import math
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from microscope_bench.metrics.registry import headlines
from microscope_bench.publish.leaderboard.board import Board, board_of
from microscope_bench.publish.leaderboard.html_page import render_html, sparkline
from microscope_bench.publish.leaderboard.markdown_page import render_board
from microscope_bench.results.result_files import each_result, find_results
from tests.publish.hostile import HOSTILE, entries
from tests.publish.html_reader import Page
from tests.publish.small import MODEL_B, nothing, replace_no_sinks
from tests.results.sample import failed, sample, with_scores

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium")


@cache
def committed() -> Board:
    return board_of(
        (path.relative_to(ROOT).as_posix(), result) for path, result in each_result(find_results(ROOT / "results"))
    )


def markdown_rows(page: str) -> list[list[str]]:
    """The cells of all tables of numbers per modality, as words."""
    rows, modality = [], ""
    for line in page.splitlines():
        if line.startswith("#"):
            modality = line.removeprefix("#### ") if line.startswith("#### ") else ""
        elif line.startswith("|") and modality not in ("", "models") and not line.startswith(("| model", "|:--")):
            cells = [cell.strip() for cell in re.sub(r"<sup>\d+</sup>", "", line)[1:-1].split("|")]
            words = [" ".join(html.unescape(cell.replace("<br>", " ").replace("`", "")).split()) for cell in cells]
            rows.append([words[0], modality, *words[1:]])
    return rows


def html_rows(page: str) -> list[list[str]]:
    """The same of the HTML page, without the columns that the other has elsewhere, and without its notes' marks."""
    rows = []
    for table in Page(re.sub(r"<sup>.*?</sup>", "", re.sub(r'<small class="narrow">.*?</small>', "", page))).tables:
        if table[0][1] == "modality":
            rows += [[row[0], row[1], *row[4:]] for row in table[1:]]
    return rows


@pytest.mark.parametrize(
    "board",
    [
        pytest.param(committed, id="committed"),
        pytest.param(lambda: board_of([("a.json", replace_no_sinks(sample(), lambda s: s))]), id="sinks"),
        pytest.param(
            lambda: board_of([("a.json", sample()), ("b.json", MODEL_B), ("c.json", failed(MODEL_B))]), id="two"
        ),
        pytest.param(
            lambda: board_of([("a.json", with_scores(sample(), lambda s: s if s.layer else None))]), id="withheld"
        ),
    ],
)
def test_the_page_holds_the_rows_of_the_markdown_page_and_no_others(board: object) -> None:
    rows = board()  # type: ignore[operator]
    expected = markdown_rows(render_board(rows))
    assert len(expected) > 2
    assert html_rows(render_html(rows, nothing)) == expected


def test_a_changed_number_changes_both() -> None:
    changed = with_scores(sample(), lambda s: s if s.value is None else replace(s, value=s.value * 0.9))
    board, other = board_of([("a.json", sample())]), board_of([("a.json", changed)])
    assert (
        html_rows(render_html(board, nothing))
        != html_rows(render_html(other, nothing))
        == markdown_rows(render_board(other))
    )


def test_the_same_rows_give_the_same_bytes_in_any_order() -> None:
    given_rows = [("a.json", sample()), ("b.json", MODEL_B)]
    assert render_html(board_of(given_rows), nothing) == render_html(board_of(reversed(given_rows)), nothing)


def test_the_policy_lets_one_script_and_one_style_through_and_loads_nothing() -> None:
    text = render_html(committed(), nothing)
    page = Page(text)
    assert len(page.scripts) == len(page.styles) == 1
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', text).group(1))  # type: ignore[union-attr]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    for rule, content in (("script-src", page.scripts[0]), ("style-src", page.styles[0])):
        assert rules[rule] == f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
    assert set(rules) == {"default-src", "base-uri", "form-action", "script-src", "style-src"}
    assert all(link.startswith(("./", "#")) for link in page.links), "nothing from elsewhere"
    assert not {"img", "iframe", "link", "object", "embed", "base"} & set(page.tags)
    assert not page.events and not page.open
    targets = {link[1:] for link in page.links if link.startswith("#")}
    assert targets <= set(page.ids) and len(page.ids) == len(set(page.ids))


PLAIN = Page(render_html(board_of(entries("plain")), nothing))


def structure(page: Page) -> list[str]:
    """Tags without the choices of the filters, whose number hangs on how many names differ."""
    return [tag for tag in page.tags if tag not in ("option", "select", "label")]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_and_reasons_are_text(text: str) -> None:
    page = Page(render_html(board_of(entries(text)), lambda _: text))
    assert structure(page) == structure(PLAIN)
    assert page.scripts == PLAIN.scripts and not page.events
    assert all(link.startswith(("./", "#")) for link in page.links), page.links


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.text(
        alphabet=st.sampled_from("<>&;\"'`=/\\{}%#!-[]()+\0\n\u2028\u202e x1scriptonload:"), min_size=1, max_size=16
    )
)
def test_any_text_keeps_the_structure(text: str) -> None:
    page = Page(render_html(board_of(entries("x" + text + "x")), nothing))
    assert structure(page) == structure(PLAIN)
    assert page.scripts == PLAIN.scripts and not page.events


def test_it_is_a_table_without_script_and_with_a_keyboard() -> None:
    text = render_html(committed(), nothing)
    assert '<form id="filters" hidden>' in text, "what needs the script is not there without it"
    assert '<html lang="en">' in text and text.count("<h1>") == 1
    assert text.count('class="scroll" role="region"') == text.count('tabindex="0"') > 0
    assert text.count("<label>") == text.count("<select") + text.count("<input")
    assert text.count("<svg") == text.count('role="img"') == text.count("<svg viewBox") > 100
    assert all("<title>" in part[:200] for part in text.split("<svg")[1:])


def test_a_curve_has_a_point_per_layer_and_a_gap_where_there_is_no_value() -> None:
    drawn = sparkline([(0, 1.0), (1, 3.0), (2, None), (3, 2.0)])
    assert drawn is not None
    first, second = ([tuple(map(float, point.split(","))) for point in line.split()] for line in drawn["lines"])
    assert first == [(2.0, 20.0), (pytest.approx(2 + 92 / 3, abs=0.06), 2.0)], (
        "the lowest at the bottom, the first left"
    )
    assert second == [(94.0, 11.0), (94.0, 11.0)], "half way up, at the right end; one point is a dot"
    assert drawn["title"] == "layers 0–1, 3: 1 to 2; lowest 1, highest 3"
    assert sparkline([(0, None)]) is None


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)), max_size=9))
def test_every_point_of_a_curve_lies_in_its_box(values: list[float | None]) -> None:
    drawn = sparkline(list(enumerate(values)))
    points = [
        float(n) for line in (drawn or {"lines": []})["lines"] for point in line.split() for n in point.split(",")
    ]
    assert all(math.isfinite(n) and 0 <= n <= 96 for n in points)
    assert all(0 <= y <= 22 for y in points[1::2])


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("hostile", [False, True])
def test_a_browser_runs_our_script_and_no_other(tmp_path: Path, hostile: bool) -> None:
    board = board_of(entries('"><script>document.title="owned"</script><img src=x onerror="document.title=1">'))
    file = tmp_path / "leaderboard.html"
    file.write_text(render_html(board if hostile else committed(), nothing), encoding="utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    options = ["--enable-logging=stderr", "--virtual-time-budget=2000", "--dump-dom", file.as_uri()]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120, check=True)
    dom = done.stdout
    assert "<title>Leaderboard: the geometry inside multimodal LLMs</title>" in dom
    assert "CONSOLE" not in done.stderr, "no error, and nothing that the policy had to refuse"
    assert '<form id="filters">' in dom, "our script ran"
    n_rows = sum(len(row.lines) for table in (board if hostile else committed()).tables for row in table.rows)
    assert f"{n_rows} of {n_rows} rows</output>" in dom
    assert dom.count('<button type="button" title="sort by ') == dom.count('<table class="geometry">') * (
        7 + len(headlines())
    )


ACTIONS = """
const choose = document.querySelector('select[name="modality"]');
choose.value = "image";
choose.dispatchEvent(new Event("input", {bubbles: true}));
const table = document.querySelector("table.geometry");
const head = Array.from(table.tHead.rows[0].cells).find((cell) => cell.textContent === "anisotropy");
head.firstElementChild.click();
head.firstElementChild.click();
"""


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_filters_and_sorts(tmp_path: Path) -> None:
    text = render_html(committed(), nothing)
    # the policy lets no other script run, so it is taken out here
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    file = tmp_path / "leaderboard.html"
    file.write_text(text.replace("</body>", f"<script>{ACTIONS}</script></body>"), encoding="utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    options = ["--virtual-time-budget=2000", "--dump-dom", file.as_uri()]
    dom = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120, check=True).stdout
    rows = re.findall(r'<tr data-task[^>]*data-modality="(\w+)"([^>]*)>(.*?)</tr>', dom, re.DOTALL)
    assert {modality for modality, rest, _ in rows if "hidden" not in rest} == {"image"}
    assert {modality for modality, rest, _ in rows if "hidden" in rest} == {"text", "joint"}
    first = dom[dom.index('<table class="geometry">') : dom.index("</table>")]
    assert first.count('aria-sort="descending"') == 1 == first.count("aria-sort=")
    values = [
        [float(value) for value in re.findall(r'<td class="number" data-value="([^"]+)"', body)][3]
        for _, _, body in re.findall(r'<tr data-task[^>]*data-modality="(\w+)"([^>]*)>(.*?)</tr>', first, re.DOTALL)
    ]
    assert values == sorted(values, reverse=True) and len(set(values)) > 10
