"""``microscope-bench plot-tokens STORE``: the tokens of a kept store in two dimensions, layer by layer."""

from __future__ import annotations

import argparse
from pathlib import Path

from microscope_bench.cli.options import at_least, layers, names, picture


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describes the verb and its options."""
    parser.description = (
        "Projects tokens of a token store that a run kept (--keep_store), each by layer, without the "
        "model. Several stores of one width are projected together."
    )
    parser.add_argument("stores", metavar="STORE", nargs="+", help="token stores' directories")
    parser.add_argument(
        "-o", "--output", type=picture, default=Path("tokens.pdf"), metavar="FILE", help="pdf, svg or png (%(default)s)"
    )
    parser.add_argument("--method", choices=("svd", "tsne"), default="svd", help="%(default)s; tsne needs scikit-learn")
    parser.add_argument(
        "--colour_by", choices=("modality", "example", "model"), help="default: modality, or model with several stores"
    )
    parser.add_argument("--modality", default="joint", metavar="NAME", help="the only one to show (default: all)")
    parser.add_argument(
        "--layers", type=layers, metavar="L,...", help="a panel each (default: the first, the middle and the last)"
    )
    parser.add_argument(
        "--max_tokens", type=at_least(4), default=1500, metavar="N", help="tokens drawn at most (%(default)s)"
    )
    parser.add_argument("--tokens", choices=("all", "no_sinks"), default="all", help="token set (%(default)s)")
    parser.add_argument("--examples", type=names, metavar="ID,...", help="for --colour_by example (default: eight)")
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="of t-SNE (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Draws and says what was drawn."""
    from microscope_bench.errors import MicroscopeError
    from microscope_bench.figures.open_store import OpenStore
    from microscope_bench.figures.token_pictures import TokenChoice, draw_tokens

    stores = [OpenStore.at(path) for path in args.stores]
    choice = TokenChoice(
        method=args.method,
        colour_by=args.colour_by,
        modality=args.modality,
        layers=args.layers,
        most_tokens=args.max_tokens,
        without_sinks=args.tokens == "no_sinks",
        examples=args.examples,
        seed=args.seed,
    )
    try:
        counts = draw_tokens(stores, args.output, choice)
    except OSError as error:
        raise MicroscopeError(f"{args.output} cannot be written ({error.strerror or error})") from error
    for opened, count in zip(stores, counts, strict=True):
        print(f"{opened.model}: {count:,} tokens")
    print(f"wrote {args.output}")
    return 0
