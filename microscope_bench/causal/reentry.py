"""One base pass of a batch, and passes that go on from a state it has left, with attention cut in some blocks.

A pass that goes on is the model's own forward pass. What ran before the first block gives what it gave, the blocks that
come before are left out, and the first one that runs is given the state that entered it in the base pass. So whatever a
model does between its blocks and behind them (deepstack, caps, scales) is done by its own code.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from microscope_bench.adapters.base import PADDING, Adapter, Batch
from microscope_bench.adapters.held_modules import held_modules, outermost
from microscope_bench.causal.block_calls import BlockCall, blocks_called, forwards
from microscope_bench.causal.last_position import Copies
from microscope_bench.errors import CaptureError


@dataclass(frozen=True)
class Blocked:
    """What is cut, ``pairs`` bool (B, S, S), by the edge of this name, in the blocks of ``window``, counted from 0."""

    edge: str
    pairs: Tensor
    window: range


class Reentry:
    """The base pass of one batch and what it has left: the states that enter some blocks, and what ran before them.

    Every block is given its attention mask spelt out, in every pass, so that a pass that cuts nothing is the base pass
    to the last bit.

    Attributes:
        labels: int8 (B, S), refined by what enters the first block.
        logits: float32 (B, vocabulary), of the base pass.
    """

    def __init__(self, adapter: Adapter, batch: Batch, starts: Collection[int]) -> None:
        self.labels: np.ndarray = batch.labels
        self._adapter, self._batch = adapter, batch
        self._real = torch.from_numpy(batch.labels != PADDING)
        self._starts = frozenset(starts)
        self._entering: dict[int, Tensor] = {}
        self._beside_hidden: dict[int, tuple[Any, ...] | None] = {}
        self._before: dict[nn.Module, list[Any]] = {}
        self.logits = self._base()

    def blocked(self, cut: Blocked) -> Tensor:
        """float32 (B, vocabulary): the logits of the pass from the window's first block on."""
        start = max(first for first in self._starts if first <= cut.window.start)

        def on_call(number: int, call: BlockCall, forward: Callable[..., Any]) -> Any:
            if number < start:
                return self._beside(number, call.hidden)
            if number == start:
                call = call.of_hidden(self._entering[start].clone())
            call = call.explicit(self._real)
            return (call.without(cut.pairs, cut.edge) if number in cut.window else call).run(forward)

        with self._replayed(), blocks_called(self._adapter, on_call):
            return self._pass()

    def last_copies(self, cut: Tensor, windows: Sequence[range]) -> Iterator[Tensor]:
        """The logits, float32 (B, vocabulary), of each copy of the last position; see :class:`Copies`."""
        copies = Copies(self._real, cut, windows)

        def along(number: int, call: BlockCall, forward: Callable[..., Any]) -> Any:
            if number == 0:
                call = call.of_hidden(self._entering[0].clone())
            return copies.run(number, call.explicit(self._real), forward)

        with self._replayed(), blocks_called(self._adapter, along):
            self._pass()
        assert copies.states is not None  # a block has run
        n_blocks, rows = len(self._adapter.blocks()), torch.arange(len(self._real))
        last = torch.from_numpy(self._batch.last_positions())
        for state in copies.states.unbind(dim=1):

            def behind(number: int, call: BlockCall, forward: Callable[..., Any], state: Tensor = state) -> Any:
                hidden = call.hidden
                if number == n_blocks - 1:
                    hidden = hidden.clone()
                    hidden[rows, last] = state
                return self._beside(number, hidden)

            with self._replayed(), blocks_called(self._adapter, behind):
                logits = self._pass()
            yield logits

    def _beside(self, number: int, hidden: Tensor) -> Any:
        """A state in the form in which block ``number`` returns it."""
        beside = self._beside_hidden[number]
        return hidden if beside is None else (hidden, *beside)

    def _base(self) -> Tensor:
        before = True

        def record(module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            if before:
                self._before.setdefault(module, []).append(_kept(output))
            return output

        def on_call(number: int, call: BlockCall, forward: Callable[..., Any]) -> Any:
            nonlocal before
            if number == 0:
                before = False
                stream = self._adapter.residual(call.hidden)
                self._adapter.check_labels(self._batch, stream)
                self.labels = self._adapter.refine_labels(self._batch, stream)
            if number in self._starts:
                self._entering[number] = call.hidden.clone()
            output = call.explicit(self._real).run(forward)
            self._beside_hidden[number] = tuple(output[1:]) if isinstance(output, tuple | list) else None
            return output

        blocks, roots = set(self._adapter.blocks()), outermost(held_modules(self._adapter))
        beside = [part for root in roots for part in _without_blocks(root, blocks)]
        recorded = {part: partial(record, part, part.forward) for part in beside}
        with forwards(recorded), blocks_called(self._adapter, on_call):
            return self._pass()

    def _pass(self) -> Tensor:
        with torch.no_grad():
            logits = self._adapter.forward(self._batch, logits=True)
        if logits is None:
            raise CaptureError(f"{self._adapter.info.name}: its adapter gives no logits, which knockout compares")
        return logits

    @contextmanager
    def _replayed(self) -> Iterator[None]:
        """Inside, what ran before the first block gives what it gave in the base pass, call by call."""

        def replay(waiting: Iterator[Any], forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            for output in waiting:
                return _kept(output)
            return forward(*args, **kwargs)

        with forwards({m: partial(replay, iter(given), m.forward) for m, given in self._before.items()}):
            yield


def _kept(output: Any) -> Any:
    """What a module returned, as it was: models write into the outputs that transformers' parts return."""
    return output if isinstance(output, Tensor) else copy(output)


def _without_blocks(module: nn.Module, blocks: set[nn.Module]) -> list[nn.Module]:
    """The largest parts of a module that hold no block."""
    if module in blocks:
        return []
    if not any(part in blocks for part in module.modules()):
        return [module]
    return [part for child in module.children() for part in _without_blocks(child, blocks)]
