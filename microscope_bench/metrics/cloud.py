"""The one input of every metric: the tokens of one modality at one boundary, and at the next.

A cloud hands its rows out in chunks and in one canonical order, so that a metric neither knows nor cares whether they
lie in an array or in a token store far larger than memory. What several metrics need (moments per fold, a sample of
distinct rows) is computed once and kept.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from microscope_bench.metrics.moments import FoldMoments, accumulate
from microscope_bench.metrics.neighbours import COPY_TOLERANCE, first_copies


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of a cloud.

    Attributes:
        x: (m, d) states at this boundary, in the dtype they are kept in.
        y: (m, d) the same tokens at the next boundary, or None at the last one.
        fold: int64 (m,), the fold of the example each row belongs to.
    """

    x: Tensor
    y: Tensor | None
    fold: Tensor


@dataclass(frozen=True)
class Sample:
    """Rows drawn from a cloud for a metric that cannot stream.

    Attributes:
        x: float64 (n, d).
        fold: int64 (n,), the fold that leaves with the row's example; −1 for a row with copies in several folds, which
            stays whichever fold leaves.
        n_examples: distinct examples among the rows looked at, copies included.
        duplicates: share of the rows looked at that were exact copies of another row and were dropped.
        n_folds: number of folds of the cloud.
        tolerance: distance in units of a row's norm within which a metric of neighbours takes two rows for one; 0 for
            a sample that keeps its copies.
    """

    x: Tensor
    fold: Tensor
    n_examples: int
    duplicates: float
    n_folds: int
    tolerance: float


class Cloud(ABC):
    """Tokens of one modality at boundary l (``x``) and, where there is one, at boundary l + 1 (``y``).

    Attributes:
        n_tokens: N.
        n_examples: distinct examples among the N tokens.
        dim: d.
        n_folds: number of folds of whole examples; 1 where there are fewer than two examples.
        has_next: whether there is a boundary l + 1.
    """

    n_tokens: int
    n_examples: int
    dim: int
    n_folds: int
    has_next: bool

    @abstractmethod
    def chunks(self) -> Iterator[Chunk]:
        """All rows, in canonical order, a bounded number at a time."""

    @abstractmethod
    def sample(self) -> Sample:
        """The rows for metrics that need all pairs of them: seeded, bounded in number, copies dropped."""

    @cached_property
    def moments(self) -> FoldMoments:
        """First and second moments of (x, y − x) per fold, float64."""
        return accumulate(self.chunks(), dim=self.dim, n_folds=self.n_folds, has_next=self.has_next)

    @cached_property
    def distinct(self) -> Sample:
        """:meth:`sample`, drawn once."""
        return self.sample()


class ArrayCloud(Cloud):
    """A cloud that lies in memory: what the public metric functions build from arrays.

    Args:
        x: (N, d) any real dtype.
        y: (N, d), or None.
        fold: int64 (N,).
        example: int64 (N,), the index of each row's example.
        n_folds: number of folds.
        deduplicate: whether :meth:`sample` drops copies.
    """

    rows_per_chunk = 8192

    def __init__(
        self, x: Tensor, y: Tensor | None, fold: Tensor, example: Tensor, n_folds: int, deduplicate: bool = True
    ) -> None:
        self.x, self.y, self.fold, self.example = x, y, fold, example
        self.n_tokens, self.dim = x.shape
        self.n_examples = int(torch.unique(example).numel())
        self.n_folds = n_folds
        self.has_next = y is not None
        self.deduplicate = deduplicate

    def chunks(self) -> Iterator[Chunk]:
        for start in range(0, self.n_tokens, self.rows_per_chunk):
            rows = slice(start, start + self.rows_per_chunk)
            yield Chunk(self.x[rows], None if self.y is None else self.y[rows], self.fold[rows])

    def sample(self) -> Sample:
        """All rows; copies are dropped unless ``deduplicate`` is False."""
        rows = torch.arange(self.n_tokens, device=self.x.device)
        first = first_copies(self.x) if self.deduplicate else rows
        keep = rows[first == rows]
        return Sample(
            x=self.x[keep].double(),
            fold=common_folds(self.fold, first)[keep],
            n_examples=self.n_examples,
            duplicates=1.0 - keep.numel() / max(self.n_tokens, 1),
            n_folds=self.n_folds,
            tolerance=COPY_TOLERANCE.get(self.x.dtype, 0.0) if self.deduplicate else 0.0,
        )


def common_folds(fold: Tensor, first: Tensor) -> Tensor:
    """int64 (n,): at the first of several copies the fold that all of them share, or −1; elsewhere the row's own."""
    common = fold.clone()
    common[first[fold != fold[first]]] = -1
    return common
