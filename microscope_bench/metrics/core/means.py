"""Mean and total variance of a cloud, of all rows and without a fold; no matrices."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from microscope_bench.metrics.core.fold_moments import FoldMoments
from microscope_bench.metrics.core.linear_solve import ROUNDING


@dataclass(frozen=True)
class Centre:
    """Where some rows lie and how far they spread.

    Attributes:
        n: number of rows.
        mean: float64 (d,).
        squares: Σ ‖x − x̄‖².
    """

    n: int
    mean: Tensor
    squares: float

    @property
    def total_variance(self) -> float:
        """Σ ‖x − x̄‖² / (n − 1), 0 where it is nothing but rounding; n is at least 2."""
        rounding = self.n * ROUNDING**2 * float(self.mean.square().sum())
        return self.squares / (self.n - 1) if self.squares > rounding else 0.0


def centre(folds: FoldMoments, left_out: int | None = None) -> Centre:
    """Of all rows, or of all but those of fold ``left_out``."""
    parts = [fold for k, fold in enumerate(folds.folds) if fold.n and k != left_out]
    total = sum(part.n for part in parts)
    if not parts:
        return Centre(0, torch.zeros_like(folds.folds[0].mean_x), 0.0)
    n = torch.tensor([part.n for part in parts], dtype=torch.float64, device=parts[0].mean_x.device)
    means = torch.stack([part.mean_x for part in parts])
    mean = means[0] + (n @ (means - means[0])) / total
    within = sum(float(part.c_xx.diagonal().sum()) for part in parts)
    return Centre(total, mean, within + float(n @ (means - mean).square().sum(1)))
