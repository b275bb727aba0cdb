"""All that is used of lm-eval's task layer: its index of names, its field names, and its rendering of a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from traceback import walk_tb
from typing import Any

from microscope_bench.errors import TaskError
from microscope_bench.registry import unknown_name
from microscope_bench.tasks.task_files import field_error

SPLIT = "evaluated"
"""The one split that the lm-eval task object gets to see."""


@cache
def _lm_eval_index() -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager()  # reads some 14,000 files: seconds


def lm_eval_task_files() -> dict[str, Path]:
    """lm-eval's own tasks: name → YAML file, without groups and tags."""
    manager = _lm_eval_index()
    paths = ((name, manager.task_index[name].yaml_path) for name in manager.all_subtasks)
    return {name: path for name, path in paths if path is not None}


def find_lm_eval_task(name: str, other_names: list[str], hint: str) -> Path:
    """The YAML file of one of lm-eval's own tasks.

    Args:
        name: the task's name.
        other_names: names known elsewhere; they too may be what was meant.
        hint: ends the message for an unknown name.

    Raises:
        TaskError: the name stands for several tasks.
        UnknownNameError: no such task; the message holds the nearest names.
    """
    files = lm_eval_task_files()
    if name in files:
        return files[name]
    entry = _lm_eval_index().task_index.get(name)
    if entry is None:
        raise unknown_name("task", name, [*other_names, *files], hint)
    named = (entry.cfg or {}).get("task")
    members: list[Any] = named if isinstance(named, list) else sorted(entry.tags)
    listed = ", ".join(str(m.get("task", m.get("group")) if isinstance(m, dict) else m) for m in members[:8])
    raise TaskError(
        f"{name!r} is a group of lm-eval tasks; name one of its tasks: {listed}{', ...' * (len(members) > 8)}"
    )


def task_fields() -> list[str]:
    """Every field that a task file may have."""
    from lm_eval.config.task import TaskConfig

    return sorted({field.name for field in fields(TaskConfig)} | {"include", "group", "class", "task_list"})


def build_task(config: Mapping[str, Any], rows: Any, path: Path) -> Any:
    """lm-eval's task object over rows that are loaded and processed already; it renders prompt, choices and answer.

    Args:
        config: the task file's fields, functions resolved.
        rows: the ``datasets.Dataset`` to evaluate.
        path: the task file, for messages.

    Raises:
        TaskError: a field that lm-eval refuses, or that fails on the first row.
    """
    import datasets
    from lm_eval.api.task import ConfigurableTask

    class LoadedTask(ConfigurableTask):  # type: ignore[misc]
        """Renders given rows instead of downloading its own."""

        def download(self, dataset_kwargs: Any = None, **kwargs: Any) -> None:
            self.dataset = {SPLIT: shown}

        def fewshot_docs(self) -> None:
            """None: there are no few-shot examples, and lm-eval would hold the whole split in memory to draw them."""

    # lm-eval renders the first row at construction; with the picture undecoded, a damaged one spoils only its own row
    shown = rows
    for column, feature in rows.features.items():
        for kind in (datasets.Image, datasets.Audio):
            if isinstance(feature, kind) and feature.decode:
                shown = shown.cast_column(column, kind(decode=False))
    not_ours = {
        "tag",
        "group",
        "class",
        "task_list",
        "custom_dataset",
        "process_docs",
        "training_split",
        "validation_split",
    }
    ours = {key: value for key, value in config.items() if key not in not_ours | {"fewshot_split", "fewshot_config"}}
    try:
        return LoadedTask(config=ours | {"test_split": SPLIT, "num_fewshot": 0})
    except Exception as error:  # from Jinja, from lm-eval, or from the task's own functions
        raise field_error(path, _field_behind(error, ours), f"fails on the first row: {describe(error)}") from error


def _field_behind(error: BaseException, config: Mapping[str, Any]) -> str:
    """The field whose rendering raised: lm-eval's methods are named like the fields that they render."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    called = [frame.f_code.co_name for frame in frames]
    rendered = next((name for name in called if name in config and name.startswith("doc_to_")), None)
    if rendered is None and called[-1] == "__init__":
        # lm-eval rendered all and failed on what came out: it picks the target's choice, then looks into each choice
        seen = frames[-1].f_locals
        rendered = "doc_to_choice" if "check_choices" in seen else "doc_to_target" if "test_target" in seen else None
    return rendered or "(unknown)"


def describe(error: BaseException) -> str:
    """One line: the kind of an error and what it says."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
