"""How large a token store will be, said and checked before the first forward pass."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import torch

from microscope_bench.adapters.base import Adapter
from microscope_bench.errors import StoreError
from microscope_bench.protocol import Protocol

LOG = logging.getLogger(__name__)


def store_bytes(
    n_tokens: int, n_boundaries: int, hidden_size: int, dtype: torch.dtype, *, mainflow: bool = False
) -> int:
    # stream ``mainflow`` has boundary 0 in common with the residual stream
    n_states = 2 * n_boundaries - 1 if mainflow else n_boundaries
    return n_tokens * n_states * hidden_size * dtype.itemsize


def check_space(path: Path, adapter: Adapter, protocol: Protocol, n_examples: int, mainflow: bool = False) -> None:
    """Logs how large a store for ``n_examples`` more will be at most, and raises where the disk of ``path`` is full."""
    info = adapter.info
    n_tokens = n_examples * protocol.tokens_per_example * len(adapter.modalities)
    dtype = getattr(torch, info.dtype)
    needed = store_bytes(n_tokens, info.n_layers + 1, info.hidden_size, dtype, mainflow=mainflow)
    free = shutil.disk_usage(path).free
    LOG.info("token store %s: at most %s; %s are free", path, _size(needed), _size(free))
    if needed > free:
        raise StoreError(
            f"the token store needs up to {_size(needed)}, but {path} has {_size(free)} free. Name a larger disk with "
            f"--store, or keep less with --tokens_per_example or --limit (both show in the signature)"
        )


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:,.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:,.1f} MB"
