"""``microscope-bench measure STORE``: measure a kept token store again, without the model."""

from __future__ import annotations

import argparse
from pathlib import Path

from microscope_bench.capture.store_documents import read_manifest
from microscope_bench.cli.options import add_config_options, config_of, show
from microscope_bench.config import MEASURED_AGAIN


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describes the verb and its options."""
    parser.description = "Measures a token store that a run kept (--keep_store) and writes the result file."
    parser.add_argument("kept", metavar="STORE", help="the token store's directory")
    add_config_options(parser, MEASURED_AGAIN)


def run(args: argparse.Namespace) -> int:
    """Measures the store and prints a summary of the result."""
    config = config_of(args)
    read_manifest(Path(args.kept))  # before torch is imported, so that a mistaken path is told at once

    from microscope_bench.run.measure_store import measure_store

    result = measure_store(args.kept, config)
    return show(result, config)
