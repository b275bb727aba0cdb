"""Streaming moments against moments computed at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from microscope_bench.metrics.core import fold_moments
from microscope_bench.metrics.core.cloud_rows import Chunk
from microscope_bench.metrics.core.fold_moments import FoldMoments, accumulate, merge
from microscope_bench.metrics.core.moments import Moments
from tests.metrics.allocations import Allocations
from tests.metrics.oracles import gaussian, massive, next_states

N, D, FOLDS = 200, 6, 4


def chunks(x: Tensor, y: Tensor | None, fold: Tensor, size: int) -> Iterator[Chunk]:
    for start in range(0, len(x), size):
        rows = slice(start, start + size)
        yield Chunk(x[rows], None if y is None else y[rows], fold[rows], fold[rows])


def direct(x: Tensor, y: Tensor) -> Moments:
    r = y - x
    xc, rc, yc = x - x.mean(0), r - r.mean(0), y - y.mean(0)
    return Moments(len(x), x.mean(0), r.mean(0), xc.T @ xc, xc.T @ rc, rc.square().sum(), yc.square().sum())


def assert_same(a: Moments, b: Moments, rtol: float = 1e-11) -> None:
    assert a.n == b.n
    for name in ("mean_x", "mean_r", "c_xx", "c_xr", "rr", "yy"):
        one, other = getattr(a, name), getattr(b, name)
        scale = float(other.abs().max()) if other.numel() else 0.0
        torch.testing.assert_close(one, other, rtol=rtol, atol=rtol * scale, msg=lambda m, n=name: f"{n}: {m}")


def clouds() -> tuple[Tensor, Tensor, Tensor]:
    x = massive(N, D)
    return x, next_states(x), torch.randint(FOLDS, (N,), generator=torch.Generator().manual_seed(0))


@settings(deadline=None, max_examples=25)
@given(size=st.integers(1, N + 5))
def test_any_chunk_size_gives_the_moments_of_each_fold(size: int) -> None:
    x, y, fold = clouds()
    found = accumulate(chunks(x, y, fold, size), D, FOLDS, has_next=True)
    for k in range(FOLDS):
        assert_same(found.folds[k], direct(x[fold == k], y[fold == k]))
        assert_same(found.without(k), direct(x[fold != k], y[fold != k]))
    assert_same(found.total(), direct(x, y))


@pytest.mark.parametrize("shared, most", [(D, None), (D - 1, 2)], ids=["narrow", "wide"])
def test_each_fold_is_left_out_and_of_wide_clouds_no_sums_wait(
    shared: int, most: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fold_moments, "SHARED_SUMS_UP_TO", shared)
    x, y, fold = clouds()
    folds = accumulate(chunks(x, y, fold, N), D, FOLDS, has_next=True)
    with Allocations() as counted:
        for k, rest in folds.each_left_out():
            assert_same(rest, direct(x[fold != k], y[fold != k]))
            if most is not None:
                matrices = [size for size in counted.sizes.values() if size == 8 * D * D]
                assert len(matrices) <= most
            del rest


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_a_large_mean_does_not_cancel(offset: float) -> None:
    x = gaussian(500, D) + offset
    found = accumulate(chunks(x, x, torch.zeros(500, dtype=torch.int64), 7), D, 1, has_next=False).total()
    torch.testing.assert_close(found.c_xx, direct(x, x).c_xx, rtol=1e-8, atol=1e-6)


def test_merging_two_clouds_equals_one_cloud_of_both() -> None:
    x, y, fold = clouds()
    text, image = slice(0, 70), slice(70, N)
    a = accumulate(chunks(x[text], y[text], fold[text], 32), D, FOLDS, has_next=True)
    b = accumulate(chunks(x[image] + 0, y[image], fold[image], 32), D, FOLDS, has_next=True)
    joint = merge(a, b)
    for k in range(FOLDS):
        assert_same(joint.folds[k], direct(x[fold == k], y[fold == k]))
    assert_same(a.total(), direct(x[text], y[text]))  # the parts are as they were


def test_rows_that_are_not_finite_are_counted_apart() -> None:
    x, y, fold = clouds()
    x[2, 0], y[2, 1], y[9, 3], x[11, 1] = torch.nan, torch.nan, torch.inf, -torch.inf
    found = accumulate(chunks(x, y, fold, 50), D, FOLDS, has_next=True)
    assert (found.non_finite_x, found.non_finite) == (2, 3)
    both = merge(found, found)
    assert (both.non_finite_x, both.non_finite) == (4, 6)
    finite = x.isfinite().all(1)
    torch.testing.assert_close(found.total().c_xx, direct(x[finite], x[finite]).c_xx)


def test_empty_folds_and_empty_clouds_are_moments_of_nothing() -> None:
    x, y, _ = clouds()
    found = accumulate(chunks(x, y, torch.full((N,), 2), 64), D, FOLDS, has_next=True)
    assert found.occupied == [2]
    assert_same(found.total(), direct(x, y))
    assert found.without(2).n == 0
    assert accumulate(iter(()), D, FOLDS, has_next=True).total().n == 0


def test_a_cloud_without_next_boundary_has_no_width_of_r() -> None:
    x, _, fold = clouds()
    found = accumulate(chunks(x, None, fold, 64), D, FOLDS, has_next=False).total()
    assert found.c_xr.shape == (D, 0) and not found.has_next


def test_misfits_are_refused() -> None:
    x, y, fold = clouds()
    with pytest.raises(ValueError, match="width 5"):
        accumulate(chunks(x, y, fold, 64), 5, FOLDS, has_next=True)
    with pytest.raises(ValueError, match="next None"):
        accumulate(chunks(x, None, fold, 64), D, FOLDS, has_next=True)
    with pytest.raises(ValueError, match="2 and 3 folds"):
        merge(FoldMoments([Moments.zeros(2, True)] * 2), FoldMoments([Moments.zeros(2, True)] * 3))
    with pytest.raises(ValueError, match="one width"):
        Moments.merged([Moments.zeros(2, True), Moments.zeros(3, True)])
