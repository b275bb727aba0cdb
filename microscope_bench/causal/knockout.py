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
        raise MicroscopeError(f"a window of {window} blocks is wider than the model, which has {n_blocks}; give less")
    half = window // 2
    return [range(max(0, centre - half), min(n_blocks, centre + half + 1)) for centre in range(n_blocks)]


@dataclass(frozen=True)
class Asked:
    """What is cut, and how a model allows it.

    Attributes:
        edges: the edges.
        window: blocks around a centre.
        seed: of ``random`` keys.
        whole: whether passes begin at block 1.
        copies: whether edges to the last position go by copies of it; a model's blocks must take longer sequences.
    """

    edges: Sequence[Edge]
    window: int
    seed: int = 0
    whole: bool = False
    copies: bool = False


def knockout(adapter: Adapter, batch: Batch, asked: Asked, choices: Sequence[Sequence[int]] = ()) -> Knockout:
    """Cuts every edge in every window, in one batch; ``choices`` are the tokens of each example's choices.

    The model is in evaluation mode, and ``check_model`` and ``check_blocks`` have let it pass.
    """
    around = windows(len(adapter.blocks()), asked.window)
    reentry = Reentry(adapter, batch, {0} if asked.whole else {0, *(blocks.start for blocks in around)})
    own = reentry.logits.argmax(dim=-1).cpu().numpy()
    tokens = [[int(first), *of_row] for first, of_row in zip(own, choices or [()] * len(own), strict=True)]
    base = log_probabilities(reentry.logits, tokens)
    cuts = [cut_of(edge, reentry.labels, batch.ids, asked.seed) for edge in asked.edges]
    blocked = np.full((len(cuts), len(around), *base.shape), np.nan)
    by_copies = [n for n, edge in enumerate(asked.edges) if asked.copies and edge.goes_to_last_alone]
    if by_copies:
        keys = [torch.from_numpy(cuts[n].pairs.any(axis=1)) for n in by_copies]
        blocked[by_copies] = _of_copies(reentry, keys, around, tokens) + base
    for number, (edge, cut) in enumerate(zip(asked.edges, cuts, strict=True)):
        if cut.applies.any() and number not in by_copies:
            passes = (reentry.blocked(Blocked(edge.name, torch.from_numpy(cut.pairs), blocks)) for blocks in around)
            blocked[number] = [log_probabilities(logits, tokens) for logits in passes]
        blocked[number][:, ~cut.applies] = np.nan
    return Knockout(own, base, blocked, np.stack([_n_keys(cut) for cut in cuts]))


def _of_copies(
    reentry: Reentry, keys: Sequence[Tensor], around: Sequence[range], tokens: Sequence[Sequence[int]]
) -> np.ndarray:
    """Changes of log-probabilities, float64 (edges, L, B, 1 + C), by edges of keys (B, S) to the last position.

    They are changes from a copy that reads everything, which rounding treats as it treats the others.
    """
    every = [(of_edge, blocks) for of_edge in keys for blocks in around]
    found = []
    most = max(1, keys[0].shape[1])  # copies, so that a pass is no more than twice as long
    for start in range(0, len(every), most):
        some = every[start : start + most]
        cut = torch.stack([torch.zeros_like(keys[0]), *(of_edge for of_edge, _ in some)])
        logits = reentry.last_copies(cut, [range(0), *(blocks for _, blocks in some)])
        uncut, *others = (log_probabilities(one, tokens) for one in logits)
        found += [other - uncut for other in others]
    return np.stack(found).reshape(len(keys), len(around), *found[0].shape)


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
