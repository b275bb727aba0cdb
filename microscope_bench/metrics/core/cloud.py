"""The one input of every metric: the tokens of one modality at one boundary, and the clouds it can be held against.

A cloud hands its rows out in chunks and in one canonical order, so that a metric neither knows nor cares whether they
lie in an array or in a token store far larger than memory. What several metrics need (moments per fold, a sample of
distinct rows, their nearest neighbours, eigenvalues) is computed once, when first asked for, and kept.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from microscope_bench.metrics.core.directions import Directions, directions_of
from microscope_bench.metrics.core.duplicates import first_of_copies
from microscope_bench.metrics.core.eigenvalues import Spectrum, spectra_of
from microscope_bench.metrics.core.fold_moments import FoldMoments, accumulate_parked
from microscope_bench.metrics.core.neighbours import nearest_neighbours
from microscope_bench.metrics.core.workspace import Workspace

SAMPLE_SEED = 0


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of a cloud.

    Attributes:
        x: (m, d) states at this boundary, in the dtype they are kept in.
        y: (m, d) the same tokens at the next boundary, or None at the last one.
        fold: int64 (m,), the fold of the example each row belongs to.
        example: int64 (m,), the index of that example.
    """

    x: Tensor
    y: Tensor | None
    fold: Tensor
    example: Tensor


@dataclass(frozen=True)
class Sample:
    """Rows drawn from a cloud for a metric that cannot stream, in a seeded random order: the first m are a sample too.

    Attributes:
        x: float64 (n, d).
        fold: int64 (n,), the fold that leaves with the row's example; −1 for a row with copies in several folds, which
            stays whichever fold leaves.
        example: int64 (n,), the index of the row's example; −1 for a row with copies in several examples.
        looked_at: int64 (n,), how many rows were looked at, copies included, before the row after this one was found.
        examples_seen: int64 (n,), how many distinct examples were among those.
        n_folds: number of folds of the cloud.
    """

    x: Tensor
    fold: Tensor
    example: Tensor
    looked_at: Tensor
    examples_seen: Tensor
    n_folds: int

    @property
    def n_examples(self) -> int:
        """Distinct examples among the rows looked at, copies included."""
        return int(self.examples_seen[-1]) if len(self.x) else 0

    @property
    def duplicates(self) -> float:
        """Share of the rows looked at that were copies of another row and were dropped."""
        return 1.0 - len(self.x) / int(self.looked_at[-1]) if len(self.x) else 0.0

    def first(self, n: int) -> Sample:
        """The first n rows; all of them where there are fewer."""
        rows = ("x", "fold", "example", "looked_at", "examples_seen")
        return replace(self, **{name: getattr(self, name)[:n] for name in rows})


class Cloud(ABC):
    """Tokens of one modality, in one token set, at boundary l.

    Attributes:
        n_tokens: N; may be 0.
        n_examples: distinct examples among the N tokens.
        dim: d.
        n_folds: number of folds of whole examples; 1 where there are fewer than two examples.
        next: the same tokens at boundary l + 1; None at the last one.
        text: the text tokens at boundary l, for a cloud of another single modality; else None.
        mainflow: the same tokens in the skip-free chain of stream ``mainflow``, with a ``next`` of its own; None where
            it was not asked for or the model has none.
        no_mainflow: why the model has no such chain, where it was asked for.
        n_neighbours: how many nearest neighbours :attr:`neighbours` holds at most.
        workspace: how much it holds at once.
    """

    n_tokens: int
    n_examples: int
    dim: int
    n_folds: int
    next: Cloud | None = None
    text: Cloud | None = None
    mainflow: Cloud | None = None
    no_mainflow: str | None = None
    n_neighbours: int = 2
    workspace: Workspace = Workspace()

    @property
    def has_next(self) -> bool:
        """Whether there is a boundary l + 1."""
        return self.next is not None

    @property
    def matched_n(self) -> int | None:
        """How many distinct rows :attr:`matched` holds at most; None for all of them."""
        return None

    @abstractmethod
    def chunks(self) -> Iterator[Chunk]:
        """All rows, in canonical order, a bounded number at a time."""

    @abstractmethod
    def draw(self, distinct: bool) -> Sample:
        """The rows for metrics that need many at once: seeded, bounded in number.

        Args:
            distinct: whether copies are dropped: rows that are equal, or that are one token computed twice.
        """

    @cached_property
    def moments(self) -> FoldMoments:
        """First and second moments of (x, y − x) per fold, float64."""
        return accumulate_parked(self.chunks, self.dim, self.n_folds, self.has_next, self.workspace)

    @cached_property
    def spectra(self) -> dict[int | None, Spectrum | None]:
        """Principal axes of all rows, under None, and without each fold, under its number; None without variance."""
        return spectra_of(self.moments.x_only())

    @cached_property
    def directions(self) -> Directions:
        """Sums of x/‖x‖ per example."""
        return directions_of(self.chunks(), self.dim)

    @cached_property
    def sampled(self) -> Sample:
        """Rows with their copies."""
        return self.draw(distinct=False)

    @cached_property
    def distinct(self) -> Sample:
        """Distinct rows, as many as there are."""
        return self.draw(distinct=True)

    @cached_property
    def matched(self) -> Sample:
        """Distinct rows, as many as every cloud of the run has: what depends on their number is estimated on these."""
        return self.distinct if self.matched_n is None else self.distinct.first(self.matched_n)

    @cached_property
    def neighbours(self) -> tuple[Tensor, Tensor]:
        """The nearest neighbours of each row of :attr:`matched` among the others.

        Returns:
            float64 (n, k), distances in ascending order; and int64 (n, k), the rows that they lead to;
            k = min(``n_neighbours``, n − 1).
        """
        x = self.matched.x
        n = x.shape[0]
        if n < 2:
            return x.new_empty(n, 0), torch.empty(n, 0, dtype=torch.int64, device=x.device)
        k = min(self.n_neighbours, n - 1)
        return nearest_neighbours(x, k, block_elements=self.workspace.block_elements)

    def forget_samples(self) -> None:
        """Lets go of the rows that only this cloud's own metrics look at; asked again, it reads them again."""
        for name in ("distinct", "matched", "neighbours"):
            self.__dict__.pop(name, None)


class ArrayCloud(Cloud):
    """A cloud that lies in memory: what the public metric functions build from arrays.

    Args:
        x: (N, d) any real dtype.
        y: (N, d), or None.
        fold: int64 (N,).
        example: int64 (N,), the index of each row's example.
        n_folds: number of folds.
        deduplicate: False keeps copies among the distinct rows, to see what they do.
        text: the cloud of text tokens it is held against, or None.

    Attributes:
        wanted_n: what :attr:`matched_n` says; set before anything is computed.
    """

    wanted_n: int | None = None

    def __init__(
        self,
        x: Tensor,
        y: Tensor | None,
        fold: Tensor,
        example: Tensor,
        n_folds: int,
        deduplicate: bool = True,
        text: Cloud | None = None,
    ) -> None:
        self.x, self.fold, self.example = x, fold, example
        self.n_tokens, self.dim = x.shape
        self.n_examples = int(torch.unique(example).numel())
        self.n_folds = n_folds
        self.deduplicate = deduplicate
        self.text = text
        self.next = None if y is None else ArrayCloud(y, None, fold, example, n_folds, deduplicate)

    @property
    def matched_n(self) -> int | None:
        """How many distinct rows to measure on."""
        return self.wanted_n

    def chunks(self) -> Iterator[Chunk]:
        y = self.next.x if isinstance(self.next, ArrayCloud) else None
        at_once = self.workspace.rows_per_chunk
        for start in range(0, self.n_tokens, at_once):
            rows = slice(start, start + at_once)
            yield Chunk(self.x[rows], None if y is None else y[rows], self.fold[rows], self.example[rows])

    def draw(self, distinct: bool) -> Sample:
        """All rows."""
        order = torch.randperm(self.n_tokens, generator=torch.Generator().manual_seed(SAMPLE_SEED)).to(self.x.device)
        first = None
        if distinct and self.deduplicate:
            first = first_of_copies(self.x[order], block_elements=self.workspace.block_elements)
        return sample_of(self.x[order], self.fold[order], self.example[order], first, self.n_folds)


def sample_of(x: Tensor, fold: Tensor, example: Tensor, first: Tensor | None, n_folds: int) -> Sample:
    """The sample that rows make when the copies among them are dropped.

    Args:
        x: (n, d), any real dtype.
        fold: int64 (n,).
        example: int64 (n,).
        first: int64 (n,), for every row the first one that it is a copy of, itself where it is none; None keeps all.
        n_folds: number of folds of the cloud.
    """
    row = torch.arange(x.shape[0], device=x.device)
    if first is None:
        return Sample(x.double(), fold, example, row + 1, distinct_so_far(example), n_folds)
    kept = torch.nonzero(first == row).flatten()
    looked_at = torch.cat([kept, row[-1:] + 1])[1:]
    return Sample(
        x=x[kept].double(),
        fold=common(fold, first)[kept],
        example=common(example, first)[kept],
        looked_at=looked_at,
        examples_seen=distinct_so_far(example)[looked_at - 1],
        n_folds=n_folds,
    )


def distinct_so_far(group: Tensor) -> Tensor:
    """int64 (n,): how many distinct groups there are among the rows up to each.

    >>> distinct_so_far(torch.tensor([4, 4, 2, 4, 7]))
    tensor([1, 1, 2, 2, 3])
    """
    groups, which = torch.unique(group, return_inverse=True)
    row = torch.arange(len(group), device=group.device)
    first_row = torch.full_like(groups, len(group)).scatter_reduce(0, which, row, "amin")
    return (row == first_row[which]).cumsum(0)


def common(group: Tensor, first: Tensor) -> Tensor:
    """int64 (n,): at the first of several copies the group that all of them share, or −1; elsewhere the row's own."""
    shared = group.clone()
    shared[first[group != group[first]]] = -1
    return shared
