"""Calls of decoder blocks, in the place of which others can be made: with another state, another attention mask."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from microscope_bench.adapters.base import Adapter
from microscope_bench.adapters.decoder import hidden_given
from microscope_bench.errors import AdapterError, CaptureError

_NAME = "attention_mask"
_HIDDEN = ("hidden_states", "hidden_state")


@dataclass(frozen=True)
class BlockCall:
    """One call of a decoder block, whose title names it in errors: ``block 3 (LlamaDecoderLayer)``."""

    block: nn.Module
    title: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def hidden(self) -> Tensor:
        hidden = hidden_given(self.args, self.kwargs)
        if not isinstance(hidden, Tensor):
            raise AdapterError(f"{self.title} was called without a hidden-state tensor")
        return hidden

    def of_hidden(self, hidden: Tensor) -> BlockCall:
        if self.args:
            return replace(self, args=(hidden, *self.args[1:]))
        name = next(name for name in _HIDDEN if name in self.kwargs)
        return replace(self, kwargs={**self.kwargs, name: hidden})

    def run(self, forward: Callable[..., Any]) -> Any:
        return forward(*self.args, **self.kwargs)

    @property
    def mask(self) -> Any:
        if _NAME in self.kwargs:
            return self.kwargs[_NAME]
        place = self._place
        return self.args[place] if place < len(self.args) else None

    def of_mask(self, mask: Tensor) -> BlockCall:
        if _NAME in self.kwargs or (place := self._place) >= len(self.args):
            return replace(self, kwargs={**self.kwargs, _NAME: mask})
        return replace(self, args=(*self.args[:place], mask, *self.args[place + 1 :]))

    @property
    def _place(self) -> int:
        """Place of the mask among the positional arguments."""
        names = list(inspect.signature(type(self.block).forward).parameters)[1:]
        if _NAME not in names:
            raise AdapterError(f"{self.title} is given no attention mask, so there is nothing to cut in")
        return names.index(_NAME)

    def explicit(self, real: Tensor) -> BlockCall:
        """The same call with a 4-D mask, (B, 1, S, S): the causal one where the model has left it to the kernel.

        ``real`` is bool (B, S): which positions are not padding.
        """
        mask, (n, length) = self.mask, real.shape
        if mask is None:
            causal = torch.ones(length, length, dtype=torch.bool, device=self.hidden.device).tril()
            return self.of_mask(causal[None, None].expand(n, 1, length, length))
        if isinstance(mask, Tensor) and mask.dim() == 2:
            raise AdapterError(
                f"{self.title} is given a mask of padding alone: it mixes positions by a recurrence or a convolution, "
                f"and no edge can be cut in those"
            )
        if not isinstance(mask, Tensor) or mask.dim() != 4 or mask.shape[-2:] != (length, length):
            what = f"one of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            raise AdapterError(
                f"{self.title} takes no additive mask of (examples, heads, queries, keys), but {what}, so no edge can "
                f"be cut in it; see attn_implementation=sdpa, or =eager"
            )
        itself = readable(mask.diagonal(dim1=-2, dim2=-1))[real.to(mask.device)[:, None].expand(n, mask.shape[1], -1)]
        if not itself.all():
            raise AdapterError(
                f"{self.title} has a mask by which a position cannot read itself; its meaning is unknown"
            )
        return self.of_mask(mask.expand(n, *mask.shape[1:]))

    def without(self, pairs: Tensor, edge: str) -> BlockCall:
        """The same call, its 4-D mask cut at ``pairs``, bool (B, S, S): there the dtype's minimum, or False."""
        mask, pairs = self.mask, pairs.to(self.hidden.device)[:, None]
        lowest = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
        cut = mask.masked_fill(pairs, lowest)
        blinded = pairs.any(dim=-1) & readable(mask).any(dim=-1) & ~readable(cut).any(dim=-1)
        if blinded.any():
            raise AdapterError(
                f"edge {edge} leaves position {int(blinded.nonzero()[0, -1])} nothing to read in {self.title}, and "
                f"attention to nothing has no meaning; cut another edge"
            )
        return self.of_mask(cut)


def readable(mask: Tensor) -> Tensor:
    """Where a boolean or additive mask lets a query read a key."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


OnCall = Callable[[int, BlockCall, Callable[..., Any]], Any]
"""Number of a block from 0, a call of it, its forward → what the block is to return."""


@contextmanager
def blocks_called(adapter: Adapter, on_call: OnCall) -> Iterator[None]:
    """Inside, where there is one forward pass, ``on_call`` runs each block; a CaptureError unless each runs once."""
    expected = 0

    def run(number: int, block: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal expected
        title = f"block {number + 1} ({type(block).__name__}) of {adapter.info.name}"
        if number != expected:
            raise CaptureError(f"{title} ran where block {expected + 1} was expected: windows need blocks in order")
        expected += 1
        return on_call(number, BlockCall(block, title, args, kwargs), forward)

    blocks = adapter.blocks()
    with forwards({block: partial(run, n, block, block.forward) for n, block in enumerate(blocks)}):
        yield
    if expected != len(blocks):
        raise CaptureError(f"{adapter.info.name}: {expected} of its {len(blocks)} blocks ran in a forward pass")


@contextmanager
def forwards(replaced: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Inside, these modules have another forward."""
    with ExitStack() as restored:
        for module, forward in replaced.items():
            restored.enter_context(mock.patch.object(module, "forward", forward))
        yield
