"""Measures a model between two steps of its training, in one process, and gives its scores names for a log."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from microscope_bench.adapters.evaluation_mode import unwrapped
from microscope_bench.config import RunConfig
from microscope_bench.publish.summary import Withheld, measured_series, summarise
from microscope_bench.results.result import Result
from microscope_bench.run.evaluate import evaluate
from microscope_bench.system.processes import alone
from microscope_bench.tasks import Task

LOG = logging.getLogger("microscope_bench")
_TOLD: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()


def measure_step(
    model: nn.Module, task: str | Task, step: int, *, processor: Any = None, name: str | None = None, **options: Any
) -> dict[str, float]:
    """Measures a model in memory at a step of its training; the training goes on as if nothing had been measured.

    In a program of several processes one of them calls it; the others wait at their next exchange.

    Args:
        model: a transformers model, wrapped or not; see :func:`microscope_bench.evaluate`.
        task: the name of a task, or better a loaded one (``load_task``), which need not be loaded each time.
        step: how many steps it has been trained for.
        processor: that of the model; the tokenizer, where it takes text alone.
        name: what results call the model (default: its class), with the step behind it.
        options: fields of :class:`microscope_bench.RunConfig`. A result goes to ``step-<step>`` below ``output_path``.

    Returns:
        ``geometry/<metric>[.<stream>]/<modality>`` → mean over the layers, as tables show it; ``geometry/accuracy``
        where the task has one.

    Raises:
        MicroscopeError: it cannot be measured; the model is as it was all the same.
    """
    config = RunConfig(**{"progress": False, **options})
    if config.output_path is not None:
        config = replace(config, output_path=config.output_path / f"step-{step}")
    with alone():
        title = f"{name or type(unwrapped(model)).__name__} step {step}"
        return log_values(model, evaluate(model, task, config, processor=processor, name=title))


def log_values(model: nn.Module, result: Result) -> dict[str, float]:
    """The headline scores of a result under names that are the same at every step; tells once of those without one."""
    values = {}
    for modality, tokens, headline in measured_series(result):
        if tokens != "all":
            continue
        summary = summarise(result, headline, modality)
        if isinstance(summary, Withheld):
            warn_once(model, f"{modality}: no mean to log. {summary.reason}")
        else:
            stream = f".{headline.stream}" if headline.stream else ""
            values[f"geometry/{headline.metric}{stream}/{modality}"] = summary.mean
    if result.accuracy is not None and result.accuracy.value is not None:
        values["geometry/accuracy"] = result.accuracy.value
    return values


def warn_once(model: nn.Module, message: str) -> None:
    """Logs a warning, the first time that it is given of a model since :func:`begin_anew`."""
    told = _TOLD.setdefault(model, set())
    if message not in told:
        told.add(message)
        LOG.warning("%s", message)


def begin_anew(model: nn.Module) -> None:
    """Lets what has been told of a model be told again: another training of it begins."""
    _TOLD.pop(model, None)
