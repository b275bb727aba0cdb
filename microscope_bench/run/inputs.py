"""From what a user names and asks for to a loaded task and model: the first step of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from microscope_bench.adapters.model_args import boolean_arg
from microscope_bench.adapters.presets import load_model
from microscope_bench.errors import MicroscopeError
from microscope_bench.tasks.settings import Seeds, TaskSettings

if TYPE_CHECKING:
    from microscope_bench.adapters.base import Adapter
    from microscope_bench.tasks import Task

Seed = int | tuple[int, int, int, int] | None
"""One seed for everything, or lm-eval's four: Python, NumPy, torch, few-shot."""


def protocol_seed(seed: Seed) -> int | None:
    """The seed of the token selection and the folds: the only one given, or the first of four."""
    return seed[0] if isinstance(seed, tuple) else seed


def task_settings(
    num_fewshot: int | None = None,
    system_instruction: str | None = None,
    samples: Mapping[str, Sequence[int]] | None = None,
    seed: Seed = None,
) -> TaskSettings:
    """What a run asks of its tasks; see :class:`microscope_bench.tasks.settings.TaskSettings`."""
    seeds = Seeds()
    if seed is not None:
        python, numpy, _, fewshot = seed if isinstance(seed, tuple) else (seed,) * 4
        seeds = Seeds(python, numpy, fewshot)
    return TaskSettings(num_fewshot, system_instruction, dict(samples or {}), seeds)


def resolve_task(
    task: str | Task, include_path: str | Path | None, task_args: Mapping[str, str], settings: TaskSettings
) -> Task:
    """The task of a name, or one that is loaded already.

    Raises:
        MicroscopeError: a loaded task with settings that only loading could have followed.
    """
    if isinstance(task, str):
        from microscope_bench.tasks import load_task  # needs lm_eval, which a run on a task object does not

        return load_task(task, include_path=include_path, task_args=task_args, settings=settings)
    if settings.num_fewshot is not None or settings.system_instruction or settings.samples:
        raise MicroscopeError(
            f"task {task.name} is loaded already: give num_fewshot, system_instruction and samples to load_task, as "
            f"settings=TaskSettings(...)"
        )
    return task


def resolve_model(
    model: str | Adapter, model_args: Mapping[str, str], device: str | None, apply_chat_template: bool | None = None
) -> Adapter:
    """The model of a name, or one that is loaded already.

    Raises:
        MicroscopeError: ``apply_chat_template`` contradicts the model args, or comes too late for a loaded model.
    """
    if isinstance(model, str):
        return load_model(model, with_chat_template(model_args, apply_chat_template), device)
    if apply_chat_template is not None:
        raise MicroscopeError(f"{model.info.name} is loaded already: load it with use_chat_template instead")
    return model


def with_chat_template(model_args: Mapping[str, str], apply: bool | None) -> dict[str, str]:
    """The model args with ``use_chat_template`` as ``--apply_chat_template`` has it: two names of one setting.

    Raises:
        MicroscopeError: the two are given and differ.
    """
    if apply is None:
        return dict(model_args)
    if boolean_arg(model_args, "use_chat_template", apply) != apply:
        raise MicroscopeError(
            f"--apply_chat_template is {str(apply).lower()} but model arg use_chat_template is "
            f"{model_args['use_chat_template']}; they are one setting, leave one of them out"
        )
    return {**model_args, "use_chat_template": str(apply).lower()}


def resolve_limit(limit: float | None, task: Task) -> int | None:
    """How many examples a limit stands for: below 1 it is a share of the task's, rounded up, as in lm-eval.

    Raises:
        MicroscopeError: the limit is neither a positive whole number nor a share, or ``samples`` were chosen too.
    """
    if limit is None:
        return None
    if not (0 < limit < 1 or (limit >= 1 and limit == int(limit))):
        raise MicroscopeError(f"limit must be a positive whole number, or a share between 0 and 1, not {limit!r}")
    if getattr(task, "sampled", False):
        raise MicroscopeError(f"limit and samples exclude each other, and samples chose the rows of {task.name}")
    return math.ceil(len(task) * limit) if limit < 1 else int(limit)
