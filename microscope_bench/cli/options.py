"""Option types and groups that several verbs share."""

from __future__ import annotations

import argparse
from collections.abc import Callable

METRICS_HELP = "see `ls metrics`; or all (default: linearity, intrinsic_dimension, anisotropy)"


def at_least(least: int) -> Callable[[str], int]:
    """An argparse type: an integer that is not below ``least``."""

    def integer(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is not at least {least}")
        return value

    return integer


def share(text: str) -> float:
    """A number from 0 to 1, as an argparse type."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} does not lie between 0 and 1")
    return value


def names(text: str) -> list[str]:
    """``"a,b"`` as a list without empty pieces and without repetitions."""
    return list(dict.fromkeys(piece.strip() for piece in text.split(",") if piece.strip()))


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """``--model_args``, ``--tap`` and ``--device``."""
    parser.add_argument(
        "--model_args",
        default="",
        metavar="KEY=VALUE,...",
        help="for the adapter: pretrained=org/name or a directory, revision=..., dtype=bfloat16, ...",
    )
    parser.add_argument(
        "--tap",
        default="language",
        metavar="PLACE",
        help="where the residual stream is watched: language, vision (the tower's blocks) or projector (%(default)s)",
    )
    parser.add_argument("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")


def silence_loading_bars() -> None:
    """Turns off the progress bars of transformers and of the hub."""
    from transformers.utils import logging

    logging.disable_progress_bar()
