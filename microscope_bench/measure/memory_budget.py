"""From a bound on memory to how much of a store is looked at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from microscope_bench.config import RunConfig
from microscope_bench.errors import MetricError
from microscope_bench.measure.survey import MOST_POOL, sample_size
from microscope_bench.measure.tokens import StoredTokens
from microscope_bench.metrics.core.workspace import MATRICES, Sizes, Workspace
from microscope_bench.metrics.record import Metric
from microscope_bench.metrics.registry import METRICS
from microscope_bench.protocol import Protocol
from microscope_bench.system.devices import free_bytes, measuring_device
from microscope_bench.system.memory import free_memory, out_of_memory

LOG = logging.getLogger("microscope_bench")
T = TypeVar("T")

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
    workspace = tokens.workspace
    if tokens.device.type != "cpu" or replace(workspace, kept=True) != Workspace():
        return 1
    sizes = _sizes_of(tokens, ())
    of_one = MATRICES * sizes.matrix + sizes.moments(sizes.n_clouds if workspace.kept else sizes.n_together)
    return max(1, min(torch.get_num_threads(), MOST_OF_THREADS // of_one))


def workspace_for(tokens: StoredTokens, size: int | None, metrics: Sequence[Metric]) -> Workspace:
    """The roomiest workspace within ``size`` bytes; None means half of a GPU's free memory, and no bound elsewhere.

    Where there is none, the moments of all clouds of a boundary are kept up to :data:`MOST_OF_THREADS`.
    """
    sizes = _sizes_of(tokens, metrics)
    if size is not None:
        return Workspace.within(size, sizes)
    free = free_bytes(tokens.device)
    if free is None:
        every = MATRICES * sizes.matrix + sizes.moments(sizes.n_clouds)
        return Workspace(kept=every <= MOST_OF_THREADS)
    try:
        return Workspace.within(int(SHARE_OF_FREE * free), sizes)
    except MetricError:
        return Workspace.within(free, sizes)


def in_less_memory(tokens: StoredTokens, work: Callable[[], T], forget: Callable[[], None]) -> T:
    """What ``work`` gives. Where memory runs out, it is done again with fewer rows at once, and so is all that follows.

    ``forget`` lets go of what was computed before memory ran out.
    """
    while True:
        workspace = tokens.workspace
        try:
            return work()
        except Exception as error:
            tighter = workspace.tighter(tokens.n_folds, can_park=tokens.device.type != "cpu")
            if not out_of_memory(error) or tighter == workspace:
                raise
        forget()
        free_memory()
        if not workspace.tightened:
            LOG.warning("out of memory while measuring; going on with fewer rows at once, which changes no score")
        tokens.workspace = tighter


def check_enough(config: RunConfig, dim: int, n_examples: int, n_modalities: int) -> None:
    """Raises a MetricError where ``measure_memory`` is too little for what so many examples can give at most."""
    if config.measure_memory is None:
        return
    metrics = [METRICS.get(name) for name in config.metrics]
    n_tokens = n_examples * config.protocol.tokens_per_example * n_modalities
    device = measuring_device(config.device)
    sizes = Sizes(
        dim=dim,
        n_folds=max(1, min(config.protocol.folds, n_examples)),
        n_clouds=1,
        n_together=_together(metrics, config.mainflow),
        sample_rows=_sample_rows(config.protocol, n_tokens),
        can_park=device.type != "cpu",
    )
    Workspace.within(config.measure_memory, sizes)


def _sizes_of(tokens: StoredTokens, metrics: Sequence[Metric]) -> Sizes:
    n_modalities, streams = len(tokens.modalities), STREAMS if tokens.store.has_mainflow else 1
    return Sizes(
        dim=tokens.dim,
        n_folds=tokens.n_folds,
        n_clouds=(n_modalities + (n_modalities > 1)) * TOKEN_SETS * BOUNDARIES * streams,
        n_together=_together(metrics, tokens.store.has_mainflow),
        sample_rows=_sample_rows(tokens.protocol, len(tokens.modality)),
        can_park=tokens.device.type != "cpu",
    )


def _together(metrics: Sequence[Metric], has_mainflow: bool) -> int:
    """A cloud, and one beside it: that of text, of the next boundary (linearity has moments of both), or of the chain.

    >>> [_together([METRICS.get(name)], False) for name in ("linearity", "cka", "modality_gap")]
    [1, 2, 2]
    """
    alone = all(metric.compares == "cloud" or metric.name == "linearity" for metric in metrics)
    return 1 if alone and not has_mainflow else 2


def _sample_rows(protocol: Protocol, n_tokens: int) -> int:
    return min(n_tokens, MOST_POOL * sample_size(protocol))
