"""``microscope-bench cite RESULT...``: how to cite results."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from microscope_bench.cli.options import result_paths
from microscope_bench.publish.output_forms import CITATIONS

if TYPE_CHECKING:
    from microscope_bench.publish.grouping import TextOf
    from microscope_bench.results.result import Result


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describes the verb and its options."""
    parser.description = (
        "Prints how to cite results. text: a sentence for a methods section per result, and BibTeX; latex: "
        "tables of the means over layers with their standard errors (booktabs)."
    )
    parser.add_argument("results", metavar="RESULT", nargs="+", help="result files, or directories of them")
    parser.add_argument("--format", choices=CITATIONS, default="text", help="default: text")
    parser.add_argument("--include_path", metavar="DIR", help="directory with further task YAMLs, for whom to cite")


def run(args: argparse.Namespace) -> int:
    """Prints it."""
    from microscope_bench.errors import ResultError
    from microscope_bench.publish.output_forms import render_citation
    from microscope_bench.results.result import FAILED
    from microscope_bench.results.result_files import each_result

    entries = [(path.as_posix(), result) for path, result in each_result(result_paths(args.results))]
    # a directory may hold failed runs beside what there is to cite; one that is named has nothing to cite
    for path, result in entries:
        if result.status == FAILED and path in {Path(name).as_posix() for name in args.results}:
            raise ResultError(f"{path} is of a failed run; there is nothing to cite. Repeat the run")
    complete = [entry for entry in entries if entry[1].status != FAILED]
    if not complete:
        raise ResultError(f"{', '.join(args.results)}: only failed runs; there is nothing to cite")
    print(render_citation(args.format, complete, _citations(args.include_path)), end="")
    return 0


def _citations(include_path: str | None) -> TextOf:
    """Whom to cite, from the task files of this package and of ``include_path``."""
    from microscope_bench.tasks import list_tasks

    known: dict[str, str] = {}
    for task in list_tasks(include_path):  # the first of a name wins
        known.setdefault(task.name, task.citation)

    def citation_of(result: Result) -> str:
        return known.get(result.identity.task.name, "")

    return citation_of
