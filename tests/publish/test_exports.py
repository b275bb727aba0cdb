"""CSV, JSON and LaTeX say the numbers of the result files, and hostile names stay text there too."""

from __future__ import annotations

import csv
import io
import json
import re
import statistics
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from microscope_bench.cli.leaderboard import _fusion_of
from microscope_bench.cli.main import main
from microscope_bench.publish.escape import latex
from microscope_bench.publish.leaderboard.board import board_of
from microscope_bench.publish.leaderboard.csv_json import records, to_csv, to_json
from microscope_bench.publish.leaderboard.latex_tables import latex_tables
from microscope_bench.publish.output_forms import LEADERBOARDS, render_leaderboard
from microscope_bench.results.replicates import stderr_of_sum
from microscope_bench.results.result_files import result_path
from tests.publish.hostile import HOSTILE, entries
from tests.publish.small import MODEL_B, nothing
from tests.results.sample import failed, sample, with_scores

FORMULAS = ["=HYPERLINK(1)", "+1", "-1+1", "@SUM(A1)", '=cmd|" /C calc"!A0']


def test_records_are_the_scores_of_the_file() -> None:
    result = sample()
    board = board_of([("a.json", result), ("b.json", failed(MODEL_B))])
    found = [
        r
        for r in records(board, nothing)
        if (r["metric"], r["stream"], r["modality"], r["tokens"]) == ("linearity", "update", "image", "all")
    ]
    (record,) = found
    rows = result.series("linearity", "cross_fitted", "update", "image")
    assert record["mean"] == pytest.approx(statistics.fmean(row.value or 0 for row in rows), rel=1e-14)
    assert record["mean_stderr"] == pytest.approx(stderr_of_sum(rows, [1 / len(rows)] * len(rows)), rel=1e-14)
    lowest = min(rows, key=lambda row: row.value or 0)
    assert (record["extreme"], record["extreme_stderr"], record["extreme_layer"]) == (
        lowest.value,
        lowest.stderr,
        lowest.layer,
    )
    assert record["signature"] == result.signature and record["path"] == "a.json"


def test_a_record_has_the_fewest_and_the_most_tokens_of_a_layer() -> None:
    result = sample()
    (record,) = [
        r
        for r in records(board_of([("a.json", result)]), nothing)
        if (r["metric"], r["modality"], r["tokens"]) == ("intrinsic_dimension", "text", "all")
    ]
    n = [row.n_tokens for row in result.series("intrinsic_dimension", record["estimator"], None, "text")]
    assert min(n) < max(n)
    assert (record["n_min"], record["n_max"]) == (min(n), max(n))


def test_a_record_counts_examples_apart_from_tokens() -> None:
    counted = with_scores(sample(), lambda s: replace(s, n_tokens=700 + s.layer, n_examples=30 + s.layer))
    (record,) = [
        r
        for r in records(board_of([("a.json", counted)]), nothing)
        if (r["metric"], r["modality"], r["tokens"]) == ("anisotropy", "image", "all")
    ]
    assert (record["n_tokens_min"], record["n_tokens_max"]) == (700, 704)
    assert (record["n_examples_min"], record["n_examples_max"]) == (30, 34)


def test_csv_and_json_hold_the_same_records() -> None:
    board = board_of([("a.json", sample()), ("b.json", MODEL_B), ("c.json", failed(MODEL_B))])
    document = json.loads(to_json(board, lambda _: "projector"))
    rows = list(csv.DictReader(io.StringIO(to_csv(board, lambda _: "projector"))))
    assert len(rows) == len(document["rows"]) == len(list(records(board, nothing))) > 20
    for row, record in zip(rows, document["rows"], strict=True):
        assert row == {name: "" if value is None else str(value) for name, value in record.items()}
    assert {row["fusion"] for row in rows} == {"projector"}
    assert [(h["path"], h["reason"][:6]) for h in document["not_shown"]] == [("c.json", "failed")]


def test_a_withheld_number_is_empty_with_its_reason() -> None:
    partial = with_scores(sample(), lambda s: s if (s.metric, s.layer) != ("anisotropy", 2) else None)
    found = [r for r in records(board_of([("a.json", partial)]), nothing) if r["metric"] == "anisotropy"]
    assert all(r["mean"] is r["extreme"] is None and "no scores of layers 2" in r["reason"] for r in found)


@pytest.mark.parametrize("text", FORMULAS)
def test_no_spreadsheet_runs_a_name(text: str) -> None:
    rows = list(csv.reader(io.StringIO(to_csv(board_of([("a.json", sample(model={"name": text}))]), nothing))))
    assert not [cell for row in rows for cell in row if cell[:1] in tuple("=+@") or cell.startswith("-1+")]


@pytest.mark.parametrize("text", [*HOSTILE, *FORMULAS, 'a,b"c\nd', "\\input{/etc/passwd} $x$ % & # _ ^ ~ {"])
def test_hostile_text_is_text(text: str) -> None:
    board = board_of([(path, result) for path, result in entries(text)])
    assert {len(row) for row in csv.reader(io.StringIO(to_csv(board, nothing)))} == {len(next(records(board, nothing)))}
    json.loads(to_json(board, nothing))
    assert tokens(latex_tables(board.tables)) == tokens(latex_tables(board_of(entries("plain")).tables))


def tokens(source: str) -> list[str]:
    """The commands of a LaTeX source that do something, comments left out."""
    code = re.sub(r"(?<!\\)%.*", "", source)
    shown = r"\\(text(backslash|brace(left|right)|ascii(tilde|circum)|bar|less|greater|quotedbl)|[%&#_$])(\{\})?"
    return re.findall(r"\\[A-Za-z]+|(?<!\\)[&#^]", re.sub(shown, "", code.replace(r"$\pm$", "").replace("$^2$", "")))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(alphabet=st.sampled_from('\\{}$%&#_^~|<>"ab \n±²'), max_size=20))
def test_latex_is_balanced_and_on_one_line(text: str) -> None:
    escaped = latex(text)
    assert escaped.count("{") == escaped.count("}") and "\n" not in escaped
    bare = re.sub(r"\\text[a-z]+\{\}|\\[%&#_$]|\$\\pm\$|\$\^2\$", "", escaped)
    assert not set(bare) & set("\\{}$%&#_^~")


def test_each_format_by_the_ending_of_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "results"
    for result in (sample(), MODEL_B):
        result.save(result_path(root, result))
    board = board_of(
        (path.relative_to(tmp_path).as_posix(), result)
        for path, result in ((result_path(root, r), r) for r in (sample(), MODEL_B))
    )
    for name, suffix in LEADERBOARDS.items():
        page = tmp_path / f"page{suffix}"
        assert main(["leaderboard", str(root), "-o", str(page)]) == 0
        assert page.read_text(encoding="utf-8") == render_leaderboard(name, board, nothing)
        assert main(["leaderboard", str(root), "-o", str(page), "--check"]) == 0
        assert main(["leaderboard", str(root), "--format", name]) == 0
        assert (tmp_path / f"leaderboard{suffix}").read_text(encoding="utf-8") == page.read_text(encoding="utf-8")
        (tmp_path / f"leaderboard{suffix}").write_text("old")
        assert main(["leaderboard", str(root), "--format", name, "--check"]) == 1
        assert f"--format {name}" in capsys.readouterr().err


def test_the_fusion_class_of_a_model_known_by_name_and_origin() -> None:
    zoo = sample(model={"name": "zoo-qformer", "repo": "zoo-qformer"})
    published = sample(model={"name": "blip2-opt-2.7b", "repo": "Salesforce/blip2-opt-2.7b"})
    assert _fusion_of(zoo) == _fusion_of(published) == "qformer"
    assert _fusion_of(sample(model={"name": "zoo-qformer", "repo": "somebody/zoo-qformer"})) == ""
    assert _fusion_of(replace(sample(model={"name": "nobody"}))) == ""


def test_what_turns_the_direction_of_writing_reaches_no_form() -> None:
    board = board_of([("a.json", sample(model={"name": "good\u202eevil\nx"}))])
    assert "good evil" in to_csv(board, nothing) and "good evil" in to_json(board, nothing)
