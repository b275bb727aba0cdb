"""Exact nearest neighbours in high dimensions, and exact copies.

Distances by a matrix product cancel for close pairs, and close pairs are what intrinsic dimension lives on. So the
product only proposes candidates; their distances are computed from differences; and a row whose candidates are not
provably the nearest is searched again without the product.
"""

from __future__ import annotations

from hashlib import blake2b

import torch
from torch import Tensor

SPARE_CANDIDATES = 6
"""Candidates beyond k. With 8 for k = 2 nearly every row is certain at once, massive activations included."""

COPY_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Distance, in units of a row's norm, below which two rows of that dtype are one token computed twice.

Four roundings of a half type. In float32 the forward passes of one token in different batches agree to about 1e-6;
other tokens of the models measured so far lie at 1e-2 and more.
"""

BLOCK_ELEMENTS = 2**24
"""Bound on the size of every temporary matrix: 128 MiB of float64."""


def nearest_neighbours(x: Tensor, k: int = 2) -> Tensor:
    """Distances from every row to its k nearest other rows, exact to a few units in the last place.

    Args:
        x: float64 (n, d), finite.
        k: number of neighbours, 1 .. n − 1.

    Returns:
        float64 (n, k), Euclidean distances in ascending order; 0 for an exact copy.

    Raises:
        ValueError: fewer than k + 1 rows.
    """
    n, d = x.shape
    if not 1 <= k < n:
        raise ValueError(f"{k} neighbours need at least {k + 1} rows, got {n}")
    centred = x - x.mean(0)
    squares = centred.square().sum(1)
    m = min(k + SPARE_CANDIDATES, n - 1)
    # Rounding of |a|² + |b|² − 2ab: 2 (d + 4) eps (|a|² + |b|²) bounds it, with b the longest row.
    slack = 2 * (d + 4) * torch.finfo(torch.float64).eps * (squares + squares.max())
    out = torch.empty(n, k, dtype=x.dtype, device=x.device)
    rows_at_once = max(1, BLOCK_ELEMENTS // max(n, d))
    for start in range(0, n, rows_at_once):
        rows = torch.arange(start, min(start + rows_at_once, n), device=x.device)
        approximate = squares[rows, None] + squares - 2 * (centred[rows] @ centred.T)
        approximate[rows - start, rows] = torch.inf
        proposed, candidates = approximate.topk(m, largest=False)
        exact = torch.stack([(x[rows] - x[candidates[:, j]]).square().sum(1) for j in range(m)], 1)
        nearest = exact.sort(1).values[:, :k]
        out[rows] = nearest
        if m < n - 1:
            uncertain = nearest[:, -1] > proposed[:, -1] - slack[rows]
            for row in rows[uncertain].tolist():
                out[row] = _search_directly(x, row, k)
    return out.sqrt()


def _search_directly(x: Tensor, row: int, k: int) -> Tensor:
    """Squared distances from one row to its k nearest, from differences alone."""
    rows_at_once = max(1, BLOCK_ELEMENTS // x.shape[1])
    squared = torch.cat([(part - x[row]).square().sum(1) for part in torch.split(x, rows_at_once)])
    squared[row] = torch.inf
    return squared.topk(k, largest=False).values.sort().values


def first_copies(x: Tensor, tolerance: float = 0.0) -> Tensor:
    """For every row the index of the first row that it is a copy of, itself where there is none before.

    Copies are equal rows (−0.0 equals 0.0), and rows nearer to each other than ``tolerance`` times their norm: the same
    token in two batches differs in its last bits, and such a pair would look to TwoNN like a point of dimension zero.

    Args:
        x: (n, d), any dtype.
        tolerance: see :data:`COPY_TOLERANCE`.

    Returns:
        int64 (n,), on the device of ``x``.

    >>> first_copies(torch.tensor([[0.0, 1.0], [2.0, 3.0], [-0.0, 1.0], [2.0, 3.00001]]), tolerance=1e-5)
    tensor([0, 1, 0, 1])
    """
    first = _first_equal(x)
    if tolerance == 0.0:
        return first
    distinct = torch.nonzero(first == torch.arange(len(first), device=x.device)).flatten()
    near = torch.arange(len(first), device=x.device)
    near[distinct] = distinct[_first_near(x[distinct].double(), tolerance)]
    return near[first]


def _first_near(x: Tensor, tolerance: float) -> Tensor:
    n, d = x.shape
    limit = tolerance**2 * x.square().sum(1)
    centred = x - x.mean(0) if n else x
    squares = centred.square().sum(1)
    first = torch.arange(n, device=x.device)
    rows_at_once = max(1, BLOCK_ELEMENTS // max(n, d, 1))
    for rows in torch.split(first.clone(), rows_at_once):
        slack = 2 * (d + 4) * torch.finfo(torch.float64).eps * (squares[rows] + squares.max())
        proposed = squares[rows, None] + squares - 2 * (centred[rows] @ centred.T) <= (limit[rows] + slack)[:, None]
        proposed &= torch.arange(n, device=x.device) < rows[:, None]
        for i in torch.nonzero(proposed.any(1)).flatten().tolist():
            row = rows[i]
            candidates = torch.nonzero(proposed[i]).flatten()
            real = candidates[(x[candidates] - x[row]).square().sum(1) <= limit[row]]
            if len(real):
                first[row] = real[0]
    return first


def _first_equal(x: Tensor) -> Tensor:
    """Rows are told apart by a 128-bit hash of their bytes, so wide rows of many tokens need no sorting."""
    seen: dict[bytes, int] = {}
    first: list[int] = []
    offset = 0
    for part in torch.split(x.detach(), max(1, BLOCK_ELEMENTS // max(x.shape[1], 1))):
        rows = (part + 0.0 if part.is_floating_point() else part).contiguous().cpu()  # −0.0 + 0.0 is 0.0
        for i, row in enumerate(rows.view(torch.uint8).numpy()):
            first.append(seen.setdefault(blake2b(row, digest_size=16).digest(), offset + i))
        offset += part.shape[0]
    return torch.tensor(first, dtype=torch.int64, device=x.device)
