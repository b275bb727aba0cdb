"""Option types and groups that several verbs share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from microscope_bench.errors import MicroscopeError
from microscope_bench.system.key_values import memory_size

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


def limit(text: str) -> float:
    """A positive whole number, or a share between 0 and 1, as an argparse type."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not (0 < value < 1 or (value >= 1 and value.is_integer())):
        raise argparse.ArgumentTypeError(f"{text} is neither a positive whole number nor a share between 0 and 1")
    return value if value < 1 else int(value)


def seeds(text: str) -> int | tuple[int, int, int, int]:
    """One seed or lm-eval's four (Python, NumPy, torch, few-shot), as an argparse type."""
    values = [at_least(0)(piece.strip()) for piece in text.split(",")]
    if len(values) == 1:
        return values[0]
    if len(values) != 4:
        raise argparse.ArgumentTypeError(f"{text!r} is neither one seed nor four: python,numpy,torch,fewshot")
    return (values[0], values[1], values[2], values[3])


def samples(text: str) -> dict[str, list[int]]:
    """JSON of task name → row numbers, or the path of a file with such JSON, as an argparse type."""
    try:
        found = json.loads(Path(text).read_text(encoding="utf-8") if "{" not in text else text)
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither JSON nor a file of JSON: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(rows, list) for rows in found.values()):
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form {{"task": [0, 1, 2]}}')
    return found


def yes_or_no(text: str) -> bool:
    """``true`` or ``false``, as an argparse type."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not true or false; a chat template is the checkpoint's default one and cannot be named"
        )
    return text.lower() == "true"


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


def add_split_option(parser: argparse.ArgumentParser) -> None:
    """``--split_by``."""
    parser.add_argument(
        "--split_by",
        choices=("correct",),
        help="also score the examples answered rightly and those answered wrongly apart, as many of each",
    )


def add_measure_memory_option(parser: argparse.ArgumentParser) -> None:
    """``--measure_memory``."""
    parser.add_argument(
        "--measure_memory",
        type=size,
        metavar="SIZE",
        help="what the metrics may take of the device, such as 8GB; scores are the same (default: half of what is free "
        "on a GPU, no bound elsewhere)",
    )


def size(text: str) -> int | None:
    """A size in memory in bytes, as an argparse type."""
    try:
        return memory_size("--measure_memory", text)
    except MicroscopeError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def layers(text: str) -> list[int]:
    """``"0,3,6"`` as layer numbers, as an argparse type."""
    return [at_least(0)(piece) for piece in names(text)]


def numbers(text: str) -> list[int]:
    """``"1,4"`` as numbers from 1, one at least, as an argparse type."""
    found = [at_least(1)(piece) for piece in names(text)]
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} names no number")
    return found


def picture(text: str) -> Path:
    """The name of one picture, as an argparse type."""
    from microscope_bench.errors import ResultError
    from microscope_bench.publish.figure_file import FORMATS, picture_format

    try:
        if picture_format(Path(text)) is None:
            raise argparse.ArgumentTypeError(f"{text!r} is no picture's name: it ends in {', '.join(FORMATS)}")
    except ResultError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return Path(text)
