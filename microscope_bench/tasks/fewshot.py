"""Few-shot examples as lm-eval draws them, but of any row at any time."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from microscope_bench.errors import TaskError, field_error, said
from microscope_bench.tasks.splits import Split, split_name

log = logging.getLogger(__name__)


class FewshotDraws:
    """Stands in for lm-eval's sampler, whose draws depend on the order in which rows are rendered.

    lm-eval renders the measured rows once, in their order. The draw of a row is therefore made after those of all rows
    before it, and kept. ``exclude_row`` says whether lm-eval tells the sampler which row the examples are for.
    """

    def __init__(self, sampler: Any, rows: Any, *, exclude_row: bool) -> None:
        self._sampler = sampler
        self._rows = rows
        self._exclude_row = exclude_row
        self._drawn: list[list[Any]] = []
        self.row = 0  # the one that is rendered next

    def sample(self, n: int, **_: object) -> list[Any]:
        while len(self._drawn) <= self.row:
            row = self._rows[len(self._drawn)] if self._exclude_row else None
            self._drawn.append(list(self._sampler.sample(n=n, eval_doc=row)))
        return self._drawn[self.row]


def number_of_shots(config: Mapping[str, Any], asked: int | None, path: Path) -> int:
    """How many few-shot examples a task's prompts have: those asked for or the file's, whose 0 stays, as in lm-eval."""
    own = config.get("num_fewshot")
    wanted = int(own or 0) if asked is None else asked
    media = [field for field in ("doc_to_image", "doc_to_audio") if config.get(field) is not None]
    if wanted and media:
        raise TaskError(
            f"{path}: {wanted} few-shot examples and {media[0]}: lm-eval cannot give the pictures or sounds of "
            f"few-shot examples to a model yet (only those of the question). Ask for --num_fewshot 0"
        )
    if wanted and own == 0:
        log.warning("%s: num_fewshot is 0 in the task file, which overrules --num_fewshot, as in lm-eval", path)
        return 0
    return wanted


def fewshot_pool(config: Mapping[str, Any], split: Split, rows: Any, path: Path) -> list[Any]:
    """What few-shot examples are drawn from, by lm-eval's rule."""
    own: Mapping[str, Any] = config.get("fewshot_config") or {}
    wanted, process = fewshot_split(config), config.get("process_docs")
    field = "fewshot_split"
    if wanted:
        process = own.get("process_docs", process)
    elif own.get("samples") is not None:
        samples = own["samples"]
        return list(samples() if callable(samples) else samples)
    else:
        field = "training_split" if config.get("training_split") else "validation_split"
        wanted = config.get(field)
    if not wanted:
        return list(rows)
    try:
        found = split.all_splits[split_name(split.all_splits, wanted)]
        return list(process(found) if process is not None else found)
    except Exception as error:  # of the task's own function, or no such split
        raise field_error(path, field, f"few-shot examples cannot be had: {said(error)}") from error


def fewshot_split(config: Mapping[str, Any]) -> str | None:
    own: Mapping[str, Any] = config.get("fewshot_config") or {}
    named: str | None = own.get("split", config.get("fewshot_split"))
    return named
