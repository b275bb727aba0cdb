"""One look at every boundary before anything is measured: which tokens are sinks, which are copies of another.

Both decide what all boundaries are measured on. A sink is left out of ``no_sinks`` at every boundary, so that a curve
over the layers is one of the same tokens. And since intrinsic dimension depends on the number of tokens, every cloud of
a run is measured on the same number: the largest that all of them have.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from microscope_bench.measure.tokens import JOINT, StoredTokens
from microscope_bench.metrics.core.duplicates import first_of_copies
from microscope_bench.metrics.core.sinks import long_rows, massive_rows
from microscope_bench.system.processes import ALONE, Processes

LEAST_MATCHED = 512  # a cloud of fewer distinct tokens does not lower the number for the others; it is flagged instead
POOL = 1.25  # tokens looked at first for each one wanted: copies among them are dropped
MOST_POOL = 5
"""The most it looks at: a vocabulary has no more distinct vectors in a hundred thousand tokens; they take memory."""


class Survey:
    """What is known about the tokens of a store before they are measured.

    ``massive`` are, by boundary, the tokens that are sinks there (not told of some examples only), ``is_sink`` (N,)
    those that are at any. All of the surveys ``beside`` one are measured on the same number of tokens.
    """

    def __init__(self, tokens: StoredTokens, n_layers: int) -> None:
        self.tokens, self.n_layers = tokens, n_layers
        self.is_sink = np.zeros(len(tokens.modality), dtype=bool)
        self.massive: dict[int, np.ndarray] = {}
        self.beside: tuple[Survey, ...] = ()
        self._copies: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}
        self._distinct: dict[tuple[str, int], int] = {}

    @cached_property
    def matched_n(self) -> int:
        """Distinct tokens on which every cloud of the run is measured, where it has as many."""
        return min(part.own_matched_n for part in (self, *self.beside))

    @cached_property
    def own_matched_n(self) -> int:
        """The protocol's number, halved until every cloud from boundary 1 on has as many distinct tokens.

        Boundary 0 does not count: there text is a vocabulary, of a few dozen distinct vectors whatever the model.
        """
        each = [self._distinct_at(at) for at in self._clouds(range(1, self.n_layers + 1))]
        enough = [distinct for distinct in each if distinct >= LEAST_MATCHED]
        matched, fewest = self.tokens.protocol.id_tokens, min(enough, default=LEAST_MATCHED)
        while matched > fewest and matched // 2 >= LEAST_MATCHED:
            matched //= 2
        return matched

    def share_distinct(self, own: range, processes: Processes) -> None:
        """Counts what :attr:`own_matched_n` asks for, each process at its own boundaries; all of them call this."""
        counted = {at: self._distinct_at(at) for at in self._clouds(range(max(own.start, 1), own.stop))}
        for others in processes.gather(counted):
            self._distinct.update(others)

    def _clouds(self, layers: range) -> list[tuple[str, int]]:
        modalities = self.tokens.modalities
        return [
            (name, layer) for name in ([*modalities, JOINT] if len(modalities) > 1 else modalities) for layer in layers
        ]

    def _distinct_at(self, at: tuple[str, int]) -> int:
        if at not in self._distinct:
            self._distinct[at] = n_distinct(self.copies(*at, without_sinks=True)[1])
        return self._distinct[at]

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
        """Looks at ever more tokens until as many distinct ones are found as the protocol wants, or at the most it may.

        Sinks do not count among them, so that both token sets have enough.
        """
        wanted = self.tokens.protocol.id_tokens
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
