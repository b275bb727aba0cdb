"""``microscope-bench check MODEL``: prove an adapter."""

from __future__ import annotations

import argparse

from microscope_bench.cli.options import add_config_options, check_device, config_of


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describes the verb and its options."""
    parser.description = (
        "Loads a model, runs two small examples through it and prints each check of the adapter's contract "
        "with the number it saw. Exit status 1 if one failed."
    )
    parser.add_argument(
        "model", metavar="MODEL", help="see `ls models`; or path/to/file.py:name for an adapter of yours"
    )
    add_config_options(parser, ["model_args", "tap", "device"])


def run(args: argparse.Namespace) -> int:
    """Prints the report."""
    config = config_of(args)
    check_device(config)

    from microscope_bench.check import check
    from microscope_bench.run.resolve import load_adapter_for

    report = check(load_adapter_for(args.model, config))
    print(report)
    return 0 if report.passed else 1
