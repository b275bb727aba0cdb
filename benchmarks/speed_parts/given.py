"""Examples rendered and batches encoded beforehand, so that a figure is of the passes and of the capture alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from microscope_bench.adapters.base import Batch
from microscope_bench.example import Example


class Encoded:
    """An adapter whose batches have been encoded before; everything else is the adapter's."""

    def __init__(self, adapter: Any, batches: Sequence[Batch]) -> None:
        self._adapter, self._batches = adapter, {batch.ids: batch for batch in batches}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def encode(self, examples: Sequence[Example]) -> Batch:
        """The batch of these examples."""
        return self._batches[tuple(example.id for example in examples)]


class Rendered:
    """A task whose examples have been rendered before."""

    def __init__(self, task: Any) -> None:
        self.name, self.version, self.dataset, self.ids = task.name, task.version, task.dataset, task.ids
        self._examples = [task.example(index) for index in range(len(task))]

    def __len__(self) -> int:
        return len(self.ids)

    def example(self, index: int) -> Example:
        """One of them."""
        return self._examples[index]
