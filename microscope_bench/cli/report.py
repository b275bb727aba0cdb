"""``microscope-bench report RESULT...``: one HTML page of results."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from microscope_bench.cli.options import result_paths

if TYPE_CHECKING:
    from microscope_bench.results.result import Result


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describes the verb and its options."""
    parser.description = (
        "Writes one HTML file that opens without a network: the headline metrics over depth, the gap "
        "between modalities where it was measured, summary and per-layer tables, warnings beside the curve they "
        "concern, provenance, how to cite and how to reproduce. Results show in the order in which they are named, a "
        "directory's by path. Of two that compare the first is the baseline."
    )
    parser.add_argument("results", metavar="RESULT", nargs="+", help="result files, or directories of them")
    parser.add_argument("-o", "--output", metavar="FILE", default="report.html", help="the page (default: report.html)")


def run(args: argparse.Namespace) -> int:
    """Writes the page."""
    from microscope_bench.errors import ResultError
    from microscope_bench.publish.report.page import render
    from microscope_bench.results.document import write_atomically

    page = Path(args.output)
    if page.is_dir():
        raise ResultError(f"{page} is a directory; name a file: -o {shlex.quote(str(page / 'report.html'))}")
    results = _load(args.results)
    text = render(results)
    write_atomically(page, text)
    print(f"wrote {page}: {len(results)} result{'' if len(results) == 1 else 's'}, {len(text.encode()) / 1e6:.2f} MB")
    return 0


def _load(named: list[str]) -> list[Result]:
    """The results in the order of their names, a file named twice once."""
    from microscope_bench.errors import ResultError
    from microscope_bench.results.result import load_result

    loaded, broken = [], []
    for path in result_paths(named):
        try:
            loaded.append(load_result(path))
        except ResultError as error:
            broken.append(str(error))
    if broken:
        raise ResultError("\n".join([f"no report was written, {len(broken)} of the inputs cannot be used:", *broken]))
    return loaded
