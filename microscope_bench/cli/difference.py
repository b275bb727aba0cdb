"""``microscope-bench difference A B``: whether two models differ on the same examples."""

from __future__ import annotations

import argparse
from pathlib import Path

EPILOG = """\
exit status: 0 done, whatever the differences are; 2 the results cannot be compared in pairs, invalid or missing

examples:
  microscope-bench difference llava.json omnifusion.json
  microscope-bench difference model.json 'scienceqa~shuffled_image.json' --layers --format markdown -o difference.md"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describes the verb and its options."""
    parser.description = (
        "Tests whether two models, or a model and its control, differ on the same examples: for each headline metric, "
        "modality and token set A − B of the mean over layers and of the slope over depth, with a paired standard "
        "error (jackknife over folds of examples), a 95 %% interval, a p-value, and a p-value for all rows together "
        "(Holm). Both results are of the same examples under the same protocol."
    )
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("a", metavar="A", help="a result file")
    parser.add_argument("b", metavar="B", help="another")
    parser.add_argument("--layers", action="store_true", help="a row for each layer too, where both have as many")
    parser.add_argument("--all", action="store_true", help="all metrics and estimators, not the headlines alone")
    parser.add_argument("--format", choices=("text", "markdown", "json"), default="text", help="default: text")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to (default: standard output)")


def run(args: argparse.Namespace) -> int:
    """Compares two files and writes the differences."""
    from microscope_bench.publish.difference.differences import difference
    from microscope_bench.publish.difference.renderings import RENDERINGS
    from microscope_bench.results.document import write_atomically
    from microscope_bench.results.result_files import read_result

    found = difference(read_result(args.a), read_result(args.b), layers=args.layers, everything=args.all)
    text = RENDERINGS[args.format](found)
    if args.output:
        write_atomically(Path(args.output), text)
    else:
        print(text, end="")
    return 0
