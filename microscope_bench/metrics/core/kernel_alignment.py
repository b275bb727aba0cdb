"""Linear CKA between boundaries l and l + 1, of all rows and without each fold."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from microscope_bench.metrics.core.cached import cached_property
from microscope_bench.metrics.core.cloud import Cloud
from microscope_bench.metrics.core.estimate import NoValue
from microscope_bench.metrics.core.moments import Moments


@dataclass
class Alignment:
    """What both estimators need of some rows; numbers only, so that no matrix outlives its fold.

    Attributes:
        trace_x, trace_y: tr C_xx, tr C_yy.
        xy, xx, yy: ‖C_xy‖²_F, ‖C_xx‖²_F, ‖C_yy‖²_F of states divided by √trace, so that their scale does not matter.
    """

    n: int
    trace_x: float
    trace_y: float
    xy: float
    xx: float
    yy: float

    @classmethod
    def of(cls, moments: Moments, following: Moments) -> Alignment | None:
        """From the moments of the same rows at both boundaries; None where one of the two has no variance."""
        if not (moments.has_variance and following.has_variance):
            return None
        x, y = (float(c.diagonal().sum()) for c in (moments.c_xx, following.c_xx))
        cross = (moments.c_xx + moments.c_xr) / (math.sqrt(x) * math.sqrt(y))
        return cls(moments.n, x, y, *(float(c.square().sum()) for c in (cross, moments.c_xx / x, following.c_xx / y)))

    @property
    def linear(self) -> float:
        return min(self.xy / math.sqrt(self.xx * self.yy), 1.0)

    @property
    def chance(self) -> float:
        """Mean of ``linear`` over all permutations of the rows of Y."""
        return 1 / ((self.n - 1) * math.sqrt(self.xx * self.yy))

    def debiased(self, products: tuple[float, float, float]) -> float:
        """The ratio of unbiased estimates of HSIC, by Σᵢ aᵢ², Σᵢ aᵢbᵢ, Σᵢ bᵢ², a = ‖x − x̄‖² and b = ‖y − ȳ‖²."""
        if self.n < 4:
            raise NoValue(f"debiased CKA needs at least 4 tokens, got {self.n}")
        aa, ab, bb = products
        xx = self._unbiased(self.xx, aa / self.trace_x / self.trace_x)
        xy = self._unbiased(self.xy, ab / self.trace_x / self.trace_y)
        yy = self._unbiased(self.yy, bb / self.trace_y / self.trace_y)
        if not (xx > 0 and yy > 0):
            raise NoValue("the tokens show no more similarity at one boundary than unrelated ones would")
        return xy / math.sqrt(xx * yy)

    def _unbiased(self, squares: float, products: float) -> float:
        """N(N − 3) HSIC₁ of Song et al. (2012) for linear kernels of trace 1 whose rows sum to 0."""
        n = self.n
        return squares - n / (n - 2) * products + 1 / ((n - 1) * (n - 2))


class Alignments:
    """The alignment of a finite cloud with the next boundary, of all rows and without each fold."""

    def __init__(self, cloud: Cloud, following: Cloud) -> None:
        self.cloud = cloud
        occupied = cloud.moments.occupied
        self.left_out: list[int | None] = [None, *(occupied if len(occupied) > 1 else ())]
        self.means: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.of: dict[int | None, Alignment | None] = {}
        for k in self.left_out:
            at, after = cloud.moments, following.moments.x_only()
            moments, following_moments = (at.total(), after.total()) if k is None else (at.without(k), after.without(k))
            self.of[k] = Alignment.of(moments, following_moments)
            self.means.append((moments.mean_x, following_moments.mean_x))

    @cached_property
    def products(self) -> dict[int | None, tuple[float, float, float]]:
        """Σ a², Σ ab, Σ b² of the rows that stay, a = ‖x − x̄‖² and b = ‖y − ȳ‖² about the means of those rows."""
        means_x, means_y = (torch.stack(means) for means in zip(*self.means, strict=True))
        left_out = torch.tensor([-1 if k is None else k for k in self.left_out], device=means_x.device)
        sums = torch.zeros(3, len(left_out), dtype=torch.float64, device=means_x.device)
        for chunk in self.cloud.chunks():
            assert chunk.y is not None
            a, b = squared_distances(chunk.x, means_x), squared_distances(chunk.y, means_y)
            stays = chunk.fold[:, None] != left_out
            sums += torch.stack([((p * q) * stays).sum(0) for p, q in ((a, a), (a, b), (b, b))])
        return {k: (aa, ab, bb) for k, (aa, ab, bb) in zip(self.left_out, sums.T.tolist(), strict=True)}

    def outcome(self, estimator: str, left_out: int | None) -> float:
        alignment = self.of[left_out]
        if alignment is None:
            raise NoValue("the states at one boundary have no variance beyond rounding")
        return alignment.linear if estimator == "linear" else alignment.debiased(self.products[left_out])


def squared_distances(x: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """float64 (m, r): ‖x − mean‖² of m rows to r means that lie near the first."""
    centred, shift = x.detach().double() - means[0], means - means[0]
    return centred.square().sum(1, keepdim=True) - 2 * centred @ shift.T + shift.square().sum(1)
