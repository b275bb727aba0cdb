"""``microscope-bench leaderboard RESULTS_DIR``: the page of tables, or tables for other programs, from result files."""

from __future__ import annotations

import argparse
import difflib
import shlex
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from microscope_bench.errors import ResultError
from microscope_bench.publish.output_forms import LEADERBOARDS
from microscope_bench.system.printable import printable

if TYPE_CHECKING:
    from microscope_bench.results.result import Result

_DIFF_LINES = 20


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describes the verb and its options."""
    parser.description = (
        "Writes the tables of all results below a directory, every form from the same rows. With --check "
        "it writes nothing and says whether the page is what the results make it (exit status 1 if not)."
    )
    parser.add_argument("results", metavar="RESULTS_DIR", help="directory of result files")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="the page (default: leaderboard.md beside the results directory)"
    )
    parser.add_argument(
        "--format",
        choices=list(LEADERBOARDS),
        help="default: what the ending of --output says (.md .html .tex .csv .json), else markdown",
    )
    parser.add_argument("--check", action="store_true", help="only compare; exit status 1 if the page is stale")


def run(args: argparse.Namespace) -> int:
    """Writes the page, or compares it."""
    from microscope_bench.publish.leaderboard.board import board_of_rows
    from microscope_bench.publish.leaderboard.file_rows import rows_of_files
    from microscope_bench.publish.output_forms import render_leaderboard
    from microscope_bench.results.document import check_replaceable, write_atomically
    from microscope_bench.results.result_files import find_results

    paths = find_results(args.results)
    if not paths:  # a page that is there is worth more than one that says nothing
        raise ResultError(f"{args.results}: no result files there, so no page was written")
    by_suffix = {suffix: name for name, suffix in LEADERBOARDS.items()}
    name = args.format or by_suffix.get(Path(args.output or "").suffix.lower(), "markdown")
    beside = Path(args.results).resolve().parent
    page = Path(args.output) if args.output else beside / f"leaderboard{LEADERBOARDS[name]}"
    check_replaceable(page)
    board = board_of_rows(rows_of_files(paths, page.parent))
    text = render_leaderboard(name, board, _fusion_of)
    if args.check:
        return _check(page, text, args)
    write_atomically(page, text)
    n = len(board.hidden) + sum(len(table.rows) for table in board.tables)
    print(f"wrote {page}: {n} result{'' if n == 1 else 's'}")
    return 0


def _fusion_of(result: Result) -> str:
    """The fusion class of a model that this package has by name and that comes from where its preset says; else ""."""
    from microscope_bench.adapters.presets import MODELS

    preset = MODELS.get(result.identity.model.name)
    if preset is None:
        return ""
    return preset.fusion if result.identity.model.repo == preset.args.get("pretrained", preset.name) else ""


def _check(page: Path, text: str, args: argparse.Namespace) -> int:
    there = page.read_text(encoding="utf-8", errors="replace") if page.is_file() else ""
    if there == text:
        print(f"{page} is up to date")
        return 0
    given = (("-o", args.output), ("--format", args.format))
    options = [text for option, value in given if value for text in (option, value)]
    again = shlex.join(["microscope-bench", "leaderboard", args.results, *options])
    what = "is stale" if there else "is missing"
    print(f"{page} {what}; make it again: {again}", file=sys.stderr)
    if there:
        diff = difflib.unified_diff(there.splitlines(), text.splitlines(), "the page", "the results", lineterm="", n=0)
        shown = map(printable, islice(diff, _DIFF_LINES + 1))
        lines = [line if len(line) <= 160 else f"{line[:157]}..." for line in shown]
        print("\n".join([*lines[:_DIFF_LINES], *(["..."] if len(lines) > _DIFF_LINES else [])]), file=sys.stderr)
    return 1
