"""From a bound on memory to how much of a store is looked at once."""

from __future__ import annotations

from microscope_bench.errors import MetricError
from microscope_bench.measure.survey import MOST_POOL, sample_size
from microscope_bench.measure.tokens import StoredTokens
from microscope_bench.metrics.core.workspace import Workspace
from microscope_bench.protocol import Protocol
from microscope_bench.system.devices import free_bytes

SHARE_OF_FREE = 0.5  # its allocator needs room too

TOKEN_SETS = 2
BOUNDARIES = 2  # CKA looks at the moments of the next boundary, too
STREAMS = 2  # with stream ``mainflow`` the chain has moments of its own


def workspace_for(tokens: StoredTokens, size: int | None) -> Workspace:
    """The roomiest workspace within ``size`` bytes; None means half of a GPU's free memory, and no bound elsewhere."""
    n_clouds = (len(tokens.modalities) + (len(tokens.modalities) > 1)) * TOKEN_SETS * BOUNDARIES
    if tokens.store.has_mainflow:
        n_clouds *= STREAMS
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


def check_enough(size: int | None, dim: int, protocol: Protocol, n_tokens: int) -> None:
    """Raises a MetricError where ``size`` bytes are too little for ``n_tokens`` tokens of width ``dim``."""
    if size is not None:
        Workspace.within(size, dim, n_folds=1, n_clouds=1, sample_rows=_sample_rows(protocol, n_tokens))


def _sample_rows(protocol: Protocol, n_tokens: int) -> int:
    return min(n_tokens, MOST_POOL * sample_size(protocol))
