"""The one input of every metric: the tokens of one modality at one boundary, and the clouds it can be held against.

A cloud hands its rows out in chunks, in one canonical order, so that a metric need not know whether they lie in an
array or in a token store. What several metrics need is computed once, when first asked for, and kept.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from microscope_bench.metrics.core.axes import Spectrum, spectra_of, top_axis
from microscope_bench.metrics.core.cached import cached_property
from microscope_bench.metrics.core.cloud_rows import Chunk, Sample, sample_of
from microscope_bench.metrics.core.concentration import Concentration, concentration_of
from microscope_bench.metrics.core.directions import Directions, directions_of
from microscope_bench.metrics.core.duplicates import first_of_copies
from microscope_bench.metrics.core.fold_moments import FoldMoments, accumulate_parked
from microscope_bench.metrics.core.neighbours import nearest_neighbours
from microscope_bench.metrics.core.workspace import Workspace

SAMPLE_SEED = 0

MOST_DRAWS = 8
"""Disjoint draws that neighbours are looked for in, at most: 8 leave a third of the standard error of one."""


class Cloud(ABC):
    """Tokens of one modality, in one token set, at boundary l.

    Attributes:
        n_folds: number of folds of whole examples; 1 where there are fewer than two examples.
        next: the same tokens at boundary l + 1; None at the last one.
        text: the text tokens at boundary l, for a cloud of another single modality; else None.
        mainflow: the same tokens in the skip-free chain of stream ``mainflow``, with a ``next`` of its own; None where
            it was not asked for or the model has none.
        no_mainflow: why the model has no such chain, where it was asked for.
        n_neighbours: how many nearest neighbours :attr:`neighbours` holds at most.
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
    @abstractmethod
    def folds(self) -> tuple[int, ...]:
        """The folds that hold rows."""

    @property
    def has_next(self) -> bool:
        return self.next is not None

    @property
    def per_draw(self) -> int | None:
        """Distinct rows of each draw among which neighbours are looked for; None for one draw of all of them."""
        return None

    @abstractmethod
    def chunks(self) -> Iterator[Chunk]:
        """All rows, in canonical order, a bounded number at a time."""

    @abstractmethod
    def draw(self, distinct: bool) -> Sample:
        """The rows for metrics that need many at once: seeded, bounded in number.

        ``distinct`` drops copies: rows that are equal, or that are one token computed twice.
        """

    @cached_property
    def moments(self) -> FoldMoments:
        """First and second moments of (x, y − x) per fold, float64."""
        return self.moments_of_rows()

    def moments_of_rows(self) -> FoldMoments:
        return accumulate_parked(self.chunks, self.dim, self.n_folds, self.has_next, self.workspace)

    @cached_property
    def spectra(self) -> dict[int | None, Spectrum | None]:
        """Principal axes of all rows, under None, and without each fold, under its number; None without variance."""
        return spectra_of(self.moments.x_only())

    @cached_property
    def first_axis(self) -> tuple[float, Tensor] | None:
        """σ₁² and its unit direction, float64 (d,), of all rows; None without variance."""
        moments = self.moments.x_only().total()
        return top_axis(moments.c_xx) if moments.has_variance else None

    @cached_property
    def concentration(self) -> Concentration:
        """What share of σ₁² and of the squares that linearity explains few tokens carry; reads the rows once more."""
        return concentration_of(self.chunks(), self.moments, None if self.first_axis is None else self.first_axis[1])

    @cached_property
    def directions(self) -> Directions:
        return directions_of(self.chunks(), self.dim)

    @cached_property
    def sampled(self) -> Sample:
        return self.draw(distinct=False)

    @cached_property
    def distinct(self) -> Sample:
        """Distinct rows, as many as there are."""
        return self.draw(distinct=True)

    @property
    def n_draws(self) -> int:
        """How many disjoint draws the distinct rows make, at most :data:`MOST_DRAWS`."""
        distinct = len(self.distinct.x)
        return min(MOST_DRAWS, distinct // self.per_draw) if self.per_draw else min(1, distinct)

    @cached_property
    def drawn(self) -> Sample:
        """The draws one behind the other, each of :attr:`per_draw` distinct rows."""
        return self.distinct.first(self.n_draws * self.per_draw) if self.per_draw else self.distinct

    @cached_property
    def neighbours(self) -> Tensor:
        """float64 (1 + n_folds, n, ``n_neighbours``): distances of each row of :attr:`drawn` to its nearest neighbours.

        They are rows of the same draw and each of another group; see :func:`nearest_neighbours`, also for what the
        first dimension is.
        """
        drawn, k = self.drawn, max(self.n_neighbours, 2)
        n_folds = self.n_folds if self.n_folds > 1 else 0
        per_draw = max(1, self.per_draw or len(drawn.x))
        parts = zip(*(torch.split(rows, per_draw) for rows in (drawn.x, drawn.group, drawn.fold)), strict=True)
        blocks = self.workspace.block_elements
        found = [nearest_neighbours(x, k, group, fold, n_folds, blocks) for x, group, fold in parts]
        return torch.cat(found, dim=1)

    def examples(self) -> Iterator[tuple[int, Tensor]]:
        """The fold and the rows, (m, d), of each example, whose rows stand together in canonical order."""
        example, fold = -1, -1
        held: list[Tensor] = []
        for chunk in self.chunks():
            start = 0
            numbers, sizes = torch.unique_consecutive(chunk.example, return_counts=True)
            for number, size in zip(numbers.tolist(), sizes.tolist(), strict=True):
                if number != example and held:
                    yield fold, torch.cat(held)
                    held = []
                example, fold = number, int(chunk.fold[start])
                held.append(chunk.x[start : start + size])
                start += size
        if held:
            yield fold, torch.cat(held)

    def forget(self, *names: str) -> None:
        """Lets go of what it keeps under some names, or of all of it; asked again, it computes it anew."""
        kept = [name for name in vars(self) if isinstance(getattr(type(self), name, None), cached_property)]
        for name in names or kept:
            vars(self).pop(name, None)


class ArrayCloud(Cloud):
    """A cloud that lies in memory: what the public metric functions build from arrays.

    Attributes:
        wanted_n: what :attr:`per_draw` says; set, as the next two, before anything is computed.
        deduplicate: False keeps copies among the distinct rows, to see what they do.
        grouped: False takes each row for a group of its own where neighbours of other groups are looked for.
    """

    wanted_n: int | None = None
    deduplicate = True
    grouped = True

    def __init__(
        self, x: Tensor, y: Tensor | None, fold: Tensor, example: Tensor, n_folds: int, text: Cloud | None = None
    ) -> None:
        self.x, self.fold, self.example = x, fold, example
        self.n_tokens, self.dim = x.shape
        self.n_examples = int(torch.unique(example).numel())
        self.n_folds = n_folds
        self.text = text
        self.next = None if y is None else ArrayCloud(y, None, fold, example, n_folds)

    @property
    def folds(self) -> tuple[int, ...]:
        return tuple(torch.unique(self.fold).tolist())

    @property
    def per_draw(self) -> int | None:
        return self.wanted_n

    def chunks(self) -> Iterator[Chunk]:
        y = self.next.x if isinstance(self.next, ArrayCloud) else None
        at_once = self.workspace.rows_per_chunk
        for start in range(0, self.n_tokens, at_once):
            rows = slice(start, start + at_once)
            yield Chunk(self.x[rows], None if y is None else y[rows], self.fold[rows], self.example[rows])

    def draw(self, distinct: bool) -> Sample:
        order = torch.randperm(self.n_tokens, generator=torch.Generator().manual_seed(SAMPLE_SEED)).to(self.x.device)
        first = None
        if distinct and self.deduplicate:
            first = first_of_copies(self.x[order], block_elements=self.workspace.block_elements)
        group = self.example if self.grouped else torch.full_like(self.example, -1)
        of = (self.x[order], self.fold[order], self.example[order], group[order])
        return sample_of(*of, first, self.n_folds)

    def examples(self) -> Iterator[tuple[int, Tensor]]:
        order = self.example.argsort(stable=True)
        for rows in torch.split(order, torch.unique(self.example, return_counts=True)[1].tolist()):
            yield int(self.fold[rows[0]]), self.x[rows]
