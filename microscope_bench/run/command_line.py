"""The command that repeats a run, made of what the run was resolved to."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from microscope_bench.config import RunConfig
from microscope_bench.results.provenance import last_part, without_directories
from microscope_bench.system.field_types import shortened

NOT_TOLD = frozenset({"protocol", "output_path", "store", "progress"})
"""Fields that say where files go or what is printed; what deviates from the protocol is told by its own options."""


def command_line(start: str, config: RunConfig, **options: str) -> str:
    """A command with every field that is not the default; files and directories are given by their last part.

    >>> command_line("microscope-bench run", RunConfig(limit=40), model="zoo-llava", tasks="shapesqa")
    'microscope-bench run --model zoo-llava --tasks shapesqa --limit 40'
    """
    plain = RunConfig()
    asked: dict[str, Any] = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in NOT_TOLD}
    if config.protocol.name != plain.protocol.name:
        asked = {"protocol": config.protocol.name, **asked}
    for name, value in config.protocol.deviations().items():
        if name in asked and asked[name] is None:
            asked[name] = value
    if config.apply_chat_template is not None:  # they are one setting
        asked["model_args"] = {k: v for k, v in config.model_args.items() if k != "use_chat_template"}
    words = shlex.split(start)
    for name, value in {**options, **asked}.items():
        if name == "protocol" or value != getattr(plain, name, None):
            words += [f"--{name}", *([] if value is True else [_text(name, value)])]
    return shortened(shlex.join(words))


def _text(name: str, value: Any) -> str:
    if name == "samples":
        return without_directories(json.dumps(value))
    if name == "measure_memory":
        return f"{value}B"
    if isinstance(value, Mapping):
        return ",".join(f"{key}={_without_directories(str(each))}" for key, each in value.items())
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "false" if value is False else _without_directories(str(value))


def _without_directories(value: str) -> str:
    file, colon, name = value.rpartition(":")
    if file.endswith(".py"):
        return f"{last_part(file)}{colon}{name}"
    exists = os.path.exists(value)
    return last_part(os.path.abspath(value)) if exists else without_directories(value)  # noqa: PTH100
