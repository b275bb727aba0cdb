"""Whether attention knockout cuts, in this model, all that flows along an edge: proved by a pass, or refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from microscope_bench.adapters.base import PADDING, Adapter, Batch
from microscope_bench.adapters.decoder import hidden_among
from microscope_bench.causal.block_calls import BlockCall, blocks_called
from microscope_bench.causal.knockout import Asked, windows
from microscope_bench.causal.reentry import Blocked, Reentry
from microscope_bench.errors import AdapterError

_MASKED = ("sdpa", "eager")


def check_model(adapter: Adapter) -> None:
    """Raises an AdapterError for a model in which no edge can be cut, as far as that is known before a pass."""
    name, attention = adapter.info.name, adapter.info.attention
    if adapter.answers_apart:
        raise AdapterError(
            f"{name} is an encoder-decoder: the answer is read by its decoder's cross-attention, so no position of the "
            f"stream gives it, and an edge to `last` means nothing; attention knockout needs a decoder-only model"
        )
    if adapter.unplaced:
        reason = "; ".join(f"{modality}: {why}" for modality, why in adapter.unplaced.items())
        raise AdapterError(
            f"{name}: no position of the stream holds its media ({reason}). An edge from them would be a cut in the "
            f"cross-attention, which attention knockout between positions does not make; take a model that projects"
        )
    if attention is not None and attention not in _MASKED:
        raise AdapterError(
            f"{name} runs with attention {attention}, which ignores a mask that is cut; load it with --model_args "
            f"attn_implementation=sdpa"
        )


def check_blocks(adapter: Adapter, batch: Batch) -> None:
    """Raises an AdapterError unless attention is the only way between positions, and its mask decides what is read.

    In each block every position is shown itself alone: what leaves the last one must not depend on the others then. And
    with its mask spelt out a block must return what it returns with the mask that the model gives it.
    """
    real = torch.from_numpy(batch.labels != PADDING)
    last = torch.from_numpy(batch.last_positions())
    n, length = real.shape

    def on_call(number: int, call: BlockCall, forward: Callable[..., Any]) -> Any:
        native = call.run(forward)
        spelt = call.explicit(real)
        found = _tried(lambda: _stream(adapter, spelt.run(forward)))
        if found is None or not _close(found[real], _stream(adapter, native)[real]):
            raise AdapterError(
                f"{call.title} does not read its attention mask as causal or as the model has built it, so a cut in it "
                f"would not be what it says"
            )
        alone = spelt.without(real[:, :, None] & ~torch.eye(length, dtype=torch.bool), "")
        hidden = alone.hidden
        axis = next(axis for axis in range(hidden.dim()) if tuple(hidden.shape[axis : axis + 2]) == (n, length))
        flat = hidden.movedim((axis, axis + 1), (0, 1))
        moved = flat.roll(1, dims=1)
        rows = torch.arange(n)
        moved[rows, last] = flat[rows, last]
        moved = moved.movedim((0, 1), (axis, axis + 1))
        seen, unseen = (_stream(adapter, one.run(forward))[rows, last] for one in (alone, alone.of_hidden(moved)))
        if not _close(seen, unseen):
            raise AdapterError(
                f"{call.title} passes something between positions past its attention mask (a recurrence, a "
                f"convolution), so an edge cannot be cut in it"
            )
        return native

    with torch.no_grad(), blocks_called(adapter, on_call):
        adapter.forward(batch, logits=True)


def prepared(adapter: Adapter, batch: Batch, asked: Asked) -> Asked:
    """What is asked for, in a model that is proved to allow it by one batch; else an AdapterError says why it does not.

    Where a pass cannot go on from the last start, since a block needs what a left out one lays by, passes begin at
    block 1; where blocks take no copies of the last position, edges to it are cut like others. Both take longer and
    give the same.
    """
    check_model(adapter)
    check_blocks(adapter, batch)
    start = windows(len(adapter.blocks()), asked.window)[-1].start
    reentry = Reentry(adapter, batch, {0, start})
    n, length = batch.labels.shape
    nothing = torch.zeros(n, length, length, dtype=torch.bool)
    again = _tried(lambda: reentry.blocked(Blocked("", nothing, range(start, start))))
    copied = _tried(lambda: next(reentry.last_copies(nothing[None, :, 0], [range(0)])))
    return replace(
        asked,
        whole=again is None or not torch.equal(again, reentry.logits),
        copies=copied is not None and _close(copied, reentry.logits),
    )


def _tried(run: Callable[[], Tensor]) -> Tensor | None:
    """What a pass gives that not every model can make; None where its code fails on it."""
    try:
        return run()
    except (KeyError, AttributeError, TypeError, IndexError, RuntimeError, ValueError):
        return None


def _stream(adapter: Adapter, output: Any) -> Tensor:
    return adapter.residual(hidden_among(output)).cpu()


def _close(found: Tensor, expected: Tensor) -> bool:
    """Whether two states are equal within rounding in their dtype."""
    eps = torch.finfo(found.dtype).eps
    tolerance = 1e-5 if eps < 1e-6 else 4 * eps
    found, expected = found.float(), expected.float()
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())
