"""What the metrics hold at once keeps to a bound, and no score hangs on it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from microscope_bench.errors import MetricError
from microscope_bench.metrics.core.arrays import cloud_of
from microscope_bench.metrics.core.cloud import ArrayCloud
from microscope_bench.metrics.core.duplicates import first_of_copies
from microscope_bench.metrics.core.moments import Moments
from microscope_bench.metrics.core.workspace import LEAST_ELEMENTS, LEAST_ROWS, Sizes, Workspace
from microscope_bench.metrics.linearity_metric import Linearity
from microscope_bench.metrics.registry import DEFAULT_METRICS, METRICS
from tests.metrics.allocations import Allocations
from tests.metrics.oracles import gaussian, next_states

MB = 10**6


def cloud(n: int, d: int) -> ArrayCloud:
    x = gaussian(n, d)
    return cloud_of(x, next_states(x), torch.arange(n) // 4)


def sizes(dim: int, n_folds: int = 10, sample_rows: int = 8192, n_together: int = 1, can_park: bool = True) -> Sizes:
    return Sizes(dim, n_folds, 12, n_together, sample_rows, can_park)


def least(wanted: Sizes) -> int:
    low, high = 0, 10**13
    while high - low > 1:
        middle = (low + high) // 2
        try:
            Workspace.within(middle, wanted)
        except MetricError:
            low = middle
        else:
            high = middle
    return high


@given(st.integers(2, 8192), st.integers(1, 10), st.integers(0, 40000), st.booleans(), st.floats(1, 100))
def test_there_is_room_for_something_from_the_least_on(
    dim: int, folds: int, rows: int, can_park: bool, times: float
) -> None:
    wanted = sizes(dim, folds, rows, can_park=can_park)
    found = Workspace.within(int(times * least(wanted)), wanted)
    assert found.rows_per_chunk >= LEAST_ROWS and found.block_elements >= LEAST_ELEMENTS
    assert found.folds_at_once is None or (1 <= found.folds_at_once < folds and found.parked)
    assert not (found.parked and (found.kept or not can_park))


@pytest.mark.parametrize("can_park, together, said", [(True, 2, "3.3GB"), (False, 1, "6GB"), (False, 2, "8.6GB")])
def test_less_than_the_least_is_refused_with_the_least(can_park: bool, together: int, said: str) -> None:
    """Where the moments cannot wait in another memory they count."""
    wanted = sizes(4096, n_together=together, can_park=can_park)
    with pytest.raises(MetricError, match=rf"1,000,000 bytes are too little .* width 4096; the least is {said}\."):
        Workspace.within(MB, wanted)


def test_what_is_kept_goes_before_matrices_are_parked() -> None:
    wanted = sizes(4096)
    found = [Workspace.within(size * 10**9, wanted) for size in (50, 20, 5)]
    assert [(one.kept, one.parked) for one in found] == [(True, False), (False, False), (False, True)]


@pytest.mark.parametrize("at_once", [1, 3, 10])
def test_folds_in_passes_have_the_same_moments(at_once: int) -> None:
    whole, passes = cloud(500, 12), cloud(500, 12)
    passes.workspace = Workspace(folds_at_once=at_once, parked=True)
    for a, b in zip(whole.moments.folds, passes.moments.folds, strict=True):
        assert all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a) if f.name != "n")
        assert a.n == b.n


@pytest.mark.parametrize("workspace", [Workspace(64, 2**10, 2, True), Workspace(100, 2**12)])
def test_no_score_hangs_on_the_workspace(workspace: Workspace) -> None:
    free, bound = cloud(600, 12), cloud(600, 12)
    bound.workspace = workspace
    for name in DEFAULT_METRICS:
        metric = METRICS.get(name)
        for (key, stream, one), (_, _, other) in zip(metric.scores(free), metric.scores(bound), strict=True):
            assert one.value == pytest.approx(other.value, rel=1e-9), (name, key, stream)
            assert one.stderr == pytest.approx(other.stderr, rel=1e-9, abs=1e-12), (name, key, stream)
            assert one.flags == other.flags


@pytest.mark.parametrize("can_park", [True, False])
@pytest.mark.parametrize(
    "n, d", [(3000, 160), pytest.param(12_000, 1024, marks=pytest.mark.heavy)], ids=["narrow", "wide"]
)
def test_the_bound_holds(n: int, d: int, can_park: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = cloud(n, d)
    wanted = sizes(d, sample_rows=n, can_park=can_park)
    size = least(wanted)
    measured.workspace = Workspace.within(size, wanted)
    assert measured.workspace.parked == can_park
    counted, parked = Allocations(), Moments.parked

    def elsewhere(moments: Moments) -> Moments:
        out = parked(moments)
        counted.forget(out.c_xx)
        counted.forget(out.c_xr)
        return out

    monkeypatch.setattr(Moments, "parked", elsewhere)
    with counted:
        linearity = Linearity(measured)
        assert linearity.estimate("cross_fitted", "hidden").value is not None
        list(METRICS.get("anisotropy").scores(measured))
        list(METRICS.get("intrinsic_dimension").scores(measured))
    assert 0.3 * size < counted.peak < size


@pytest.mark.parametrize("dtype, same", [(torch.float32, 1), (torch.bfloat16, 4)])
def test_the_bound_holds_for_the_search_for_copies(dtype: torch.dtype, same: int) -> None:
    """Rows of one length are all compared with each other, in a half type those of one input."""
    n, d = 12_000, 64
    x = torch.nn.functional.normalize(gaussian(n, d), dim=1).to(dtype)
    wanted = sizes(d, sample_rows=n)
    size = least(wanted)
    block = Workspace.within(size, wanted).block_elements
    keys = torch.arange(n) // same
    with Allocations() as counted:
        found = first_of_copies(x, keys, block)
    assert counted.peak < size
    assert torch.equal(found, first_of_copies(x, keys))
