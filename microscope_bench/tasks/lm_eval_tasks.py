"""A task that lm-eval has loaded itself, as one of ours: which data it is of, its ids, its version."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from microscope_bench.identity import DatasetInfo
from microscope_bench.tasks.data_sets import hash_rows, is_hub_repository
from microscope_bench.tasks.fewshot import FewshotDraws
from microscope_bench.tasks.lm_eval_layer import bound_templates
from microscope_bench.tasks.settings import TaskSettings, measured_rows, seeded
from microscope_bench.tasks.splits import function_arguments, generated_revision, local_directories
from microscope_bench.tasks.task import Task

NO_SOURCE = {"dataset_path": None, "dataset_name": None}


def task_around(renderer: Any, settings: TaskSettings) -> Task:
    """The task around a ``lm_eval.api.task.ConfigurableTask``, as :func:`load_task` gives it for the same file."""
    bound_templates()
    config = renderer.config
    metadata = config.metadata if isinstance(config.metadata, Mapping) else {}
    name, shots = str(config.task), int(config.num_fewshot or 0)
    where = Path(name)
    with seeded(settings.seeds):
        every_row = renderer.eval_docs
    measured = measured_rows(every_row, name, metadata, shots, settings, where)
    if shots:
        renderer = copy(renderer)
        sampler = copy(renderer.sampler).set_rnd(settings.seeds.fewshot)
        renderer.sampler = FewshotDraws(
            sampler, measured.rows, exclude_row=renderer.fewshot_cfg.split == config.test_split
        )
    directories = directories_of(config)
    dataset = _dataset(renderer, metadata, where, directories)
    return Task(name, measured.version, dataset, measured.ids, measured.rows, renderer, settings, directories)


def directories_of(config: Any) -> list[Path]:
    """The directories of a local data set, by the configuration of lm-eval's task."""
    metadata = config.metadata if isinstance(config.metadata, Mapping) else {}
    return local_directories({"dataset_path": config.dataset_path, **metadata, **(config.dataset_kwargs or {})})


def _dataset(renderer: Any, metadata: Mapping[str, Any], where: Path, directories: Sequence[Path]) -> DatasetInfo:
    config = renderer.config
    split = str(config.test_split if renderer.has_test_docs() else config.validation_split)
    if generated := metadata.get("generated"):
        given = {"task": config.task, "metadata": metadata, "dataset_kwargs": config.dataset_kwargs}
        arguments = function_arguments(config.custom_dataset, given, {})
        return DatasetInfo("generated", None, generated_revision(generated, arguments, where), split)
    rows = renderer.dataset[split]
    source = config if config.custom_dataset is None else SimpleNamespace(**{**NO_SOURCE, **metadata})
    if source.dataset_path and not getattr(source, "data_dir", None) and is_hub_repository(str(source.dataset_path)):
        # the commit that was downloaded, where datasets noted it; not what the branch has become since
        revision = _downloaded_commit(rows) or hash_rows(rows, directories)
        return DatasetInfo(str(source.dataset_path), source.dataset_name, revision, split)
    return DatasetInfo("local", None, hash_rows(rows, directories), split)


def _downloaded_commit(rows: Any) -> str | None:
    """The one commit in the addresses that a data set was downloaded from."""
    addresses = getattr(rows.info, "download_checksums", None) or {}
    commits = {match[1] for address in addresses if (match := re.search(r"@([0-9a-f]{40})/", str(address)))}
    return commits.pop() if len(commits) == 1 else None
