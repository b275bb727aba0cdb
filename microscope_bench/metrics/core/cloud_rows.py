"""The rows that a cloud hands out: all of them chunk by chunk, or a random sample at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of a cloud.

    ``x`` and ``y`` are (m, d) states at this boundary and the next, None at the last, in the dtype they are kept in;
    ``fold`` and ``example`` int64 (m,), the numbers of each row's fold and example.
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
        fold: int64 (n,); −1 for a row with copies in several folds, which stays whichever fold leaves.
        group: int64 (n,), the picture or text that the row is of; −1 for a row with copies in several of them.
        looked_at: int64 (n,), how many rows were looked at, copies included, before the row after this one was found.
        examples_seen: int64 (n,), how many distinct examples were among those.
        n_folds: number of folds of the cloud.
    """

    x: Tensor
    fold: Tensor
    group: Tensor
    looked_at: Tensor
    examples_seen: Tensor
    n_folds: int

    @property
    def n_examples(self) -> int:
        """Distinct examples among the rows looked at, copies included."""
        return int(self.examples_seen[-1]) if len(self.x) else 0

    @property
    def duplicates(self) -> float:
        """Share of the rows looked at that were dropped as copies."""
        return 1.0 - len(self.x) / int(self.looked_at[-1]) if len(self.x) else 0.0

    def first(self, n: int) -> Sample:
        """The first n rows; all of them where there are fewer."""
        rows = ("x", "fold", "group", "looked_at", "examples_seen")
        return replace(self, **{name: getattr(self, name)[:n] for name in rows})


def sample_of(x: Tensor, fold: Tensor, example: Tensor, group: Tensor, first: Tensor | None, n_folds: int) -> Sample:
    """The sample that rows make when the copies among them are dropped.

    ``first`` is for every row, int64 (n,), the one that it is a copy of, itself where it is none; None keeps all.
    """
    row = torch.arange(x.shape[0], device=x.device)
    if first is None:
        return Sample(x.double(), fold, group, row + 1, distinct_so_far(example), n_folds)
    kept = torch.nonzero(first == row).flatten()
    looked_at = torch.cat([kept, row[-1:] + 1])[1:]
    return Sample(
        x=x[kept].double(),
        fold=common(fold, first)[kept],
        group=common(group, first)[kept],
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
