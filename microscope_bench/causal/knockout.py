"""Attention knockout: the probability of an answer where, in a window of blocks, queries cannot read keys.

The recipe is that of Geva et al. (arXiv 2304.14767) as arXiv 2411.18620 applies it to pictures: for every centre block
the blocks around it are cut, all heads, and the probability of the model's own first answer token is read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from microscope_bench.adapters.base import Adapter, Batch
from microscope_bench.causal.edges import Cut, Edge, cut_of
from microscope_bench.causal.reentry import Blocked, Reentry
from microscope_bench.errors import CaptureError, MicroscopeError


@dataclass(frozen=True)
class Knockout:
    """Log-probabilities, natural, of the model's own first answer token and behind it of each choice.

    Attributes:
        own: int64 (B,): the token.
        base: float64 (B, 1 + C), of the unblocked pass; NaN behind the last choice of an example.
        blocked: float64 (edges, L, B, 1 + C), by centre block; NaN where an edge does not apply to an example.
        n_keys: int64 (edges, B): positions that an edge cuts off; -1 where it does not apply.
    """

    own: np.ndarray
    base: np.ndarray
    blocked: np.ndarray
    n_keys: np.ndarray


def windows(n_blocks: int, window: int) -> list[range]:
    """The blocks, counted from 0, that are cut around each centre block.

    >>> windows(4, 3)
    [range(0, 2), range(0, 3), range(1, 4), range(2, 4)]
    """
    if window < 1 or window % 2 == 0:
        raise MicroscopeError(f"window must be an odd number of blocks, so that it has a centre, not {window}")
    if window > n_blocks:
        raise MicroscopeError(f"a window of {window} blocks is wider than the model, which has {n_blocks}")
    half = window // 2
    return [range(max(0, centre - half), min(n_blocks, centre + half + 1)) for centre in range(n_blocks)]


@dataclass(frozen=True)
class Asked:
    """What is cut: edges, the width of the window, the seed of ``random`` keys, and whether passes begin at block 1."""

    edges: Sequence[Edge]
    window: int
    seed: int = 0
    whole: bool = False


def knockout(adapter: Adapter, batch: Batch, asked: Asked, choices: Sequence[Sequence[int]] = ()) -> Knockout:
    """Cuts every edge in every window, in one batch; ``choices`` are the tokens of each example's choices.

    The model is in evaluation mode, and ``check_model`` and ``check_blocks`` have let it pass.
    """
    around = windows(len(adapter.blocks()), asked.window)
    reentry = Reentry(adapter, batch, {0} if asked.whole else {blocks.start for blocks in around})
    own = reentry.logits.argmax(dim=-1).cpu().numpy()
    tokens = [[int(first), *of_row] for first, of_row in zip(own, choices or [()] * len(own), strict=True)]
    base = log_probabilities(reentry.logits, tokens)
    cuts = [cut_of(edge, reentry.labels, batch.ids, asked.seed) for edge in asked.edges]
    blocked = np.full((len(cuts), len(around), *base.shape), np.nan)
    for number, (edge, cut) in enumerate(zip(asked.edges, cuts, strict=True)):
        if not cut.applies.any():
            continue
        pairs = torch.from_numpy(cut.pairs)
        for centre, blocks in enumerate(around):
            found = log_probabilities(reentry.blocked(Blocked(edge.name, pairs, blocks)), tokens)
            blocked[number, centre, cut.applies] = found[cut.applies]
    return Knockout(own, base, blocked, np.stack([_n_keys(cut) for cut in cuts]))


def _n_keys(cut: Cut) -> np.ndarray:
    return np.where(cut.applies, cut.n_keys, -1)


def log_probabilities(logits: Tensor, tokens: Sequence[Sequence[int]]) -> np.ndarray:
    """float64 (B, most): log-probability of some tokens of each row, NaN behind the last."""
    logprobs = torch.log_softmax(logits.double(), dim=-1).cpu()
    found = np.full((len(tokens), max(map(len, tokens))), np.nan)
    for row, of_row in enumerate(tokens):
        found[row, : len(of_row)] = logprobs[row, list(of_row)].numpy()
        if np.isnan(found[row, : len(of_row)]).any():
            raise CaptureError("the logits hold NaN or infinity; take a wider type: --model_args dtype=float32")
    return found
