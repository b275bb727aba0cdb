"""``microscope-bench check MODEL``: prove an adapter."""

from __future__ import annotations

import argparse

from microscope_bench.cli.options import add_model_options
from microscope_bench.system.key_values import key_values


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
    add_model_options(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Prints the report."""
    model_args = key_values("--model_args", args.model_args)

    from microscope_bench.adapters.presets import load_model
    from microscope_bench.check import check

    report = check(load_model(args.model, model_args, args.device).tapped(args.tap))
    print(report)
    return 0 if report.passed else 1
