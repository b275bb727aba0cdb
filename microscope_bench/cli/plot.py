"""``microscope-bench plot RESULTS_DIR``: a picture per headline metric."""

from __future__ import annotations

import argparse
from pathlib import Path

from microscope_bench.publish.plots import FORMATS
from microscope_bench.results.records import TOKEN_SETS


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = subparsers.add_parser(
        "plot",
        help="draw the headline metrics over depth",
        description="Draws linearity, intrinsic dimension and anisotropy of all results below a directory: one picture "
        "per task and metric, one line per model over relative depth, one panel per modality.",
    )
    parser.add_argument("results", metavar="RESULTS_DIR", help="directory of result files")
    parser.add_argument("-o", "--output", metavar="DIR", default="plots", help="where to (default: plots)")
    parser.add_argument("--format", choices=FORMATS, default="svg", help="default: svg")
    parser.add_argument("--tokens", choices=TOKEN_SETS, default="all", help="token set (default: all)")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Draws and says what was drawn."""
    from microscope_bench.errors import ResultError
    from microscope_bench.publish.plots import draw_all
    from microscope_bench.results.files import load_results

    results = [result for _, result in load_results(args.results)]
    if not results:
        raise ResultError(f"{args.results} holds no result files")
    try:
        written = draw_all(results, Path(args.output), file_format=args.format, tokens=args.tokens)
    except OSError as error:
        raise ResultError(f"{args.output} cannot be written ({error.strerror or error})") from error
    for path in written:
        print(f"wrote {path}")
    return 0
