"""What a run asks of a task beyond its file, under lm-eval's names and with lm-eval's meaning. Needs no lm-eval."""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from microscope_bench.errors import TaskError, field_error, unknown_name

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seeds:
    """lm-eval's ``--seed``, of which a task can see three; the defaults are lm-eval's."""

    python: int = 0
    numpy: int = 1234
    fewshot: int = 1234


@dataclass(frozen=True)
class TaskSettings:
    """Settings of one run, for all of its tasks.

    Attributes:
        num_fewshot: solved examples before each question; None leaves it to the task file. A task file that says 0
            keeps 0, as in lm-eval.
        system_instruction: stands before the task's description: as a system turn where the model has a chat template,
            else as plain text.
        samples: task name → rows to measure, counted from 0 as they come out of the task's ``process_docs``; tasks that
            are not named are measured whole.
        seeds: of whatever a task draws.
        sample: how many rows of each task are drawn by the first of the seeds; None: all rows are measured. A smaller
            draw is part of a larger one, and does not hang on the order of the data where rows have ids of their own.
    """

    num_fewshot: int | None = None
    system_instruction: str | None = None
    samples: Mapping[str, Sequence[int]] = field(default_factory=dict)
    seeds: Seeds = Seeds()
    sample: int | None = None


@dataclass(frozen=True)
class MeasuredRows:
    rows: Any
    ids: list[str]
    version: str


def measured_rows(
    rows: Any, task: str, metadata: Mapping[str, Any], num_fewshot: int, settings: TaskSettings, path: Path
) -> MeasuredRows:
    """All rows of a split, those that ``settings.samples`` names, or a draw of ``settings.sample``."""
    ids, chosen = _row_ids(rows, metadata.get("id_column"), path), None
    if task in settings.samples:
        chosen = _chosen(settings.samples[task], len(rows), task)
    elif settings.sample is not None and settings.sample < len(rows):
        chosen = _drawn(ids, settings.sample, settings.seeds.python)
    if chosen is not None:
        ids = [ids[index] for index in chosen]
        rows = rows.select(chosen) if hasattr(rows, "select") else [rows[index] for index in chosen]
    version = stated_version(str(metadata.get("version", "unversioned")), settings, num_fewshot, chosen)
    return MeasuredRows(rows, ids, version)


def _row_ids(rows: Any, column: str | None, path: Path) -> list[str]:
    if column is None:
        return [str(index) for index in range(len(rows))]
    if column not in rows.column_names:
        raise field_error(path, "metadata.id_column", f"{unknown_name('column', column, rows.column_names)}")
    # without its format: reading a whole column must not draw or decode the rows' pictures
    values = list(rows.select_columns([column]).with_format(None)[column])
    ids = ["" if value is None or value != value else str(value) for value in values]
    if (nameless := next((row for row, id_ in enumerate(ids) if not id_.strip()), None)) is not None:
        raise field_error(path, "metadata.id_column", f"row {nameless} has no id: column {column} is empty there")
    if len(set(ids)) < len(ids):
        twice = next(value for index, value in enumerate(ids) if value in ids[:index])
        raise field_error(path, "metadata.id_column", f"ids must be unique, but {column} holds {twice!r} twice")
    return ids


def _chosen(samples: Sequence[int], n_rows: int, task: str) -> list[int]:
    """The rows that ``samples`` asks for, each once and in the order of the data, as lm-eval takes them."""
    if not samples:  # which lm-eval reads as "all"
        raise TaskError(f"samples of {task} is empty; leave the task out of samples to measure all of it")
    for index in samples:
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < n_rows:
            raise TaskError(f"samples of {task} holds {index!r}; its rows are 0 to {n_rows - 1}")
    if len(rows := sorted(set(samples))) < len(samples):
        LOG.warning("samples of %s names a row twice; each is measured once: %d examples", task, len(rows))
    return rows


def _drawn(ids: Sequence[str], n: int, seed: int) -> list[int]:
    """The rows of n ids, in their order: those of the smallest hashes."""
    hashes = [hashlib.sha256(f"sample\0{seed}\0{id_}".encode("utf-8", "surrogatepass")).digest() for id_ in ids]
    return sorted(sorted(range(len(ids)), key=hashes.__getitem__)[:n])


def stated_version(version: str, settings: TaskSettings, num_fewshot: int, rows: Sequence[int] | None) -> str:
    """A task's version with everything that a run changed about it: this is what results and signatures show.

    >>> stated_version("1.0", TaskSettings(), 5, None)
    '1.0+num_fewshot:5'
    """
    seed = settings.seeds.fewshot
    changes = {
        "num_fewshot": num_fewshot or None,
        "fewshot_seed": seed if num_fewshot and seed != Seeds.fewshot else None,
        "system_instruction": _digest(settings.system_instruction or "") if settings.system_instruction else None,
        "samples" if settings.sample is None else "sample": (
            None if rows is None else f"{len(rows)}@{_digest(repr(rows))}"
        ),
    }
    stated = ",".join(f"{name}:{value}" for name, value in changes.items() if value is not None)
    return f"{version}+{stated}" if stated else version


@contextmanager
def seeded(seeds: Seeds, row: int | None = None) -> Iterator[None]:
    """Global random numbers that hang on the seeds (and on the row) alone; the generators' states come back after.

    lm-eval seeds once for all tasks. Here each task and each row begins anew, so that neither the tasks beside it nor
    the order of rendering can change a prompt.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(seeds.python if row is None else f"{seeds.python}/{row}")
    np.random.seed((seeds.numpy + (0 if row is None else row + 1)) % 2**32)  # it takes 32 bits
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
