"""``microscope-bench check MODEL``: prove an adapter."""

from __future__ import annotations

import argparse

from microscope_bench.cli.options import add_config_options, config_of


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = subparsers.add_parser(
        "check",
        help="prove that an adapter labels and captures a model correctly",
        description="Loads a model, runs two small examples through it and prints each check of the adapter's contract "
        "with the number it saw. Exit status 1 if one failed.",
    )
    parser.add_argument(
        "model", metavar="MODEL", help="see `ls models`; or path/to/file.py:name for an adapter of yours"
    )
    add_config_options(parser, ["model_args", "tap", "device"])
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Prints the report."""
    config = config_of(args)

    from microscope_bench.check import check
    from microscope_bench.run.resolve import load_adapter_for

    report = check(load_adapter_for(args.model, config))
    print(report)
    return 0 if report.passed else 1
