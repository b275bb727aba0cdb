"""Reads every boundary of a decoder while it runs, with plain forward hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from microscope_bench.adapters.base import Adapter, Batch
from microscope_bench.adapters.decoder import hidden_among, hidden_given
from microscope_bench.errors import CaptureError

OnBoundary = Callable[[int, Tensor], None]


class _PassEnded(BaseException):
    """Ends a forward pass once nothing after it is needed; a BaseException so that model code does not catch it."""


def hidden_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    hidden = hidden_given(args, kwargs)
    if not isinstance(hidden, Tensor):
        raise CaptureError(
            f"a decoder block was called without a hidden-state tensor, but with {type(hidden).__name__}"
        )
    return hidden


def hidden_out(output: Any) -> Tensor:
    hidden = hidden_among(output)
    if not isinstance(hidden, Tensor):
        raise CaptureError(f"a decoder block returned no hidden-state tensor, but {type(hidden).__name__}")
    return hidden


@contextmanager
def boundary_hooks(
    blocks: Sequence[nn.Module], last: nn.Module, on_boundary: OnBoundary, *, end_pass: bool
) -> Iterator[None]:
    """Calls ``on_boundary(l, h)`` for l = 0..L while the blocks run inside this context.

    Boundary l < L is the input of block l + 1, boundary L the output of ``last``, before the final norm. The tensor is
    the model's own: read it at once and do not change it. With ``end_pass``, which needs :func:`run_pass` around it,
    the forward pass is left right after boundary L.
    """

    def before(layer: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        on_boundary(layer, hidden_in(args, kwargs))

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        on_boundary(len(blocks), hidden_out(output))
        if end_pass:
            raise _PassEnded

    with ExitStack() as hooks:
        for layer, block in enumerate(blocks):
            hooks.enter_context(block.register_forward_pre_hook(partial(before, layer), with_kwargs=True))
        hooks.enter_context(last.register_forward_hook(after))
        yield


def run_pass(
    adapter: Adapter,
    batch: Batch,
    on_boundary: OnBoundary,
    *,
    logits: bool,
    beside: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Tensor | None:
    """One forward pass that hands every boundary to ``on_boundary``, in order and once; see :func:`watched`.

    ``beside`` makes further hooks to hold during the pass; they run before those that end it. Returns the next-token
    logits, float32 (B, vocabulary), or None when ``logits`` is False: the pass then ends after the last block.
    """
    result = None
    with torch.no_grad(), beside(), watched(adapter, on_boundary, end_pass=not logits):
        try:
            result = adapter.forward(batch, logits=logits)
        except _PassEnded:
            pass
    return result


@contextmanager
def watched(
    adapter: Adapter, on_boundary: OnBoundary, *, end_pass: bool = False, first_pass_only: bool = False
) -> Iterator[None]:
    """Hands every boundary of the one forward pass inside this context to ``on_boundary``, in order and once.

    ``end_pass``, inside :func:`run_pass`, ends the pass at the last boundary: nobody reads the logits.
    ``first_pass_only`` lets further passes by, those of the words that ``generate`` adds.

    Raises:
        CaptureError: a boundary comes twice, out of order, with other positions than the first, or not at all.
    """
    blocks = adapter.blocks()
    optional = adapter.optional_blocks()
    expected, positions = 0, None

    def in_order(layer: int, hidden: Tensor) -> None:
        nonlocal expected, positions
        if first_pass_only and expected == len(blocks) + 1:
            return
        hidden = adapter.residual(hidden)
        positions = positions or tuple(hidden.shape[:-1])
        if tuple(hidden.shape[:-1]) != positions:
            raise CaptureError(
                f"{adapter.info.name}: boundary {layer} has {tuple(hidden.shape[:-1])} positions and boundary 0 "
                f"{positions}; a stream whose positions are merged on the way cannot be measured"
            )
        while expected < layer and expected in optional:  # left out: what enters the next block entered this one
            expected += 1
            on_boundary(expected - 1, hidden)
        if layer != expected:
            raise CaptureError(
                f"{adapter.info.name}: boundary {layer} came where boundary {expected} was expected; blocks() must "
                f"list the decoder blocks in the order they run, each of which runs once in a forward pass"
            )
        expected += 1
        on_boundary(layer, hidden)

    with boundary_hooks(blocks, adapter.last_module(), in_order, end_pass=end_pass):
        yield
    if expected != len(blocks) + 1:
        raise CaptureError(
            f"{adapter.info.name}: the forward pass handed over {expected} of {len(blocks) + 1} boundaries; blocks() "
            f"lists {len(blocks)} blocks that forward() does not run"
        )
