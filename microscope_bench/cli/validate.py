"""``microscope-bench validate FILE...``: whether result files are whole, valid and unedited."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = subparsers.add_parser(
        "validate",
        help="check result files against the schema and their checksum",
        description="Checks each file against the JSON Schema, the rules between fields, its signature and its "
        "checksum. Prints one line a file. Exit status 1 if one is not valid.",
    )
    parser.add_argument("files", metavar="FILE", nargs="+", help="result files, or directories of them")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Prints one line per file."""
    from microscope_bench.errors import ResultError
    from microscope_bench.results.files import find_results
    from microscope_bench.results.result import COMPLETE, load_result

    bad = 0
    for name in args.files:
        paths = find_results(name) if Path(name).is_dir() else [Path(name)]
        if not paths:
            bad += 1
            print(f"BAD  {name}: holds no result files")
        for path in paths:
            try:
                result = load_result(path)
            except ResultError as error:
                bad += 1
                print(f"BAD  {error}")
            else:
                note = "" if result.status == COMPLETE else " (of a failed run)"
                print(f"ok   {path}: {result.short_id}{note}")
    return 1 if bad else 0
