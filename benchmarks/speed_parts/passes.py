"""Forward passes that a capture is held against."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from microscope_bench.adapters.base import Adapter, Batch


class _Ended(BaseException):
    """Ends a pass."""


def bare_pass(adapter: Adapter, batch: Batch, *, logits: bool = False) -> Tensor | None:
    """One forward pass with nothing beside it; without logits it ends after the last block, as the capture's does."""
    if logits:
        return adapter.forward(batch, logits=True)

    def end(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        raise _Ended

    handle = adapter.last_module().register_forward_hook(end)
    try:
        with torch.inference_mode():
            adapter.forward(batch, logits=False)
    except _Ended:
        pass
    finally:
        handle.remove()
    return None


def all_states_to_host(adapter: Any, batch: Batch) -> None:
    """What one would do without this package: all hidden states returned by transformers and copied to the host."""
    with torch.inference_mode():
        states = adapter.model(**batch.inputs, use_cache=False, logits_to_keep=1, output_hidden_states=True)
        for state in states.hidden_states:
            state.cpu() if state.is_cuda else state.clone()
