"""Copies among the rows of a cloud: equal, or one token computed twice.

To an estimator that looks at nearest neighbours a pair of copies is a point of dimension 0.
"""

from __future__ import annotations

from hashlib import blake2b

import torch
from torch import Tensor

from microscope_bench.metrics.core.neighbours import BLOCK_ELEMENTS, CACHED_ELEMENTS

COPY_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Distance, in units of a row's norm, up to which two rows of that dtype that come from the same input are one token.

Four roundings of a half type; one token in different batches moved by up to 1e-6 in float32 and 1e-2 in bfloat16.
"""

CLOSE_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
"""The same for rows of which it is not known that they come from the same input, in units of the smaller of a row's
norm and its distance from the mean: rows that lie far from the origin are not the nearer to each other for it.

One state can come from inputs that differ in what it does not depend on. Other tokens of the models measured so far
lie at 1e-2 and more, which is within the rounding of a half type: there such rows must be equal to the last bit.
"""

NARROWER = {
    torch.float64: (torch.bfloat16, torch.float16, torch.float32),
    torch.float32: (torch.bfloat16, torch.float16),
}
"""Dtypes whose values a wider one may hold, the coarsest first."""

NORM_BLOCK = 128


def first_of_copies(x: Tensor, keys: Tensor | None = None, block_elements: int = BLOCK_ELEMENTS) -> Tensor:
    """For every row, int64 (n,), the first that it is a copy of, exact or but for rounding; itself where it is none.

    How far rounding moves a row is decided by what the values were rounded to, :func:`rounded_to`, whatever the dtype
    of ``x`` (n, d). No row is a copy of a row that is itself a copy of another. ``keys``, int64 (n,), are equal for
    rows that come from the same input, where that is known; in a half type only those can be copies but for rounding.
    """
    first, rounded = first_copies(x, block_elements), rounded_to(x, block_elements)
    row = torch.arange(len(x), device=x.device)
    kept = torch.nonzero(first == row).flatten()
    if keys is not None:
        tolerance = COPY_TOLERANCE.get(rounded, 0.0)
        first = _followed(first, kept, first_of_same(x, kept, keys[kept], tolerance, block_elements))
        kept = torch.nonzero(first == row).flatten()
    if x.dtype in CLOSE_TOLERANCE:
        tolerance = CLOSE_TOLERANCE.get(rounded, CLOSE_TOLERANCE[torch.float32])
        near = first_near_copies(x[kept].double(), tolerance, block_elements)
        first = _followed(first, kept, kept[near])
    return first


def rounded_to(x: Tensor, block_elements: int = BLOCK_ELEMENTS) -> torch.dtype:
    """The coarsest dtype that holds every value of a tensor (n, d): states keep it when they are cast to a wider one.

    >>> rounded_to(torch.tensor([[0.1]]).double()), rounded_to(torch.tensor([[0.1]], dtype=torch.float64))
    (torch.float32, torch.float64)
    """
    # in small parts, of which the first tells of most dtypes that they are too coarse
    parts = torch.split(x.detach(), max(1, min(block_elements, CACHED_ELEMENTS) // max(x.shape[1], 1)))
    held = (dtype for dtype in NARROWER.get(x.dtype, ()) if all(torch.equal(p.to(dtype).to(x.dtype), p) for p in parts))
    return next(held, x.dtype)


def _followed(first: Tensor, kept: Tensor, near: Tensor) -> Tensor:
    """``first``, where row ``kept[i]`` turns out a copy of ``near[i]``; each row points to one that is kept."""
    of_kept = torch.arange(len(first), device=first.device)
    of_kept[kept] = near
    # a chain a ~ b ~ c ends at its first row
    while not torch.equal(of_kept[of_kept], of_kept):
        of_kept = of_kept[of_kept]
    return of_kept[first]


def first_of_same(x: Tensor, rows: Tensor, keys: Tensor, tolerance: float, block_elements: int) -> Tensor:
    """For each of some rows the first of its key, if that lies within ``tolerance`` of its norm, or itself."""
    out = rows.clone()
    _, group = torch.unique(keys, return_inverse=True)
    leader = torch.full((len(rows),), len(rows), device=x.device, dtype=torch.int64)
    place = torch.arange(len(rows), device=x.device)
    leader = leader.scatter_reduce(0, group, place, "amin")[group]
    followers = torch.nonzero(leader != place).flatten()
    for part in torch.split(followers, max(1, block_elements // max(x.shape[1], 1))):
        mine, theirs = x[rows[part]].double(), x[rows[leader[part]]].double()
        near = torch.linalg.vector_norm(mine - theirs, dim=1) <= tolerance * torch.linalg.vector_norm(mine, dim=1)
        out[part[near]] = rows[leader[part[near]]]
    return out


def first_copies(x: Tensor, block_elements: int = BLOCK_ELEMENTS) -> Tensor:
    """For every row the index of the first row that is an exact copy of it, itself where there is none before.

    >>> first_copies(torch.tensor([[0.0, 1.0], [2.0, 3.0], [-0.0, 1.0]]))
    tensor([0, 1, 0])
    """
    seen: dict[bytes, int] = {}
    first: list[int] = []
    offset = 0
    for part in torch.split(x.detach(), max(1, block_elements // max(x.shape[1], 1))):
        rows = (part + 0.0 if part.is_floating_point() else part).contiguous().cpu()  # −0.0 + 0.0 is 0.0
        for i, row in enumerate(rows.view(torch.uint8).numpy()):
            first.append(seen.setdefault(blake2b(row, digest_size=16).digest(), offset + i))
        offset += part.shape[0]
    return torch.tensor(first, dtype=torch.int64, device=x.device)


def first_near_copies(x: Tensor, tolerance: float, block_elements: int = BLOCK_ELEMENTS) -> Tensor:
    """For every row the index of the first row that is near, itself where there is none.

    Near is ``tolerance`` times the smaller of its norm and its distance from the mean of all rows. Rows of which one is
    longer by more than that cannot be that near, so each, of float64, is compared only with rows of about its norm.
    """
    n, d = x.shape
    first = torch.arange(n, device=x.device)
    if n < 2:
        return first
    norms, by_norm = torch.linalg.vector_norm(x, dim=1).sort()
    centred = (x - x.mean(0))[by_norm]
    squares = centred.square().sum(1)
    limits = tolerance * torch.minimum(norms, squares.sqrt())
    slack = 2 * (d + 4) * torch.finfo(torch.float64).eps * (squares + squares.max())
    wide = 1.01 * tolerance
    start = 0
    while start < n:
        low = int(torch.searchsorted(norms, norms[start] * (1 - wide)))
        end = min(n, start + max(1, block_elements // max(n, d)), start + NORM_BLOCK)
        high = max(end, int(torch.searchsorted(norms, norms[end - 1] * (1 + wide), right=True)))
        rows, others = by_norm[start:end], by_norm[low:high]
        approximate = squares[start:end, None] + squares[low:high] - 2 * (centred[start:end] @ centred[low:high].T)
        limit = limits[start:end].square() + slack[start:end]
        proposed = (approximate <= limit[:, None]) & (others < rows[:, None])
        for i in torch.nonzero(proposed.any(1)).flatten().tolist():
            candidates = others[proposed[i]].sort().values
            distance = torch.linalg.vector_norm(x[candidates] - x[rows[i]], dim=1)
            near = candidates[distance <= limits[start + i]]
            if len(near):
                first[rows[i]] = near[0]
        start = end
    return first
