"""Exact nearest neighbours in high dimensions.

Distances by a matrix product cancel for close pairs, and close pairs are what intrinsic dimension lives on. So the
product only proposes candidates; the distance of a candidate is computed from differences unless the product is known
to be good enough; and a row whose candidates are not provably the nearest is searched again: those of a product in
float32 by one in float64, and what is not certain then without a product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SPARE_CANDIDATES = 6
"""Candidates beyond k. With 8 for k = 2 nearly every row is certain at once, massive activations included."""

EXACT_CANDIDATES = 16
"""The nearest so many candidates of a row are always measured by differences."""

PRODUCT_TOLERANCE = 1e-9
"""Relative rounding error up to which a squared distance may come from the product, beyond those candidates."""

PIECES = 8
"""The rows are cut into so many pieces where all are multiplied with all; each pair of pieces is multiplied once."""

BLOCK_ELEMENTS = 2**24
"""Bound on the size of every temporary matrix: 128 MiB of float64."""

CACHED_ELEMENTS = 2**20
"""Size of a temporary that is read again at once: 8 MiB of float64."""


def nearest_neighbours(
    x: Tensor,
    k: int = 2,
    queries: Tensor | None = None,
    exclude: Tensor | None = None,
    block_elements: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The k nearest other rows of some rows, all by default.

    For k ≤ 10 every distance is exact to a few units in the last place. For larger k that still holds for the nearest
    ten and for pairs so close that a product would cancel; any other distance has a relative error below 1e-9.

    Args:
        x: float64 (n, d), finite.
        k: number of neighbours, 1 .. n − 1.
        queries: int64 (q,), the rows to search for.
        exclude: int64 (n,), a group of each row, whose rows are not its neighbours; −1 is no group.
        block_elements: bound on the size of a temporary matrix.

    Returns:
        float64 (q, k), Euclidean distances in ascending order, 0 for an exact copy; and int64 (q, k), the rows that
        they lead to. A row with fewer than k neighbours outside its group has the distance infinity to those it lacks.
    """
    n, d = x.shape
    if not 1 <= k < n:
        raise ValueError(f"{k} neighbours need at least {k + 1} rows, got {n}")
    block_elements = block_elements or BLOCK_ELEMENTS
    queries = torch.arange(n, device=x.device) if queries is None else queries
    m = min(k + SPARE_CANDIDATES, n - 1)
    centred = x - x.mean(0)
    products = [Products.of(centred, centred.square().sum(1), torch.float64)]
    if m <= EXACT_CANDIDATES and single_precision(x.device):
        products.insert(0, Products.of(centred, products[0].squares, torch.float32))
    squared, index = x.new_empty(len(queries), k), queries.new_empty(len(queries), k)
    unsure = torch.arange(len(queries), device=x.device)
    for product in products:
        if len(queries) == n and len(unsure) > n // 2:
            proposed = _propose_to_all(product, m, exclude, block_elements)
            pieces = [(unsure, tuple(part[queries[unsure]] for part in proposed))]
        else:
            blocks = torch.split(unsure, max(1, block_elements // max(n, d)))
            pieces = [(some, _propose(product, queries[some], m, exclude)) for some in blocks]
        still = []
        for some, (found, candidates) in pieces:
            rows = queries[some]
            squared[some], index[some], proven = _nearest_among(x, product, rows, found, candidates, k)
            still.append(some[~proven])
        unsure = torch.cat(still) if still else unsure
        if not len(unsure):
            break
    for q in unsure.tolist():
        squared[q], index[q] = _search_directly(x, int(queries[q]), k, exclude, block_elements)
    return squared.sqrt(), index


@dataclass(frozen=True)
class Products:
    """Rows ready to be multiplied with each other in one precision.

    Attributes:
        rows: (n, d), centred; in float32 scaled to a longest row of length 1.
        squares: float64 (n,), squared lengths of these rows.
        unit: squared length, in units of the states, that 1 stands for.
        rounding: |a|² + |b|² − 2ab is off by less than this share of |a|² + |b|² ...
        underflow: ... and this.
    """

    rows: Tensor
    squares: Tensor
    unit: float
    rounding: float
    underflow: float

    @classmethod
    def of(cls, centred: Tensor, squares: Tensor, dtype: torch.dtype) -> Products:
        info, d = torch.finfo(dtype), centred.shape[1]
        rounding = 2 * (d + 4) * info.eps
        if dtype == torch.float64:
            return cls(centred, squares, 1.0, rounding, 0.0)
        unit = float(squares.max()) or 1.0
        return cls((centred / unit**0.5).to(dtype), squares / unit, unit, rounding, 8 * (d + 4) * info.tiny)


def single_precision(device: torch.device) -> bool:
    """Whether float32 products are worth while and as exact as float32 is.

    They are not on a GPU, whose float64 is as fast, nor where somebody has allowed a shorter type for them, under
    ``torch.autocast`` for instance, which leaves float64 alone.
    """
    if device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return False
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # torch has no one answer where ``torch.backends...fp32_precision`` was set
        return False


def _propose(product: Products, rows: Tensor, m: int, exclude: Tensor | None) -> tuple[Tensor, Tensor]:
    """|b|² − 2ab of each of some rows a and the m rows b where it is least, and which these are."""
    found = torch.addmm(product.squares.to(product.rows.dtype), product.rows[rows], product.rows.T, alpha=-2)
    found.scatter_(1, rows[:, None], torch.inf)
    if exclude is not None:
        found.masked_fill_(same_group(exclude[rows, None], exclude), torch.inf)
    return found.topk(m, largest=False)


def _propose_to_all(product: Products, m: int, exclude: Tensor | None, block_elements: int) -> tuple[Tensor, Tensor]:
    """The same for all rows: ab is computed once for a and b together, half the multiplications."""
    rows, squares = product.rows, product.squares.to(product.rows.dtype)
    n = len(rows)
    found, candidates = rows.new_full((n, m), torch.inf), torch.zeros(n, m, dtype=torch.int64, device=rows.device)

    def keep(some: slice, values: Tensor, start: int) -> None:
        least, which = values.topk(min(m, values.shape[1]), largest=False)
        joined, of_joined = torch.cat([found[some], least], 1), torch.cat([candidates[some], which + start], 1)
        found[some], order = joined.topk(m, largest=False)
        candidates[some] = of_joined.gather(1, order)

    step = min(-(-n // PIECES), max(1, math.isqrt(block_elements)))
    pieces = [slice(start, min(start + step, n)) for start in range(0, n, step)]
    for number, a in enumerate(pieces):
        for b in pieces[number:]:
            both = (rows[a] @ rows[b].T).mul_(-2)
            if a == b:
                both.fill_diagonal_(torch.inf)
            if exclude is not None:
                both.masked_fill_(same_group(exclude[a, None], exclude[b]), torch.inf)
            keep(a, both + squares[b], b.start)
            if a != b:
                keep(b, (both + squares[a, None]).T, a.start)
    return found, candidates


def _nearest_among(
    x: Tensor, product: Products, rows: Tensor, found: Tensor, candidates: Tensor, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Squared distances of some rows to the k nearest of those proposed, which they are, and whether it is proven."""
    rounding = product.rounding
    approximate = (found.double() + product.squares[rows, None]) * product.unit
    sizes = product.unit * (product.squares[rows, None] + product.squares[candidates])
    error = rounding * sizes + product.unit * product.underflow
    needed = ~(error < PRODUCT_TOLERANCE * approximate)
    needed[:, :EXACT_CANDIDATES] = True
    # one that is farther than the k-th for sure need not be measured: it stays farther
    needed &= approximate - error <= (approximate + error).kthvalue(k, dim=1, keepdim=True).values
    exact = approximate.clone()
    i, j = torch.nonzero(needed & approximate.isfinite(), as_tuple=True)
    exact[i, j] = _squared_distances(x, rows[i], candidates[i, j])
    exact, order = exact.sort(1)
    nearest, which = exact[:, :k], candidates.gather(1, order[:, :k])
    if candidates.shape[1] == len(x) - 1:
        return nearest, which, torch.ones_like(rows, dtype=torch.bool)
    # No row b that was not proposed is nearer than this: |b|² ≤ 2|a|² + 2r² bounds the rounding of its r².
    slack = 3 * rounding * product.squares[rows] + product.underflow
    proven = (1 - 2 * rounding) * approximate[:, -1] - product.unit * slack
    return nearest, which, nearest[:, -1] <= proven


def same_group(a: Tensor, b: Tensor) -> Tensor:
    """Whether two groups are one; −1 is nobody's group, not even its own."""
    return (a == b) & (b >= 0)


def _squared_distances(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Squared distances between rows a and rows b of x, from their differences."""
    pieces = zip(*(torch.split(rows, max(1, CACHED_ELEMENTS // x.shape[1])) for rows in (a, b)), strict=True)
    squared = [(x[some] - x[others]).square_().sum(1) for some, others in pieces]
    return torch.cat(squared) if squared else x.new_empty(0)


def _search_directly(x: Tensor, row: int, k: int, exclude: Tensor | None, block_elements: int) -> tuple[Tensor, Tensor]:
    """Squared distances from one row to its k nearest, from differences alone, and which rows they are."""
    rows_at_once = max(1, block_elements // x.shape[1])
    squared = torch.cat([(part - x[row]).square().sum(1) for part in torch.split(x, rows_at_once)])
    squared[row] = torch.inf
    if exclude is not None:
        squared[same_group(exclude[row], exclude)] = torch.inf
    nearest = squared.topk(k, largest=False)
    order = nearest.values.argsort()
    return nearest.values[order], nearest.indices[order]
