"""MIR against scipy's matrix square root, singular values of the rows themselves, and what its authors' code does."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from microscope_bench.errors import MetricError
from microscope_bench.metrics import mir, modality_integration_rate
from microscope_bench.metrics.core.cloud import ArrayCloud
from microscope_bench.metrics.core.frechet import trace_of_root, without_outliers
from microscope_bench.metrics.registry import METRICS
from tests.metrics.oracles import conditioned, gaussian, massive

Array = np.ndarray


def prepared(x: Array, text: Array) -> tuple[Array, Array]:
    """Scale and outliers as arXiv 2410.07167 has them, written anew; of an even number of values the lower middle."""
    scale = np.linalg.norm(text, axis=1).mean()

    def median(values: Array) -> Array:
        return np.sort(values, axis=0)[(len(values) - 1) // 2]

    out = []
    for rows in (x / scale, text / scale):
        norms = np.linalg.norm(rows, axis=1)
        far = np.abs(norms - median(norms)) > 3 * norms.std(ddof=1)
        out.append(np.where(far[:, None], median(rows), rows))
    return out[0], out[1]


def by_sqrtm(x: Array, text: Array) -> float:
    x, text = prepared(x, text)
    a, b = np.cov(x.T), np.cov(text.T)
    root = scipy.linalg.sqrtm(a @ b)
    return float(((x.mean(0) - text.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * np.trace(root).real)


def by_singular_values(x: Array, text: Array) -> float:
    """Without a covariance: tr (AB)^(1/2) is the nuclear norm of the centred rows times each other."""
    x, text = prepared(x, text)
    u, v = ((z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (x, text))
    root = np.linalg.svd(u @ v.T, compute_uv=False).sum()
    return float(((x.mean(0) - text.mean(0)) ** 2).sum() + (u**2).sum() + (v**2).sum() - 2 * root)


def widened(n: int, d: int, width: float, seed: int = 0) -> torch.Tensor:
    """One direction far wider than the others: a bulk that is small beside it, but not rounding."""
    x = gaussian(n, d, seed)
    x[:, 3] *= width
    return x


CLOUDS = {
    "full rank": (gaussian(400, 30) + 1, gaussian(300, 30, 1) @ gaussian(30, 30, 2) / 3),
    "fewer tokens than d": (gaussian(40, 80) + 0.3, gaussian(25, 80, 1)),
    "one of low rank": (gaussian(300, 5) @ gaussian(5, 40, 2), 3 * gaussian(200, 40, 1)),
    "no direction in common": (
        torch.cat([gaussian(100, 10), torch.zeros(100, 10)], 1),
        torch.cat([torch.zeros(90, 10), gaussian(90, 10, 1)], 1),
    ),
    "condition 1e4": (conditioned(300, 30, 1e4), conditioned(300, 30, 1e4).flip(1)),
    "massive activations": (massive(400, 30), gaussian(400, 30, 1)),
    "one wide column": (widened(600, 30, 3e3), widened(500, 30, 3e3, 1)),
    "one very wide column": (widened(600, 30, 1e4), widened(500, 30, 1e4, 1)),
    "outliers in both": (massive(200, 30) * 2, massive(400, 30)),
}


@pytest.mark.filterwarnings("ignore:Matrix is singular")
@pytest.mark.parametrize("name", CLOUDS)
def test_exact_is_the_frechet_distance(name: str) -> None:
    x, text = CLOUDS[name]
    found = mir(x, text).value
    assert found == pytest.approx(by_singular_values(x.numpy(), text.numpy()), rel=1e-6)
    if name != "one very wide column":  # there scipy's root itself is off by 1.2e-6 of the distance
        assert found == pytest.approx(by_sqrtm(x.numpy(), text.numpy()), rel=1e-6)


def test_two_clouds_of_known_distance() -> None:
    # diagonal covariances: Σ (μ² + (σ_x − σ_t)²), in units of the mean norm of the text tokens
    sigma = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)  # of identity covariance
    x, text = corners * sigma + 1, corners
    expected = (3 + 8 / 7 * ((sigma - 1) ** 2).sum()) / 3  # 8 rows less one degree of freedom; a text norm is √3
    assert mir(x, text).value == pytest.approx(float(expected))


def test_equal_clouds_are_at_distance_zero() -> None:
    x = gaussian(100, 8) @ gaussian(8, 20, 1)
    assert mir(x, x).value == pytest.approx(0, abs=1e-12)


def test_a_constant_cloud_has_a_distance() -> None:
    text = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert mir(torch.ones(5, 2), text).value == pytest.approx(2 + 2)  # ‖(1, 1)‖² and the variance of the text
    assert mir(torch.ones(5, 2), text + 9 * text).value == pytest.approx((2 + 200) / 100)
    assert mir(torch.ones(5, 2), torch.ones(4, 2)).value == 0


def test_fast_compat_is_what_the_authors_iteration_returns() -> None:
    x, text = (z.numpy() for z in CLOUDS["full rank"])
    x, text = prepared(x, text)
    a, b = np.cov(x.T), np.cov(text.T)
    product = a @ b
    y, z = product, np.eye(len(product))
    for _ in range(5):  # their coupled iteration, in float64
        y = (y + np.linalg.inv(z) @ product) / 2
        z = (z + np.linalg.inv(y) @ product) / 2
    expected = ((x.mean(0) - text.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * np.trace(y)
    assert mir(*CLOUDS["full rank"], estimator="mir_fast_compat").value == pytest.approx(expected, rel=1e-8)
    assert mir(*CLOUDS["full rank"]).value != pytest.approx(expected, rel=0.1)


def test_outliers_become_the_median_row() -> None:
    x = gaussian(50, 3)
    x[7] = 1e4
    cleaned = without_outliers(x)
    assert torch.equal(cleaned[7], x.median(0).values) and torch.equal(cleaned[8], x[8])
    sphere = gaussian(500, 8)
    sphere = sphere / sphere.norm(dim=1, keepdim=True)  # the norms differ by rounding: none of them is unusual
    assert torch.equal(without_outliers(sphere), sphere)


def shell(n: int, d: int, seed: int) -> torch.Tensor:
    """Norms between 1 and 2: none is an outlier, whose replacement, the coordinate-wise median, does not rotate."""
    x = gaussian(n, d, seed)
    return x / x.norm(dim=1, keepdim=True) * torch.linspace(1, 2, n)[:, None]


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), exponent=st.integers(-10, 10))
def test_rotation_scale_and_order_change_nothing(seed: int, exponent: int) -> None:
    x, text = shell(60, 6, 0) * torch.tensor([3.0, 1, 1, 1, 1, 1]), shell(50, 6, 1)
    groups, text_groups = torch.arange(60) // 4, torch.arange(50) // 4
    turned = 2.0**exponent * torch.linalg.qr(gaussian(6, 6, seed))[0]
    order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
    for estimator in ("exact", "mir_fast_compat"):
        expected = mir(x, text, estimator, groups, text_groups)
        moved = mir(x[order] @ turned, text @ turned, estimator, groups[order], text_groups)
        assert moved.value == pytest.approx(expected.value, rel=1e-8)
        assert moved.stderr == pytest.approx(expected.stderr, rel=1e-6)


def test_the_jackknife_leaves_the_examples_of_a_fold_out_of_both_clouds_and_scales_anew() -> None:
    x, text, example, text_example = shell(60, 4, 0), shell(50, 4, 1) + 1, torch.arange(60) // 4, torch.arange(50) // 4
    fold, text_fold = example % 5, text_example % 5
    cloud = ArrayCloud(x, None, fold, example, 5, text=ArrayCloud(text, None, text_fold, text_example, 5))
    for estimator, _, estimate in METRICS.get("mir").scores(cloud):
        left = np.array([mir(x[fold != k], text[text_fold != k], estimator).value for k in range(5)])
        assert estimate.stderr == pytest.approx(np.sqrt(4 / 5 * ((left - left.mean()) ** 2).sum()), rel=1e-6)


def test_exact_is_symmetric_up_to_the_unit_of_length() -> None:
    x, text = gaussian(300, 5), 2 * gaussian(300, 5, 1) + 1
    unit = float(x.norm(dim=1).mean() / text.norm(dim=1).mean())
    assert mir(x, text).value == pytest.approx(mir(text, x).value * unit**2)
    a, b = torch.cov(x.T), torch.cov(text.T)
    assert trace_of_root(a, b) == pytest.approx(trace_of_root(b, a))


def test_the_rate_adds_the_boundaries_up_and_takes_the_logarithm() -> None:
    groups, text_groups = torch.arange(80) // 4, torch.arange(60) // 3
    states, text = [gaussian(80, 6, k) + k for k in range(3)], [gaussian(60, 6, 10 + k) for k in range(3)]
    for estimator in ("exact", "mir_fast_compat"):
        terms = [mir(x, t, estimator, groups, text_groups).value for x, t in zip(states, text, strict=True)]
        rate = modality_integration_rate(states, text, estimator, groups, text_groups)
        assert rate.value == pytest.approx(np.log10(sum(terms)))
        assert 0 < rate.stderr < 1


def test_the_standard_error_matches_the_spread_between_data_sets() -> None:
    runs = []
    groups = np.repeat(np.arange(60), 5)
    for seed in range(40):
        seeds = (9 * seed, 9 * seed + 4)
        x, text = (gaussian(300, 4, s) + 2 * gaussian(60, 4, s + 1).repeat_interleave(5, 0) for s in seeds)
        runs.append(mir(x + 2, text, groups=groups, text_groups=groups))
    assert 0.7 < np.mean([e.stderr for e in runs]) / np.std([e.value for e in runs]) < 1.4


def test_pairs_without_a_distance_are_errors_that_say_why() -> None:
    with pytest.raises(MetricError, match="zeros"):
        mir(gaussian(20, 3), torch.zeros(20, 3))
    with pytest.raises(MetricError, match="at least 2 tokens of each modality, got 20 and 1 text tokens"):
        mir(gaussian(20, 3), gaussian(1, 3))
    with pytest.raises(MetricError, match=r"boundary 2: 1 of 40 tokens hold NaN.*isfinite"):
        broken = gaussian(20, 3)
        broken[3] = torch.nan
        modality_integration_rate([gaussian(20, 3), broken], [gaussian(20, 3, 1)] * 2)
    with pytest.raises(ValueError, match="one array per boundary, got 2 and 1"):
        modality_integration_rate([gaussian(20, 3)] * 2, [gaussian(20, 3)])
    along_a_line = [torch.arange(-9.0, 10)[:, None]] * 2
    with pytest.raises(MetricError, match=r"the sum over the boundaries is -.* has no logarithm"):
        modality_integration_rate(along_a_line, along_a_line, "mir_fast_compat")
