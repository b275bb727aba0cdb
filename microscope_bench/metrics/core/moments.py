"""First and second moments of a cloud, fold by fold: all that linearity and anisotropy need of it.

Kept are the moments of x and of the update r = y − x, not of y: where the residual stream changes little, the
covariance of x with y − x computed from that of x with y would cancel. Sums are centred as they grow (Chan, Golub &
LeVeque 1983), so that neither a large mean nor a massive activation costs digits. Everything is float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

LEAST_BLOCK, MOST_BLOCKS = 256, 8
"""Of the columns that :func:`add_gram` multiplies at once: narrower ones, or more of them, are no faster."""

NOTHING = torch.empty(0)

ROUNDING = 64 * torch.finfo(torch.float64).eps
"""A spread below this share of the values' own size is the rounding of a constant."""

SMALLEST, LARGEST = 1e-60, 1e60
"""Bounds of a row's largest magnitude: products of four such numbers, summed over a cloud, are exact in float64."""


def usable_rows(x: Tensor) -> Tensor:
    """Which rows can be computed with: rows of zeros, and those whose largest magnitude lies between 1e-60 and 1e60.

    The rows left out hold NaN, infinity, or numbers whose squares or fourth powers float64 does not hold.

    >>> x = [[1.0, 1e-70], [0.0, 0.0], [1.0, -1e70], [1e-70, 0.0], [torch.nan, 1.0]]
    >>> usable_rows(torch.tensor(x, dtype=torch.float64))
    tensor([ True,  True, False, False, False])
    """
    low, high = torch.aminmax(x, dim=1)
    largest = torch.maximum(high.double(), -low.double())
    return (largest == 0) | ((largest >= SMALLEST) & (largest <= LARGEST))


@dataclass
class Moments:
    """Moments of n rows (x, r = y − x); sums, not averages, about the rows' own mean.

    At the last boundary there is no r: its width e is 0, and ``rr`` and ``yy`` mean nothing.

    Attributes:
        n: number of rows.
        mean_x: float64 (d,).
        mean_r: float64 (e,), e = d, or 0 where there is no next boundary.
        c_xx: float64 (d, d), Σ (x − x̄)ᵀ(x − x̄).
        c_xr: float64 (d, e), Σ (x − x̄)ᵀ(r − r̄).
        rr: float64 (), Σ ‖r − r̄‖².
        yy: float64 (), Σ ‖y − ȳ‖².
    """

    n: int
    mean_x: Tensor
    mean_r: Tensor
    c_xx: Tensor
    c_xr: Tensor
    rr: Tensor
    yy: Tensor

    @classmethod
    def zeros(cls, dim: int, has_next: bool, device: torch.device | None = None) -> Moments:

        def zero(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        e = dim if has_next else 0
        return cls(0, zero(dim), zero(e), zero(dim, dim), zero(dim, e), zero(), zero())

    @property
    def dim(self) -> int:
        return self.mean_x.numel()

    @property
    def has_next(self) -> bool:
        return self.mean_r.numel() > 0

    @property
    def has_variance(self) -> bool:
        """Whether the rows spread by more than the rounding of their mean."""
        return float(self.c_xx.diagonal().sum()) > self.n * ROUNDING**2 * float(self.mean_x.square().sum())

    def add(self, x: Tensor, r: Tensor) -> None:
        """Adds rows in place, float64 (m, d) and (m, e), finite."""
        m = x.shape[0]
        if m == 0:
            return
        total = self.n + m
        shift_x, shift_r = x.mean(0) - self.mean_x, r.mean(0) - self.mean_r
        # The rows about their own mean, and one more row that stands for the distance between the two means.
        weight = math.sqrt(self.n * m / total)
        x = centred_and(x, self.mean_x + shift_x, weight * shift_x)
        r = centred_and(r, self.mean_r + shift_r, weight * shift_r)
        add_gram(self.c_xx, x)
        self.c_xr.addmm_(x.T, r)
        self.rr += r.square().sum()
        if self.has_next:
            self.yy += (x + r).square().sum()
        self.mean_x += shift_x * (m / total)
        self.mean_r += shift_r * (m / total)
        self.n = total

    @staticmethod
    def merged(parts: Sequence[Moments]) -> Moments:
        """Moments of the rows of all parts together, which are of one width; the parts stay as they are."""
        if not parts or len({(p.dim, p.has_next) for p in parts}) != 1:
            raise ValueError(f"moments of one width are needed, got {[(p.dim, p.has_next) for p in parts]}")
        first, parts = parts[0], [p for p in parts if p.n]
        if not parts:
            return Moments.zeros(first.dim, first.has_next, first.mean_x.device)
        return Within().plus(parts).about_common_mean()

    def parked(self) -> Moments:
        """The same with its matrices in the host's memory; where that is the device, nothing is copied."""
        return replace(self, c_xx=self.c_xx.cpu(), c_xr=self.c_xr.cpu())

    def matrices(self) -> tuple[Tensor, Tensor]:
        """``c_xx`` and ``c_xr`` where the means are, brought there if they are parked elsewhere."""
        return self.c_xx.to(self.mean_x.device), self.c_xr.to(self.mean_x.device)

    def x_only(self) -> Moments:
        """The same without r; shares memory."""
        return Moments(self.n, self.mean_x, self.mean_r[:0], self.c_xx, self.c_xr[:, :0], self.rr, self.yy)


def centred_and(x: Tensor, mean: Tensor, row: Tensor) -> Tensor:
    """float64 (m + 1, d): x less its mean, and one more row; without a copy between."""
    out = x.new_empty(len(x) + 1, x.shape[1])
    torch.sub(x, mean, out=out[:-1])
    out[-1] = row
    return out


def add_gram(c: Tensor, x: Tensor) -> None:
    """Adds xᵀx to a symmetric matrix in place, at little more than half the multiplications: block row by block row."""
    d = len(c)
    width = max(LEAST_BLOCK, -(-d // MOST_BLOCKS))
    for start in range(0, d, width):
        end = min(start + width, d)
        c[start:end, start:].addmm_(x[:, start:end].T, x[:, start:])
        c[end:, start:end] = c[start:end, end:].T


@dataclass(frozen=True)
class Within:
    """The parts of a union and the sums of their matrices, to which nothing is added yet for where their means lie."""

    parts: tuple[Moments, ...] = ()
    c_xx: Tensor = NOTHING
    c_xr: Tensor = NOTHING

    def plus(self, parts: Sequence[Moments]) -> Within:
        """With more parts, as new matrices."""
        if not parts:
            return self
        sums = [self.c_xx.clone(), self.c_xr.clone()] if self.parts else None
        for part in parts:
            matrices = part.matrices()
            if sums is None:
                # of a matrix that was parked this is a second copy for a moment; of one that was not, the first
                sums = [matrix.clone() for matrix in matrices]
            else:
                for total, matrix in zip(sums, matrices, strict=True):
                    total += matrix
        assert sums is not None
        return Within((*self.parts, *parts), *sums)

    def about_common_mean(self) -> Moments:
        """The moments of the union, of at least one part; its matrices are the sums themselves, completed in place."""
        parts, device = self.parts, self.parts[0].mean_x.device
        total = sum(p.n for p in parts)
        n = torch.tensor([p.n for p in parts], dtype=torch.float64, device=device)[:, None]
        x, r = torch.stack([p.mean_x for p in parts]), torch.stack([p.mean_r for p in parts])
        mean_x = x[0] + (n * (x - x[0])).sum(0) / total
        mean_r = r[0] + (n * (r - r[0])).sum(0) / total
        # Between the parts: the spread of their means, each counted n times.
        x, r = n.sqrt() * (x - mean_x), n.sqrt() * (r - mean_r)
        rr = r.square().sum() + torch.stack([p.rr for p in parts]).sum()
        yy = torch.stack([p.yy for p in parts]).sum()
        if parts[0].has_next:
            yy += (x + r).square().sum()
        return Moments(total, mean_x, mean_r, self.c_xx.addmm_(x.T, x), self.c_xr.addmm_(x.T, r), rr, yy)


def leaving_one_out(within: Within, folds: Mapping[int, Moments]) -> Iterator[tuple[int, Within]]:
    """The number of each fold, and the sums of the others and ``within``.

    Nothing is subtracted from a total, which would cancel where a fold holds the massive activations. The folds are
    halved again and again, and one half is summed before the folds of the other are left out one by one: for 10 folds
    34 sums instead of 90, of which no more than a handful are held at once. Each of those handed out is its own.
    """
    if len(folds) < 2:
        yield from ((k, within) for k in folds)
        return
    numbers = list(folds)
    halves = [{k: folds[k] for k in some} for some in (numbers[: len(folds) // 2], numbers[len(folds) // 2 :])]
    for parted, whole in (halves, reversed(halves)):
        yield from leaving_one_out(within.plus(list(whole.values())), parted)
