"""``microscope-bench plot RESULTS``: pictures of results, a directory of them or the one that is asked for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from microscope_bench.cli.options import names, result_paths
from microscope_bench.publish.figure_file import FORMATS

if TYPE_CHECKING:
    from microscope_bench.results.result import Result


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describes the verb and its options."""
    parser.description = (
        "Draws results over relative depth, one line per model. Into a directory: one picture per task and "
        "headline metric, one panel per modality. Into a file (-o fig.pdf): one picture of what is chosen."
    )
    parser.add_argument("results", metavar="RESULTS", nargs="+", help="directories of result files, or result files")
    parser.add_argument(
        "-o",
        "--output",
        metavar="PATH",
        default="plots",
        help=f"a directory (default: plots), or one picture: a name that ends in {', '.join(FORMATS)}",
    )
    parser.add_argument("--metric", metavar="NAME", help="default: linearity, intrinsic_dimension and anisotropy")
    parser.add_argument("--estimator", metavar="NAME", help="default: the one that leaderboards show")
    parser.add_argument(
        "--stream", metavar="NAME", help="of linearity: hidden, update, mainflow (default: the first two)"
    )
    parser.add_argument(
        "--modality", type=names, default=[], metavar="NAME,...", help="default: all that were measured"
    )
    parser.add_argument("--task", metavar="NAME", help="leaves out the results of other tasks")
    parser.add_argument("--format", choices=FORMATS, help="of the pictures in a directory (default: svg)")
    parser.add_argument(
        "--over", choices=("depth", "step"), default="depth", help="of results of a training: step (default: depth)"
    )
    parser.add_argument("--tokens", metavar="SET", default="all", help="all (default), no_sinks, correct, wrong, ...")


def run(args: argparse.Namespace) -> int:
    """Draws and says what was drawn."""
    from microscope_bench.errors import ResultError
    from microscope_bench.publish.figure_choice import check_token_set, of_task
    from microscope_bench.publish.figure_file import picture_format
    from microscope_bench.results.result_files import each_result

    path = Path(args.output)
    file_format = picture_format(path)
    if file_format is not None and args.format not in (None, file_format):
        raise ResultError(f"--format {args.format} contradicts -o {path}; leave one of them out")
    results = of_task([result for _, result in each_result(result_paths(args.results))], args.task)
    check_token_set(results, args.tokens)
    try:
        if args.over == "step":
            written = _draw_steps(results, path, args)
        else:
            written = [_draw_one(results, path, args)] if file_format else _draw_all(results, path, args)
    except OSError as error:
        raise ResultError(f"{path} cannot be written ({error.strerror or error})") from error
    for path in written:
        print(f"wrote {path}")
    return 0


def _draw_one(results: list[Result], path: Path, args: argparse.Namespace) -> Path:
    from microscope_bench.errors import ResultError
    from microscope_bench.publish.figure_choice import chosen_headlines, chosen_modalities, one_comparison
    from microscope_bench.publish.plots import NOTHING, draw

    together = one_comparison(results)
    headlines = chosen_headlines(together, args.metric, args.estimator, args.stream)
    modalities = chosen_modalities(together, args.modality)
    if not draw(together, headlines, path, modalities=modalities, tokens=args.tokens):
        raise ResultError(NOTHING)
    return path


def _draw_steps(results: list[Result], path: Path, args: argparse.Namespace) -> list[Path]:
    from microscope_bench.publish.figure_choice import chosen_headlines, chosen_modalities
    from microscope_bench.publish.step_lines import draw_over_steps

    headlines = chosen_headlines(results, args.metric, args.estimator, args.stream)
    modalities = chosen_modalities(results, args.modality)
    return draw_over_steps(
        results, headlines, path, modalities=modalities, tokens=args.tokens, file_format=args.format or "svg"
    )


def _draw_all(results: list[Result], path: Path, args: argparse.Namespace) -> list[Path]:
    from microscope_bench.publish.figure_choice import chosen_headlines, chosen_modalities
    from microscope_bench.publish.plots import draw_all

    return draw_all(
        results,
        path,
        headlines=chosen_headlines(results, args.metric, args.estimator, args.stream),
        modalities=chosen_modalities(results, args.modality),
        file_format=args.format or "svg",
        tokens=args.tokens,
    )
