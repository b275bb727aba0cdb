"""How much of a sum over tokens the few largest carry: whether a number is of the cloud or of a handful of its tokens.

Independent of any rule of what a sink is. The share of the largest 5 % is a point of the Lorenz curve (Lorenz 1905, doi
10.2307/2276207), as income statistics give it of the top of a population.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from microscope_bench.metrics.core.cloud_rows import Chunk
from microscope_bench.metrics.core.fold_moments import FoldMoments

TOP = 20
"""One token in so many is counted among the largest: 5 %."""

NOTABLE = 0.5
"""A share above this makes the flag; the largest 5 % of a Gaussian carry .28 along one axis, less of a squared norm."""


CONCENTRATED = "concentrated"
"""Name of the flag that gives such a share."""


class TopShare:
    """The share of a sum of parts, none below 0, that the largest 5 % of them carry; the parts come bit by bit.

    Where 5 % of their number is not whole, the next largest counts by the fraction, so that few tokens are not
    concentrated by their number. What is held is a twentieth of the parts.

    >>> parts = TopShare(40)
    >>> parts.add(torch.ones(38))
    >>> parts.add(torch.tensor([56.0, 6.0]))
    >>> parts.share
    0.62
    """

    def __init__(self, n: int) -> None:
        self.n, self._total, self._largest = n, 0.0, torch.empty(0)

    def add(self, parts: Tensor) -> None:
        self._total += float(parts.sum())
        seen = torch.cat([self._largest.to(parts), parts])
        self._largest = seen.topk(min(-(-self.n // TOP), len(seen))).values

    @property
    def share(self) -> float | None:
        """None where the parts sum to 0."""
        if not self._total > 0:
            return None
        whole, rest = divmod(self.n, TOP)
        largest = float(self._largest[:whole].sum())
        if rest:
            largest += float(self._largest[whole]) * rest / TOP
        return min(largest / self._total, 1.0)


@dataclass(frozen=True)
class Concentration:
    """What share of each sum of squares the largest 5 % of a cloud's tokens carry; None where there is no such sum.

    Attributes:
        first_axis: of σ₁² = Σ (u₁ᵀ(x − x̄))².
        hidden: of Σ ‖y − ȳ‖², which the linear map of stream ``hidden`` is to explain.
        update: of Σ ‖r − r̄‖², r = y − x.
    """

    first_axis: float | None = None
    hidden: float | None = None
    update: float | None = None


def concentration_of(chunks: Iterable[Chunk], folds: FoldMoments, axis: Tensor | None) -> Concentration:
    """One pass over the rows of a cloud; ``folds`` are its moments, ``axis`` (d,) its first principal axis."""
    parts = [fold for fold in folds.folds if fold.n]
    if folds.non_finite_x or not parts:
        return Concentration()
    n = torch.tensor([part.n for part in parts], dtype=torch.float64, device=parts[0].mean_x.device)
    mean_x = n @ torch.stack([part.mean_x for part in parts]) / n.sum()
    mean_r = n @ torch.stack([part.mean_r for part in parts]) / n.sum()
    along, hidden, update = (TopShare(int(n.sum())) for _ in range(3))
    for chunk in chunks:
        x = chunk.x.double() - mean_x
        if axis is not None:
            along.add((x @ axis).square())
        if chunk.y is not None and not folds.non_finite:
            y = chunk.y.double() - (mean_x + mean_r)  # never in place: of float64 states it is no copy
            hidden.add(torch.linalg.vector_norm(y, dim=1).square())
            update.add(torch.linalg.vector_norm(y.sub_(x), dim=1).square())
    return Concentration(along.share, hidden.share, update.share)


def flags_of(share: float | None) -> tuple[str, ...]:
    """``concentrated=share`` where the largest 5 % of the tokens carry more than half.

    >>> flags_of(0.834), flags_of(0.5), flags_of(None)
    (('concentrated=0.83',), (), ())
    """
    return () if share is None or share <= NOTABLE else (f"{CONCENTRATED}={share:.2f}",)
