"""From a bound on memory to how much of a store is looked at once."""

from __future__ import annotations

import torch

from microscope_bench.errors import MetricError
from microscope_bench.measure.survey import MOST_POOL, sample_size
from microscope_bench.measure.tokens import StoredTokens
from microscope_bench.metrics.core.workspace import FLOAT64, MATRICES, Workspace
from microscope_bench.protocol import Protocol
from microscope_bench.system.devices import free_bytes

SHARE_OF_FREE = 0.5  # its allocator needs room too

TOKEN_SETS = 2
BOUNDARIES = 2  # CKA looks at the moments of the next boundary, too
STREAMS = 2  # with stream ``mainflow`` the chain has moments of its own


MOST_OF_THREADS = 4 * 2**30
"""Bytes of the matrices that all threads hold at once: wide models are measured by one thread, on all cores."""


def threads_for(tokens: StoredTokens) -> int:
    """How many boundaries are measured at the same time: one for each core that torch may use.

    One on a GPU, and where ``measure_memory`` bounds what a boundary holds.
    """
    if tokens.device.type != "cpu" or tokens.workspace != Workspace():
        return 1
    matrix = FLOAT64 * tokens.dim**2
    of_one = (MATRICES + 2 * _clouds_waiting(tokens) * tokens.n_folds) * matrix
    return max(1, min(torch.get_num_threads(), MOST_OF_THREADS // of_one))


def workspace_for(tokens: StoredTokens, size: int | None) -> Workspace:
    """The roomiest workspace within ``size`` bytes; None means half of a GPU's free memory, and no bound elsewhere."""
    n_clouds = _clouds_waiting(tokens)
    sample_rows = _sample_rows(tokens.protocol, len(tokens.modality))

    def within(size: int) -> Workspace:
        return Workspace.within(size, tokens.dim, tokens.n_folds, n_clouds, sample_rows)

    if size is not None:
        return within(size)
    free = free_bytes(tokens.device)
    if free is None:
        return Workspace()
    try:
        return within(int(SHARE_OF_FREE * free))
    except MetricError:
        return within(free)


def _clouds_waiting(tokens: StoredTokens) -> int:
    n_modalities = len(tokens.modalities) + (len(tokens.modalities) > 1)
    return n_modalities * TOKEN_SETS * BOUNDARIES * (STREAMS if tokens.store.has_mainflow else 1)


def check_enough(size: int | None, dim: int, protocol: Protocol, n_tokens: int) -> None:
    """Raises a MetricError where ``size`` bytes are too little for ``n_tokens`` tokens of width ``dim``."""
    if size is not None:
        Workspace.within(size, dim, n_folds=1, n_clouds=1, sample_rows=_sample_rows(protocol, n_tokens))


def _sample_rows(protocol: Protocol, n_tokens: int) -> int:
    return min(n_tokens, MOST_POOL * sample_size(protocol))
