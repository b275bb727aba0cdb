"""Participation ratio, effective rank, IsoScore and CKA against their definitions written out, and known clouds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from microscope_bench.errors import MetricError, UnknownNameError
from microscope_bench.metrics import cka, effective_rank, isoscore, participation_ratio
from microscope_bench.metrics.core.cloud import ArrayCloud
from microscope_bench.metrics.core.workspace import Workspace
from microscope_bench.metrics.registry import METRICS
from tests.metrics.oracles import conditioned, gaussian, massive, next_states

OF_ONE_CLOUD = {"participation_ratio": participation_ratio, "effective_rank": effective_rank, "isoscore": isoscore}


def shares(x: Tensor) -> np.ndarray:
    """Shares of variance from singular values; no covariance."""
    squares = np.linalg.svd((x - x.mean(0)).numpy(), compute_uv=False) ** 2
    return np.pad(squares, (0, x.shape[1] - len(squares))) / squares.sum()


def isoscore_by_definition(x: Tensor) -> float:
    """Rudman et al. 2022, algorithm 1: normalised diagonal, isotropy defect, rescaling."""
    d = x.shape[1]
    normalised = np.sqrt(d) * shares(x) / np.linalg.norm(shares(x))
    defect = np.linalg.norm(normalised - 1) / np.sqrt(2 * (d - np.sqrt(d)))
    dimensions = (d - defect**2 * (d - np.sqrt(d))) ** 2 / d
    return float((dimensions - 1) / (d - 1))


CLOUDS = {
    "gaussian": gaussian(200, 12),
    "condition 1e6": conditioned(200, 12, 1e6),
    "massive activations": massive(200, 12),
    "fewer tokens than d": gaussian(8, 30) + 100,
    "low rank": gaussian(200, 3) @ gaussian(3, 12, 1),
}


@pytest.mark.parametrize("name", CLOUDS)
def test_equal_their_definitions(name: str) -> None:
    x = CLOUDS[name]
    p = shares(x)
    positive = p[p > 1e-20]
    assert participation_ratio(x).value == pytest.approx(1 / (p**2).sum(), rel=1e-9)
    assert effective_rank(x).value == pytest.approx(np.exp(-(positive * np.log(positive)).sum()), rel=1e-9)
    assert isoscore(x).value == pytest.approx(isoscore_by_definition(x), rel=1e-7, abs=1e-9)


@pytest.mark.parametrize(
    ("n", "d", "expected"), [(40, 3, 0.4664067146650061), (200, 10, 0.5385193930697355), (12, 20, 0.37065962739117403)]
)
def test_isoscore_equals_the_authors_package(n: int, d: int, expected: float) -> None:
    # the values are those of IsoScore 2.0.1, which takes some of its square roots in float32
    i, j = np.arange(n)[:, None], np.arange(d)
    assert isoscore(np.sin(i * (j + 1.0)) * (j + 1) + j).value == pytest.approx(expected, rel=1e-6)


def test_known_clouds() -> None:
    axes = torch.eye(7, dtype=torch.float64)
    even = torch.cat([axes, -axes])
    line = torch.arange(20.0)[:, None] * torch.tensor([1.0, -2.0, 0.5])
    for function, of_even, of_line in ((participation_ratio, 7, 1), (effective_rank, 7, 1), (isoscore, 1, 0)):
        assert function(even).value == pytest.approx(of_even)
        assert function(line).value == pytest.approx(of_line, abs=1e-9)
    assert participation_ratio(gaussian(1000, 500)).value == pytest.approx(500 / 1.5, rel=0.02)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), exponent=st.integers(-12, 12), shift=st.floats(-1e3, 1e3))
def test_rotation_scale_shift_and_order_change_nothing(seed: int, exponent: int, shift: float) -> None:
    x = gaussian(90, 5) * torch.tensor([5.0, 2.0, 1.0, 0.5, 0.1], dtype=torch.float64)
    groups, y = torch.arange(90) // 3, next_states(x)
    order = torch.randperm(90, generator=torch.Generator().manual_seed(seed))
    rotations = [torch.linalg.qr(gaussian(5, 5, seed + k))[0] for k in range(2)]
    moved, moved_y = (2.0**exponent * z[order] @ r + shift for z, r in zip((x, y), rotations, strict=True))
    pairs = [(f(moved, groups[order]), f(x, groups)) for f in OF_ONE_CLOUD.values()]
    pairs += [(cka(moved, moved_y, e, groups[order]), cka(x, y, e, groups)) for e in ("linear", "debiased")]
    for found, expected in pairs:
        assert found.value == pytest.approx(expected.value, rel=1e-6)
        assert found.stderr == pytest.approx(expected.stderr, rel=1e-5)


def test_the_standard_errors_match_the_spread_between_data_sets() -> None:
    groups = np.repeat(np.arange(80), 5)
    runs: dict[str, list] = {}
    for seed in range(40):
        x = gaussian(400, 10, seed) + 2 * gaussian(80, 1, 500 + seed).repeat_interleave(5, 0) * gaussian(1, 10, 9)
        y = x @ gaussian(10, 10, 7) + gaussian(400, 10, 900 + seed)
        for name, function in OF_ONE_CLOUD.items():
            runs.setdefault(name, []).append(function(x, groups))
        for estimator in ("linear", "debiased"):
            runs.setdefault(estimator, []).append(cka(x, y, estimator, groups))
    for name, estimates in runs.items():
        spread = np.std([e.value for e in estimates])
        assert 0.6 < np.mean([e.stderr for e in estimates]) / spread < 1.6, name


def centred_kernel(x: Tensor) -> np.ndarray:
    centring = np.eye(len(x)) - 1 / len(x)
    return centring @ x.numpy() @ x.numpy().T @ centring


def unbiased_hsic(a: np.ndarray, b: np.ndarray) -> float:
    """Song et al. 2012 in its kernel form: the kernels without their diagonals."""
    n = len(a)
    a, b, one = a - np.diag(np.diag(a)), b - np.diag(np.diag(b)), np.ones(n)
    means = (one @ a @ one) * (one @ b @ one) / ((n - 1) * (n - 2))
    return float((np.trace(a @ b) + means - 2 / (n - 2) * one @ a @ b @ one) / (n * (n - 3)))


@pytest.mark.parametrize("seed", range(3))
def test_cka_equals_its_kernel_form(seed: int) -> None:
    x = gaussian(60, 8, seed) + 3
    y = next_states(x, seed + 5) @ gaussian(8, 8, 9)
    a, b = centred_kernel(x), centred_kernel(y)
    linear = (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())
    a, b = x.numpy() @ x.numpy().T, y.numpy() @ y.numpy().T  # not centred: the unbiased form does that itself
    debiased = unbiased_hsic(a, b) / np.sqrt(unbiased_hsic(a, a) * unbiased_hsic(b, b))
    assert cka(x, y, "linear").value == pytest.approx(linear, rel=1e-10)
    assert cka(x, y, "debiased").value == pytest.approx(debiased, rel=1e-8)


def test_the_jackknife_of_cka_leaves_whole_folds_out_at_both_boundaries() -> None:
    x, example = gaussian(60, 4), torch.arange(60) // 3
    y, fold = next_states(x), example % 5
    found = {e: s for e, _, s in METRICS.get("cka").scores(ArrayCloud(x, y, fold, example, 5))}
    for estimator in ("linear", "debiased"):
        left = np.array([cka(x[fold != k], y[fold != k], estimator).value for k in range(5)])
        assert found[estimator].stderr == pytest.approx(np.sqrt(4 / 5 * ((left - left.mean()) ** 2).sum()), rel=1e-8)


def test_the_size_of_the_chunks_changes_no_cka() -> None:
    x, example = gaussian(60, 4), torch.arange(60) // 3
    found = []
    for rows_per_chunk in (7, 1000):
        cloud = ArrayCloud(x, next_states(x), example % 5, example, 5)
        cloud.workspace = cloud.next.workspace = Workspace(rows_per_chunk=rows_per_chunk)
        found.append({name: estimate for name, _, estimate in METRICS.get("cka").scores(cloud)})
    for name, estimate in found[0].items():
        assert (estimate.value, estimate.stderr) == pytest.approx((found[1][name].value, found[1][name].stderr))


def test_chance_is_the_mean_of_linear_cka_over_permuted_rows() -> None:
    x, y = gaussian(30, 20), gaussian(30, 20, 1)
    runs = [cka(x, y[torch.randperm(30, generator=torch.Generator().manual_seed(s))], "linear") for s in range(80)]
    values = [run.value for run in runs]
    assert {run.flags for run in runs} == {runs[0].flags}
    assert float(runs[0].flags[0].removeprefix("chance=")) == pytest.approx(np.mean(values), rel=0.02)
    debiased = [cka(gaussian(30, 20, s), gaussian(30, 20, s + 1)).value for s in range(0, 200, 2)]
    assert abs(np.mean(debiased)) < 3 * np.std(debiased) / 10 < 0.05


def test_cka_of_a_boundary_with_itself_is_one_and_the_last_boundary_has_none() -> None:
    x = massive(100, 6)
    assert cka(x, x, "linear").value == pytest.approx(1) and cka(x, x).value == pytest.approx(1)
    example = torch.arange(100)
    assert list(METRICS.get("cka").scores(ArrayCloud(x, None, example % 10, example, 10))) == []


@pytest.mark.parametrize("n", [0, 1, 20])
@pytest.mark.parametrize("name", [*OF_ONE_CLOUD, "cka"])
def test_clouds_without_a_score_give_null_rows_with_a_reason(name: str, n: int) -> None:
    x, example = torch.full((n, 3), 0.1), torch.arange(n)
    rows = list(METRICS.get(name).scores(ArrayCloud(x, x, example % 2, example, 2)))
    assert len(rows) == len(METRICS.get(name).estimators)
    for _, _, estimate in rows:
        assert estimate.value is None and estimate.stderr is None
        assert ("no variance" if n == 20 else f"at least 2 tokens, got {n}") in str(estimate.reason)


def test_public_functions_raise_with_a_remedy() -> None:
    for function in OF_ONE_CLOUD.values():
        with pytest.raises(MetricError, match=r"no variance.*Give at least 2 tokens that differ"):
            function(torch.ones(20, 3))
    with pytest.raises(MetricError, match="at least 2 dimensions"):
        isoscore(gaussian(20, 1))
    with pytest.raises(MetricError, match="at least 4 tokens, got 3"):
        cka(gaussian(3, 2), gaussian(3, 2, 1))
    with pytest.raises(MetricError, match=r"1 of 9 tokens hold NaN.*isfinite"):
        cka(gaussian(9, 2), torch.cat([gaussian(8, 2), torch.full((1, 2), torch.inf)]))
    with pytest.raises(UnknownNameError, match="debiased"):
        cka(gaussian(9, 2), gaussian(9, 2), "debaised")
    with pytest.raises(ValueError, match="one shape"):
        cka(gaussian(9, 2), gaussian(8, 2))
