"""``microscope-bench measure STORE``: measure a kept token store again, without the model."""

from __future__ import annotations

import argparse

from microscope_bench.cli.options import METRICS_HELP, add_measure_memory_option, add_split_option
from microscope_bench.system.processes import launched


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = subparsers.add_parser(
        "measure",
        help="measure a kept token store again, without the model",
        description="Measures a token store that a run kept (--keep_store) and writes the result file.",
    )
    parser.add_argument("store", metavar="STORE", help="the token store's directory")
    parser.add_argument("--metrics", metavar="NAME,...", help=METRICS_HELP)
    add_split_option(parser)
    add_measure_memory_option(parser)
    parser.add_argument("--device", metavar="DEVICE", help="cpu, cuda, ... (default: a GPU where there is one)")
    parser.add_argument(
        "--output_path", default="results", metavar="DIR", help="where the result file goes (%(default)s)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Measures the store and prints a summary of the result."""
    from microscope_bench.metrics.registry import DEFAULT_METRICS
    from microscope_bench.publish.terminal import summary_table, timing_line
    from microscope_bench.run.measure_store import measure_store

    result = measure_store(
        args.store,
        metrics=DEFAULT_METRICS if args.metrics is None else args.metrics,
        split_by=args.split_by,
        output_path=args.output_path,
        device=args.device,
        measure_memory=args.measure_memory,
        progress=not args.quiet,
        command=args.command,
    )
    if launched().is_first:
        print(summary_table(result))
        print(timing_line(result))
    return 0
