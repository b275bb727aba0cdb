"""Moments of a cloud fold by fold, so that any fold can be left out: by whole sums, never by subtraction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from microscope_bench.metrics.core.cloud_rows import Chunk
from microscope_bench.metrics.core.moments import ROUNDING, Moments, Within, leaving_one_out, usable_rows
from microscope_bench.metrics.core.workspace import Workspace

PIECE_ELEMENTS = 2**20
"""Numbers of one fold that are summed at once: 8 MiB of float64, which stay in the cache."""

LEAST_PIECE = 1024
"""Rows summed at once at least: with fewer, fetching the (d, d) sums takes longer than the work."""


SHARED_SUMS_UP_TO = 2048
"""Width up to which the sums without each fold share sums of several folds, which wait; beyond, they take gigabytes and
save next to no time, since the solves grow by the cube of the width."""


@dataclass(frozen=True)
class Centre:
    """Where n rows lie and how far they spread."""

    n: int
    mean: Tensor
    squares: float  # Σ ‖x − x̄‖²

    @property
    def total_variance(self) -> float:
        """Σ ‖x − x̄‖² / (n − 1), 0 where it is nothing but rounding; n is at least 2."""
        rounding = self.n * ROUNDING**2 * float(self.mean.square().sum())
        return self.squares / (self.n - 1) if self.squares > rounding else 0.0


@dataclass
class FoldMoments:
    """Moments of each fold of a cloud, and the number of rows that could not enter them.

    Attributes:
        folds: one per fold; a fold without rows has n = 0.
        non_finite_x: rows whose x is not usable (:func:`usable_rows`); they are left out of the moments.
        non_finite: rows whose x or y is not usable. While it is not 0, nothing that uses r is valid.
    """

    folds: list[Moments]
    non_finite_x: int = 0
    non_finite: int = 0

    @property
    def occupied(self) -> list[int]:
        return [k for k, fold in enumerate(self.folds) if fold.n]

    def total(self) -> Moments:
        return Moments.merged(self.folds)

    def without(self, k: int) -> Moments:
        """Moments of all rows but those of fold k, summed anew.

        Subtracting fold k from the total would cancel where k holds the massive activations.
        """
        return Moments.merged([fold for j, fold in enumerate(self.folds) if j != k])

    def centre(self, left_out: int | None = None) -> Centre:
        """Mean and spread of all rows, or of all but those of a fold; no matrices."""
        parts = [fold for k, fold in enumerate(self.folds) if fold.n and k != left_out]
        total = sum(part.n for part in parts)
        if not parts:
            return Centre(0, torch.zeros_like(self.folds[0].mean_x), 0.0)
        n = torch.tensor([part.n for part in parts], dtype=torch.float64, device=parts[0].mean_x.device)
        means = torch.stack([part.mean_x for part in parts])
        mean = means[0] + (n @ (means - means[0])) / total
        within = sum(float(part.c_xx.diagonal().sum()) for part in parts)
        return Centre(total, mean, within + float(n @ (means - mean).square().sum(1)))

    def each_left_out(self) -> Iterator[tuple[int, Moments]]:
        """Every fold that holds rows, and the moments of all rows but its own; at least two of them hold rows."""
        if self.folds[0].dim > SHARED_SUMS_UP_TO:
            yield from ((k, self.without(k)) for k in self.occupied)
            return
        for k, rest in leaving_one_out(Within(), {k: self.folds[k] for k in self.occupied}):
            yield k, rest.about_common_mean()

    def x_only(self) -> FoldMoments:
        """The same without r; shares memory."""
        return FoldMoments([fold.x_only() for fold in self.folds], self.non_finite_x, self.non_finite_x)


def accumulate_parked(
    chunks: Callable[[], Iterable[Chunk]], dim: int, n_folds: int, has_next: bool, workspace: Workspace
) -> FoldMoments:
    """Moments of a cloud whose chunks can be asked for again: as many folds at a time as the workspace has room for."""
    at_once = workspace.folds_at_once or n_folds
    out = FoldMoments([])
    for start in range(0, n_folds, at_once):
        some = range(start, min(start + at_once, n_folds))
        found = accumulate(chunks(), dim, n_folds, has_next, some)
        out.non_finite_x, out.non_finite = found.non_finite_x, found.non_finite
        out.folds += [found.folds[k].parked() if workspace.parked else found.folds[k] for k in some]
        del found
    return out


def accumulate(
    chunks: Iterable[Chunk], dim: int, n_folds: int, has_next: bool, only: range | None = None
) -> FoldMoments:
    """Moments of a cloud that comes in chunks. Memory: two (d, d) float64 matrices per fold, and one chunk.

    ``only`` names the folds whose moments are wanted; those of the others are of width 0.
    """
    wanted = range(n_folds) if only is None else only
    out = FoldMoments([])

    def zeros(device: torch.device | None) -> list[Moments]:
        return [Moments.zeros(dim if k in wanted else 0, has_next, device) for k in range(n_folds)]

    for chunk in chunks:
        if not out.folds:
            out.folds = zeros(chunk.x.device)
        if chunk.x.shape[1] != dim or (has_next and (chunk.y is None or chunk.y.shape != chunk.x.shape)):
            y_shape = None if chunk.y is None else tuple(chunk.y.shape)
            raise ValueError(f"a chunk of shape {tuple(chunk.x.shape)}, next {y_shape}, in a cloud of width {dim}")
        x, y = chunk.x.detach(), chunk.y.detach() if chunk.y is not None and has_next else None
        x_usable = usable_rows(x)
        y_usable = x_usable if y is None else usable_rows(y)
        # rows by fold, those that cannot be computed with last; their numbers are all that the host waits for
        fold = torch.where(x_usable, chunk.fold, n_folds)
        both = (x_usable & y_usable).sum()[None]
        *counts, n_bad_x, n_good = torch.cat([torch.bincount(fold, minlength=n_folds + 1), both]).tolist()
        out.non_finite_x += n_bad_x
        out.non_finite += len(fold) - n_good
        of_folds = torch.split(torch.argsort(fold, stable=True)[: sum(counts)], counts)
        for k in wanted:
            for rows in torch.split(of_folds[k], max(LEAST_PIECE, PIECE_ELEMENTS // max(dim, 1))):
                x_of_fold = x[rows].double()
                r = x_of_fold[:, :0] if y is None else y[rows].double().sub_(x_of_fold)
                if y is not None and n_good + n_bad_x < len(fold):
                    # an r that is not usable is not valid, but x of the same row still is
                    r = torch.where(y_usable[rows, None], r, 0.0)
                out.folds[k].add(x_of_fold, r)
    if not out.folds:
        out.folds = zeros(None)
    return out


def merge(a: FoldMoments, b: FoldMoments, parked: bool = False) -> FoldMoments:
    """Moments of two disjoint clouds together, fold by fold; ``parked`` makes them wait in the host's memory."""
    if len(a.folds) != len(b.folds):
        raise ValueError(f"clouds with {len(a.folds)} and {len(b.folds)} folds do not merge")
    merged = (Moments.merged(pair) for pair in zip(a.folds, b.folds, strict=True))
    folds = [fold.parked() if parked else fold for fold in merged]
    return FoldMoments(folds, a.non_finite_x + b.non_finite_x, a.non_finite + b.non_finite)
