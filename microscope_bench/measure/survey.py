"""One look at every boundary before anything is measured: which tokens are sinks, which are copies of another.

Both decide what all boundaries are measured on. A sink is left out of ``no_sinks`` at every boundary, so that a curve
over the layers is one of the same tokens. Copies are left out where neighbours are looked for.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from microscope_bench.measure.tokens import StoredTokens
from microscope_bench.metrics.core.cloud import MOST_DRAWS
from microscope_bench.metrics.core.duplicates import first_of_copies
from microscope_bench.metrics.core.sinks import long_rows, massive_rows
from microscope_bench.protocol import Protocol
from microscope_bench.system.processes import ALONE, Processes

POOL = 1.25  # tokens looked at first for each one wanted: copies among them are dropped
MOST_POOL = 5
"""The most it looks at: a vocabulary has no more distinct vectors in a hundred thousand tokens; they take memory."""


class Survey:
    """What is known about the tokens of a store before they are measured.

    ``massive`` are, by boundary, the tokens that are sinks there (not told of some examples only), ``is_sink`` (N,)
    those that are at any.
    """

    def __init__(self, tokens: StoredTokens, n_layers: int) -> None:
        self.tokens, self.n_layers = tokens, n_layers
        self.is_sink = np.zeros(len(tokens.modality), dtype=bool)
        self.massive: dict[int, np.ndarray] = {}
        self._copies: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}

    def of_examples(self, kept: np.ndarray) -> Survey:
        """What was found, of the tokens of some examples only: what is a sink among all tokens stays one."""
        part = Survey(self.tokens.of_examples(kept), self.n_layers)
        everyone = np.arange(len(part.is_sink))
        # by their keys: another copy may stand for a token here
        part.is_sink = np.isin(
            part.tokens.keys(1, everyone).cpu(), self.tokens.keys(1, np.flatnonzero(self.is_sink)).cpu()
        )
        return part

    def copies(self, modality: str, layer: int, without_sinks: bool) -> tuple[np.ndarray, Tensor]:
        """The tokens that a sample of distinct ones is drawn from, (n,) in random order, and which of them are copies.

        That is int64 (n,), for each the place of the first one that it is a copy of, itself where it is none.
        """
        if (modality, layer) not in self._copies:
            self._copies[modality, layer] = self._find_copies(modality, layer)
        pool, first = self._copies[modality, layer]
        if without_sinks:
            pool, first = self._without_sinks(pool, first)
        return pool, torch.from_numpy(first).to(self.tokens.device)

    def _find_copies(self, modality: str, layer: int) -> tuple[np.ndarray, np.ndarray]:
        """Looks at ever more tokens until as many distinct ones are found as a sample has, or at the most it may.

        Sinks do not count among them, so that both token sets have enough.
        """
        wanted = sample_size(self.tokens.protocol)
        order = self.tokens.sample(modality, MOST_POOL * wanted)
        most = int(POOL * wanted)
        while True:
            pool = order[:most]
            x = self.tokens.states(layer, pool)
            keys, block_elements = self.tokens.keys(layer, pool), self.tokens.workspace.block_elements
            first = first_of_copies(x, keys, block_elements).cpu().numpy()
            enough = len(pool) == len(order) or most >= MOST_POOL * wanted
            if enough or n_distinct(self._without_sinks(pool, first)[1]) >= wanted:
                return pool, first
            most *= 2

    def _without_sinks(self, pool: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        keep = ~self.is_sink[pool]
        # the copies of a sink that are none stay, and the first of them stands for the others
        _, where, group = np.unique(first[keep], return_index=True, return_inverse=True)
        return pool[keep], where[group]


def sample_size(protocol: Protocol) -> int:
    """Tokens of the largest sample that metrics look at: all draws of intrinsic dimension."""
    return MOST_DRAWS * protocol.id_tokens


def n_distinct(first: np.ndarray | Tensor) -> int:
    return len(np.unique(np.asarray(first)))


def survey(
    tokens: StoredTokens,
    n_layers: int,
    own: range | None = None,
    processes: Processes = ALONE,
    *,
    progress: bool = False,
) -> Survey:
    """Finds the sinks at every boundary; copies are looked for when they are first asked for.

    This process looks at the boundaries ``own`` (None: all of them), the other processes at the others.
    """
    found = Survey(tokens, n_layers)
    layers = range(n_layers + 1) if own is None else own
    bar = tqdm(layers, desc="survey", unit="boundary", disable=not progress)
    massive = {layer: _massive(tokens, layer) for layer in bar}
    for others in processes.gather(massive):
        found.massive.update(others)
    for rows in found.massive.values():
        found.is_sink[rows] = True
    return found


def _massive(tokens: StoredTokens, layer: int) -> np.ndarray:
    n, at_once = len(tokens.modality), tokens.workspace.rows_per_chunk
    sink = np.zeros(n, dtype=bool)
    norms = torch.empty(n, dtype=torch.float64)
    for start in range(0, n, at_once):
        rows = np.arange(start, min(start + at_once, n))
        x = tokens.states(layer, rows)
        norms[start : start + len(rows)] = torch.linalg.vector_norm(x.double(), dim=1).cpu()
        sink[rows] = massive_rows(x).cpu().numpy()
    for modality in tokens.modalities:
        index = tokens.of(modality)
        sink[index] |= long_rows(norms[torch.from_numpy(index)]).numpy()
    return np.flatnonzero(sink)
