"""Massive-activation tokens ("sinks"): how they are told from the rest, and how much of a cloud's variance they carry.

The rule ``massive/2``; ``docs/protocol.md`` gives its reasons. A token is a sink where it holds a massive activation in
the sense of Sun et al. 2024 (arXiv 2402.17762), a coordinate above 100 and above 300 times the median magnitude of its
coordinates; or, since small models have other scales, where it is far longer than the tokens of its modality are: above
4 times as long as the median token, and by more than their lengths differ by nature.
"""

from __future__ import annotations

import torch
from torch import Tensor

from microscope_bench.metrics.core.moments import LARGEST

MAGNITUDE = 100.0
MEDIANS = 300.0
NORMS = 4.0
SPREADS = 3.5
"""How many times as far as the ninetieth percentile of the log norms lies from their median: 4.5 standard deviations of
normal ones."""

NOTABLE_SHARE = 0.1
"""A coordinate that holds more than this share of a sink's squared norm is named among the sinks' dimensions."""

MOST_DIMENSIONS = 16


def massive_rows(x: Tensor) -> Tensor:
    """Which rows hold a massive activation; not those with NaN, infinity or a number beyond 1e60, which are a fault.

    >>> x = torch.ones(3, 8)
    >>> x[1, 2], x[2, 2] = 301.0, torch.inf
    >>> massive_rows(x)
    tensor([False,  True, False])
    """
    magnitude = x.abs()
    top = magnitude.amax(1) if x.shape[1] else magnitude.new_zeros(len(x))
    found = (top > MAGNITUDE) & (top.double() <= LARGEST)
    candidates = torch.nonzero(found).flatten()  # few: the medians of all rows would take longer than all else
    medians = magnitude[candidates].double().median(1).values
    found[candidates] = top[candidates].double() > MEDIANS * medians
    return found


def long_rows(norms: Tensor) -> Tensor:
    """Which rows are far longer than the median row; NaN and norms beyond 1e60 are left out.

    Far is above 4 times its norm m, and log(norm / m) above 3.5 times log(q / m), q the ninetieth percentile: where
    lengths spread widely by nature, as log-normal ones do, the end of that spread is no sink.

    >>> long_rows(torch.tensor([1.0, 1.1, 1.0, 4.5, torch.inf], dtype=torch.float64))
    tensor([False, False, False,  True, False])
    """
    finite = norms <= LARGEST
    ordered = norms[finite].sort().values
    if not len(ordered):
        return finite
    middle, high = ordered[(len(ordered) - 1) // 2], ordered[9 * (len(ordered) - 1) // 10]
    if not middle > 0:
        return torch.zeros_like(finite)  # zeros would make a sink of every other token
    least = torch.maximum(NORMS * middle, middle * (high / middle) ** SPREADS)
    return finite & (norms > least)


def notable_dimensions(x: Tensor) -> list[int]:
    """The coordinates that hold more than a tenth of a row's squared norm, at most 16, the most frequent first."""
    squares = x.double().square()
    counts = (squares > NOTABLE_SHARE * squares.sum(1, keepdim=True)).sum(0)
    order = counts.argsort(descending=True, stable=True)[:MOST_DIMENSIONS]
    return [int(j) for j in order if counts[j] > 0]


def top_variance_share(first_axis: tuple[float, Tensor], deviations: Tensor) -> float:
    """The share of σ₁² that some rows carry, Σ over them of (u₁ᵀ(x − x̄))² / σ₁².

    ``first_axis`` is σ₁² and u₁ of the whole cloud, ``deviations``, float64 (n, d), are the rows' x − x̄.
    """
    variance, axis = first_axis
    return min(float((deviations @ axis).square().sum()) / variance, 1.0)
