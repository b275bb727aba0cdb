"""All that is used of lm-eval's task layer: its index of names, its field names, and its rendering of a row."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from msgspec import MsgspecError, Struct, json

from microscope_bench.errors import TaskError, field_error
from microscope_bench.system.bounded_templates import render
from microscope_bench.system.disk import cache_directory, write_whole
from microscope_bench.tasks.choices import NoChoices, list_of_choices
from microscope_bench.tasks.failures import what_failed

SPLIT = "evaluated"  # the only one that the lm-eval task object gets to see
NOT_TO_RENDER = frozenset(
    {"tag", "group", "class", "task_list", "custom_dataset", "process_docs"}
    | {"training_split", "validation_split", "fewshot_split"}
    # how lm-eval scores answers: never used here, and some of it is fetched from a hub when a task is built
    | {"metric_list", "filter_list", "process_results"}
)
"""Fields that lm-eval's task object is not shown: what they say is done already, or is not wanted."""

FIRST_ROWS = 8
"""lm-eval renders one row at construction: a task is refused where none of so many goes, and a row alone elsewhere."""


def bound_templates() -> None:
    """Lets lm-eval render its templates in bounded time and memory, and compile each once rather than for every row."""
    from lm_eval import utils

    utils.apply_template = render


class LmEvalNames(Struct):
    """Names of tasks and groups with the paths of their files, and of tags with those of their tasks."""

    tasks: dict[str, str]
    groups: dict[str, str]
    tags: dict[str, list[str]]
    root: str = ""  # where lm-eval lies


@cache
def lm_eval_directory() -> str:
    """Where lm-eval lies."""
    found = find_spec("lm_eval")
    assert found is not None and found.submodule_search_locations
    return os.path.realpath(found.submodule_search_locations[0])


@cache
def lm_eval_names() -> LmEvalNames:
    """lm-eval's index of some 14,000 files, which takes many seconds to build, and is kept for the version that is
    installed.
    """
    root = lm_eval_directory()
    if "site-packages" not in Path(root).parts:  # a checkout, whose files change while its version does not
        return _indexed()
    file = cache_directory() / f"lm-eval-{version('lm_eval')}.json"
    try:
        kept = json.decode(file.read_bytes(), type=LmEvalNames)
        if kept.root == root:
            return kept
    except (OSError, MsgspecError):
        pass
    names = _indexed()
    names.root = root
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.encode(names))
    return names


def _indexed() -> LmEvalNames:
    from lm_eval.tasks import TaskManager

    manager = TaskManager()

    def files(names: list[str]) -> dict[str, str]:
        paths = ((name, manager.task_index[name].yaml_path) for name in names)
        return {name: str(path) for name, path in paths if path is not None}

    tags = {name: sorted(manager.task_index[name].tags) for name in manager.all_tags}
    return LmEvalNames(files(manager.all_subtasks), files(manager.all_groups), tags)


def group_fields() -> frozenset[str]:
    """The fields that a group keeps for itself; every other one holds for its tasks."""
    from lm_eval.config.group import GroupConfig

    return frozenset(field.name for field in fields(GroupConfig))


def task_fields() -> list[str]:
    """Every field that a task file may have."""
    from lm_eval.config.task import TaskConfig

    return sorted({field.name for field in fields(TaskConfig)} | {"include", "group", "class", "task_list"})


def build_task(
    config: Mapping[str, Any], rows: Any, path: Path, *, num_fewshot: int = 0, pool: list[Any] | None = None
) -> Any:
    """lm-eval's task object over processed rows; the ``num_fewshot`` solved examples are drawn from ``pool``."""
    from lm_eval.api.task import ConfigurableTask

    from microscope_bench.tasks.picture_columns import with_undecoded_media

    class LoadedTask(ConfigurableTask):  # type: ignore[misc]
        def download(self, dataset_kwargs: Any = None, **kwargs: Any) -> None:
            self.dataset = {SPLIT: one_row}

        def fewshot_docs(self) -> list[Any] | None:
            """None without few-shot examples: lm-eval would hold a whole split in memory to draw them."""
            return pool if num_fewshot else None

        def doc_to_choice(self, doc: Any, doc_to_choice: Any = None) -> Any:
            """Choices as text, also those that are numbers, which lm-eval fails on."""
            found = list_of_choices(super().doc_to_choice(doc, doc_to_choice), self.config.doc_to_choice)
            return [c if isinstance(c, str | None) else str(c) for c in found]

    bound_templates()
    # lm-eval renders the first row at construction; with the picture undecoded, a damaged one spoils only its own row
    shown = with_undecoded_media(rows)
    dropped = NOT_TO_RENDER if num_fewshot else NOT_TO_RENDER | {"fewshot_config"}
    ours = {key: value for key, value in config.items() if key not in dropped}
    failure: Exception | None = None
    for first in range(min(len(rows), FIRST_ROWS)):
        one_row = shown.select([first])
        try:
            loaded = LoadedTask(config=ours | {"test_split": SPLIT, "num_fewshot": num_fewshot})
            for field in ("doc_to_image", "doc_to_audio"):  # a function may need what is undecoded here
                if isinstance(config.get(field), str | list):
                    getattr(loaded, field)(one_row[0])
            return loaded
        except Exception as error:  # from Jinja, from lm-eval, or from the task's own functions
            failure = failure or error
            if isinstance(error, TaskError) and not isinstance(
                error, NoChoices
            ):  # a template that takes ten seconds would take them again
                break
    assert failure is not None  # a task has rows
    failed, cause = what_failed(failure)
    raise field_error(path, failed or "(unknown)", f"fails on the first row: {cause}") from failure
