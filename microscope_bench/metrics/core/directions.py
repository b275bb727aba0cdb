"""Sums of unit vectors per example: all that cosines between two clouds need of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from microscope_bench.metrics.core.cloud_rows import Chunk
from microscope_bench.metrics.core.estimate import NoValue


@dataclass(frozen=True)
class Directions:
    """Unit vectors x/‖x‖ of a cloud, summed over each of its E examples.

    Rows of zeros, of which there are ``zero``, and rows with NaN or infinity have no direction and are left out: ``n``,
    float64 (E,), counts the others. ``example``, ascending, and ``fold`` are int64 (E,), ``total`` float64 (E, d).
    """

    example: Tensor
    fold: Tensor
    n: Tensor
    total: Tensor
    zero: int

    def mean(self, left_out: int | None = None) -> Tensor:
        """float64 (d,): the mean unit vector, without fold ``left_out``."""
        kept = self.fold != (-1 if left_out is None else left_out)
        n = float(self.n[kept].sum())
        if not n:
            raise NoValue("all tokens of one modality are zeros and have no direction")
        return self.total[kept].sum(0) / n


def directions_of(chunks: Iterable[Chunk], dim: int) -> Directions:
    """Unit vectors of a cloud that comes in chunks, summed per example."""
    examples, folds = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, dtype=torch.int64)]
    counts, totals, zero = [torch.empty(0, dtype=torch.float64)], [torch.empty(0, dim, dtype=torch.float64)], 0
    for chunk in chunks:
        x = chunk.x.detach().double()
        example, row = torch.unique(chunk.example, return_inverse=True)
        norm = x.norm(dim=1, keepdim=True)
        usable = norm.isfinite() & (norm > 0)
        zero += int((norm == 0).sum())
        unit = torch.where(usable, x / norm, 0.0)
        examples.append(example)
        folds.append(torch.empty_like(example).scatter_(0, row, chunk.fold))
        counts.append(summed(usable[:, 0].double(), row, len(example)))
        totals.append(summed(unit, row, len(example)))
    device = examples[-1].device
    pieces = (torch.cat([piece.to(device) for piece in part]) for part in (examples, folds, counts, totals))
    each_example, each_fold, each_n, each_total = pieces
    example, row = torch.unique(each_example, return_inverse=True)
    fold = torch.empty_like(example).scatter_(0, row, each_fold)
    return Directions(example, fold, summed(each_n, row, len(example)), summed(each_total, row, len(example)), zero)


def summed(values: Tensor, group: Tensor, n_groups: int) -> Tensor:
    """Σ of the rows of each group, (n_groups, ...)."""
    return values.new_zeros(n_groups, *values.shape[1:]).index_add_(0, group, values)
