"""Option types and groups that several verbs share."""

from __future__ import annotations

import argparse


def positive_int(text: str) -> int:
    """An integer of at least 1, as an argparse type."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def non_negative_int(text: str) -> int:
    """An integer of at least 0, as an argparse type."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value


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
    """``--model_args`` and ``--device``."""
    parser.add_argument(
        "--model_args",
        default="",
        metavar="KEY=VALUE,...",
        help="for the adapter: pretrained=org/name or a directory, revision=..., dtype=bfloat16, ...",
    )
    parser.add_argument("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")


def silence_loading_bars() -> None:
    """Turns off transformers' own progress bars; ours say more."""
    from transformers.utils import logging

    logging.disable_progress_bar()
