"""``microscope-bench leaderboard RESULTS_DIR``: the page of tables, made from result files."""

from __future__ import annotations

import argparse
import difflib
import os
import shlex
import sys
from itertools import islice
from pathlib import Path

_DIFF_LINES = 20


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = subparsers.add_parser(
        "leaderboard",
        help="make leaderboard.md from a directory of results",
        description="Writes the tables of all results below a directory. With --check it writes nothing and says "
        "whether the page is what the results make it (exit status 1 if not).",
    )
    parser.add_argument("results", metavar="RESULTS_DIR", help="directory of result files")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="the page (default: leaderboard.md beside the results directory)"
    )
    parser.add_argument("--check", action="store_true", help="only compare; exit status 1 if the page is stale")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Writes the page, or compares it."""
    from microscope_bench.errors import ResultError
    from microscope_bench.publish.leaderboard import render
    from microscope_bench.results.document import write_atomically
    from microscope_bench.results.files import load_results

    page = Path(args.output) if args.output else Path(args.results).resolve().parent / "leaderboard.md"
    if page.is_dir():
        raise ResultError(f"{page} is a directory; name a file: -o {shlex.quote(str(page / 'leaderboard.md'))}")
    entries = [
        (Path(os.path.relpath(path, page.parent)).as_posix(), result) for path, result in load_results(args.results)
    ]
    text = render(entries)
    if args.check:
        return _check(page, text, args)
    write_atomically(page, text)
    print(f"wrote {page}: {len(entries)} result{'' if len(entries) == 1 else 's'}")
    return 0


def _check(page: Path, text: str, args: argparse.Namespace) -> int:
    there = page.read_text(encoding="utf-8", errors="replace") if page.is_file() else ""
    if there == text:
        print(f"{page} is up to date")
        return 0
    again = shlex.join(["microscope-bench", "leaderboard", args.results, *(["-o", args.output] if args.output else [])])
    what = "is stale" if there else "is missing"
    print(f"{page} {what}; make it again: {again}", file=sys.stderr)
    if there:
        diff = difflib.unified_diff(there.splitlines(), text.splitlines(), "the page", "the results", lineterm="", n=0)
        lines = [line if len(line) <= 160 else f"{line[:157]}..." for line in islice(diff, _DIFF_LINES + 1)]
        print("\n".join([*lines[:_DIFF_LINES], *(["..."] if len(lines) > _DIFF_LINES else [])]), file=sys.stderr)
    return 1
