"""``microscope-bench compare BASELINE NEW``: whether a model's inside is still what it was."""

from __future__ import annotations

import argparse
from pathlib import Path

from microscope_bench.cli.options import names, result_paths

EPILOG = """\
exit status: 0 within tolerance; 1 drift; 2 not comparable, invalid or missing

examples:
  microscope-bench compare baseline.json new.json
  microscope-bench compare baselines/ results/ --format json -o geometry.json
  microscope-bench compare base.json int8.json --allow model.quantization,model.n_parameters --tolerance linearity=0.05
  microscope-bench compare --spread first.json second.json third.json -o tolerances.txt
  microscope-bench compare baseline.json new.json --tolerances tolerances.txt"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describes the verb and its options."""
    parser.description = (
        "Holds a result file against a baseline, or a directory against a directory (files of the same "
        "relative path, or in the directory of another revision of the same model). A value that moved beyond its "
        "tolerance in either direction, one that is missing, new, or null in one of them alone: all are drift. Only "
        "results of one identity are compared; which weights were measured may differ, and what --allow names. "
        "References to the hub or to git are not supported yet: name local files."
    )
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("paths", metavar="BASELINE NEW", nargs="+", help="two result files, or two directories of them")
    parser.add_argument(
        "--tolerance",
        metavar="METRIC=HOW_FAR",
        action="append",
        default=[],
        help="0.002 (absolute), 3%% (of the baseline's value) or 0.002+3%%, for a metric, metric.estimator, accuracy, "
        "skipped or sinks; may be given again (defaults by dtype: docs/ci.md)",
    )
    parser.add_argument(
        "--tolerances", metavar="FILE", help="a file of such lines; --tolerance goes before what it says"
    )
    parser.add_argument(
        "--allow",
        metavar="FIELD,...",
        type=names,
        action="extend",
        default=[],
        help="fields of identity that may differ, such as model.dtype (docs/result_format.md lists them)",
    )
    parser.add_argument("--format", choices=("text", "markdown", "json"), default="text", help="default: text")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to (default: standard output)")
    parser.add_argument(
        "--spread",
        action="store_true",
        help="the files or directories hold repeats of one run: print the tolerances that they suggest",
    )


def run(args: argparse.Namespace) -> int:
    """Compares, or learns tolerances; every error that a user can act on gives 2."""
    if args.spread:
        if args.tolerance or args.tolerances or args.format != "text":
            args.parser.error("--spread makes tolerances; it goes with --allow and -o only")
        return _spread(args)
    if len(args.paths) != 2:
        args.parser.error(f"compare takes a baseline and a new result, not {len(args.paths)} paths")

    from microscope_bench.publish.compare.forms import FORMS
    from microscope_bench.publish.compare.paths import compare_paths
    from microscope_bench.publish.compare.spread import read_tolerances
    from microscope_bench.publish.compare.tolerances import Tolerances, parse_tolerances
    from microscope_bench.system.printable import printable

    chosen = read_tolerances(args.tolerances) if args.tolerances else {}
    tolerances = Tolerances({**chosen, **parse_tolerances(args.tolerance)})
    baseline, new = args.paths
    comparisons = compare_paths(baseline, new, tolerances, args.allow)
    _give(FORMS[args.format](comparisons), args.output)
    if args.output:
        print(printable(comparisons.verdict))
    return comparisons.status


def _spread(args: argparse.Namespace) -> int:
    from microscope_bench.publish.compare.spread import learn_tolerances, to_lines
    from microscope_bench.results.result_files import read_result

    repeats = [(str(path), read_result(path)) for path in result_paths(args.paths)]
    _give(to_lines(learn_tolerances(repeats, args.allow), len(repeats)), args.output)
    return 0


def _give(text: str, output: str | None) -> None:
    from microscope_bench.results.document import write_atomically

    if output:
        write_atomically(Path(output), text)
    else:
        print(text, end="")
