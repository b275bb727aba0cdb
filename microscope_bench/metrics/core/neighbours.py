"""Distances to the nearest neighbours of each row, at most one neighbour of a group.

Tokens of one picture lie close together. A token whose two nearest neighbours are of one picture says how that picture
extends, not how the cloud does, so each other group counts with the nearest of its rows only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from microscope_bench.metrics.core.moments import add_gram

BLOCK_ELEMENTS = 2**24
"""Bound on the size of every temporary matrix: 128 MiB of float64."""

CANCELS = 1e-3
"""Share of |a|² + |b|² below which a squared distance is computed anew from the difference a − b.

Above it the product |a|² + |b|² − 2ab has a relative error below 2(d + 4)ε/1e-3: 2e-9 at d = 4096, far less as a rule.
"""

CACHED_ELEMENTS = 2**18
"""Distances looked through at once: 2 MiB of float64, which stay in the cache."""

HALF_PAYS_FROM = 512
"""Width from which half of the products of all pairs, and a copy of it, take less time than all of them."""

SPARE = 2
"""Neighbours looked at beyond those wanted, so that mostly enough of them are left without any one fold."""

LONG = 4
"""Rows of more than so many times the median norm do not move the origin."""


def nearest_neighbours(
    x: Tensor,
    k: int,
    group: Tensor | None = None,
    fold: Tensor | None = None,
    n_folds: int = 0,
    block_elements: int = BLOCK_ELEMENTS,
) -> Tensor:
    """Distances to the nearest row of each of the k nearest other groups: of all rows, and without each fold.

    Args:
        x: float64 (n, d), finite.
        k: number of neighbours, at least 1.
        group: int64 (n,), each row's; −1 is a group of that row alone. None: every row is its own group.
        fold: int64 (n,), of which the rows of one group share one; −1 stays whichever fold is left out.
        n_folds: how many folds are left out, one at a time: 0, 1, ...; with 0 ``fold`` is not looked at.
        block_elements: bound on the size of a temporary matrix.

    Returns:
        float64 (1 + n_folds, n, k), Euclidean distances in ascending order, 0 for an exact copy: first among all rows,
        then among those that are not of fold 0, and so on; rows of the fold itself then have them too. A row with fewer
        than k other groups has the distance infinity to those it lacks.
    """
    n, d = x.shape
    centred = x - _origin(x)
    squares = centred.square().sum(1)
    of_row, n_groups = _numbered(group, n, x.device)
    fold_of_group = torch.full((n_groups,), -1, device=x.device)
    if fold is not None:
        fold_of_group[of_row] = fold
    out = x.new_full((1 + n_folds, n, k), torch.inf)
    products = None
    if n * n <= block_elements and d >= HALF_PAYS_FROM:
        products = x.new_zeros(n, n)
        add_gram(products, centred.T)
    at_once = max(1, min(block_elements, CACHED_ELEMENTS) // max(n, d))
    for start in range(0, n, at_once):
        rows = torch.arange(start, min(start + at_once, n), device=x.device)
        of_rows = centred[rows] @ centred.T if products is None else products[start : start + at_once]
        squared = _squared_distances(x, squares, rows, of_rows)
        if n_groups < n:
            # one column a row: along the first dimension the least of each group takes an eighth of the time
            to_groups = squared.new_full((n_groups, len(rows)), torch.inf)
            groups = of_row[:, None].expand(n, len(rows))
            squared = to_groups.scatter_reduce_(0, groups, squared.T.contiguous(), "amin").T.contiguous()
        elif group is not None:
            squared = squared[:, of_row.argsort()]
        squared.scatter_(1, of_row[rows, None], torch.inf)
        out[:, rows] = _smallest(squared, k, fold_of_group, n_folds).sqrt()
    return out


def _smallest(squared: Tensor, k: int, fold: Tensor, n_folds: int) -> Tensor:
    """float64 (1 + n_folds, m, k): the k smallest of each row, of all columns and of those that are not of each fold.

    They are looked for among a few more than k of all columns, which nearly always hold k of other folds.
    """
    n = squared.shape[1]
    some, columns = squared.topk(min(k + SPARE, n), dim=1, largest=False)
    held = torch.nn.functional.pad(some, (0, max(0, k - n)), value=torch.inf)[None, :, :k]
    if not n_folds:
        return held
    left_out = torch.arange(n_folds, device=fold.device)[:, None, None]
    there = fold[columns] != left_out
    # the first k that are there move to the front, in the order in which they stand
    place = (there.cumsum(2) - 1).masked_fill_(~there, k).clamp_(max=k)
    found = squared.new_full((n_folds, len(squared), k + 1), torch.inf)
    found = found.scatter_(2, place, some.expand(place.shape))[:, :, :k]
    if some.shape[1] < n:
        lacking = there.sum(2) < k
        for which in torch.nonzero(lacking.any(1)).flatten().tolist():
            others = squared[lacking[which]][:, fold != which]
            nearest = others.topk(min(k, others.shape[1]), dim=1, largest=False).values
            found[which, lacking[which], : nearest.shape[1]] = nearest
    return torch.cat([held, found])


def _numbered(group: Tensor | None, n: int, device: torch.device) -> tuple[Tensor, int]:
    """Each row's group as one of 0, 1, ..., where −1 has become a group of its own; and how many there are."""
    row = torch.arange(n, device=device)
    if group is None:
        return row, n
    groups, of_row = torch.unique(torch.where(group < 0, -1 - row, group), return_inverse=True)
    return of_row, len(groups)


def _origin(x: Tensor) -> Tensor:
    """A point among the rows, float64 (d,): their mean without those of massive norm, which lie far from all others."""
    if not len(x):
        return x.new_zeros(x.shape[1])
    norms = torch.linalg.vector_norm(x, dim=1)
    return x[norms <= LONG * norms.median()].mean(0)


def _squared_distances(x: Tensor, squares: Tensor, rows: Tensor, products: Tensor) -> Tensor:
    """float64 (m, n): squared distances of some rows to all, infinity to themselves.

    ``products``, float64 (m, n), are those of the centred rows, and ``squares`` of each with itself.
    """
    squared = torch.sub(squares[rows, None] + squares, products, alpha=2)
    squared.scatter_(1, rows[:, None], torch.inf)
    # a pair whose distance cancels is of nearly one norm, so that its |a|² + |b|² is below 2.2 |a|²
    some = torch.nonzero(squared.amin(1) < 2.2 * CANCELS * squares[rows]).flatten()
    near = squared[some] < CANCELS * (squares[rows[some], None] + squares)
    i, j = torch.nonzero(near, as_tuple=True)
    at_once = max(1, squared.numel() // x.shape[1])
    for a, b in zip(torch.split(some[i], at_once), torch.split(j, at_once), strict=True):
        squared[a, b] = (x[rows[a]] - x[b]).square_().sum(1)
    return squared
