"""Options that several verbs share, those of a run made from the fields of its config."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microscope_bench.config import RunConfig
from microscope_bench.system.docstrings import described_attributes
from microscope_bench.system.processes import launched

if TYPE_CHECKING:
    from microscope_bench.results.result import Result

METAVARS = {
    "limit": "N",
    "samples": "JSON",
    "sample": "N",
    "tokens_per_example": "N",
    "id_tokens": "N",
    "max_skipped": "SHARE",
    "seed": "N",
    "model_args": "KEY=VALUE,...",
    "task_args": "KEY=VALUE,...",
    "include_path": "DIR",
    "num_fewshot": "N",
    "apply_chat_template": "true|false",
    "system_instruction": "TEXT",
    "metrics": "NAME,...",
    "tap": "PLACE",
    "batch_size": "N",
    "measure_memory": "SIZE",
    "output_path": "DIR",
    "store": "DIR",
}
"""How the help shows an option's value, where NAME would not do."""


def add_config_options(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Adds an option for each named field of :class:`RunConfig`, which reads and checks its value."""
    described = described_attributes(RunConfig)
    for field in fields(RunConfig):
        if field.name not in names:
            continue
        said = described.get(field.name, "").replace("%", "%%").removesuffix(".")
        if isinstance(field.default, str | int) and not isinstance(field.default, bool):
            said += f" (default: {field.default})"
        if field.name == "progress":
            parser.add_argument("--quiet", dest="progress", action="store_false", help="print nothing but errors")
        elif field.default is False:
            parser.add_argument(f"--{field.name}", action="store_true", help=said)
        elif field.name == "output_path":
            parser.add_argument("--output_path", default="results", metavar="DIR", help=f"{said} (%(default)s)")
        else:
            once: Any = {"nargs": "?", "const": "true"} if field.name == "apply_chat_template" else {}
            metavar = METAVARS.get(field.name, "NAME")
            parser.add_argument(f"--{field.name}", default=argparse.SUPPRESS, metavar=metavar, help=said, **once)


def config_of(args: argparse.Namespace) -> RunConfig:
    """The config that a command line asks for."""
    return RunConfig(**{f.name: getattr(args, f.name) for f in fields(RunConfig) if hasattr(args, f.name)})


def check_device(config: RunConfig) -> None:
    """Raises where the device that is named is not there; imports torch for it, but neither transformers nor data."""
    if config.device not in (None, "cpu"):
        from microscope_bench.system.devices import pick_device

        pick_device(config.device)


def show(result: Result, config: RunConfig) -> int:
    """Prints a result, with ``--quiet`` only what is wrong with it; the exit status, 1 where a state is not finite."""
    from microscope_bench.publish.summary import non_finite
    from microscope_bench.publish.terminal import summary_table, timing_line

    problem = non_finite(result)
    if launched().is_first:
        if config.progress:
            print(summary_table(result))
            print(timing_line(result))
        elif problem:
            print(f"microscope-bench: {problem}", file=sys.stderr)
    return 1 if problem else 0


def files_of(name: str) -> list[Path]:
    """The result file that is named, or those below the directory that is; a ResultError where there is neither."""
    from microscope_bench.errors import ResultError
    from microscope_bench.results.result_files import find_results

    if not os.path.exists(name):
        raise ResultError(f"{name}: no such file or directory")
    return find_results(name) if os.path.isdir(name) else [Path(name)]


def result_paths(named: Sequence[str]) -> list[Path]:
    """The result files that are named, and those below the directories that are, each once."""
    from microscope_bench.errors import ResultError

    found = {name: files_of(name) for name in named}
    empty = [name for name, paths in found.items() if not paths]
    if empty:
        raise ResultError(f"{', '.join(empty)}: no result files there")
    return list({os.path.realpath(path): path for paths in found.values() for path in paths}.values())


def names(text: str) -> list[str]:
    """``"a,b"`` as a list without empty pieces and without repetitions; a path that is there is one name."""
    if os.sep in text and os.path.exists(text):
        return [text]
    return list(dict.fromkeys(piece.strip() for piece in text.split(",") if piece.strip()))


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
