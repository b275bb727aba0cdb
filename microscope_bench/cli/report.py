"""``microscope-bench report RESULT...``: one HTML page of results."""

from __future__ import annotations

import argparse
from pathlib import Path

from microscope_bench.cli.options import result_paths


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
    from microscope_bench.publish.report.page import render
    from microscope_bench.results.document import write_atomically
    from microscope_bench.results.result_files import each_result

    page = Path(args.output)
    results = [result for _, result in each_result(result_paths(args.results))]
    text = render(results)
    write_atomically(page, text)
    print(f"wrote {page}: {len(results)} result{'' if len(results) == 1 else 's'}, {len(text.encode()) / 1e6:.2f} MB")
    return 0
