"""Anisotropy against the reference package, theory, and all eigenvalues."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from microscope_bench.errors import MetricError
from microscope_bench.metrics import anisotropy
from microscope_bench.metrics.core.axes import FULL_SPECTRUM_UP_TO, top_axis
from tests.metrics.oracles import conditioned, gaussian, massive, next_states, reference


def test_equals_the_reference_package() -> None:
    try:
        expected = reference().calculate_anisotropy_torch
    except ModuleNotFoundError as missing:
        pytest.skip(str(missing))
    for x in (
        gaussian(500, 30),
        gaussian(40, 90),
        gaussian(500, 30) + 100,
        conditioned(500, 30, 1e6),
        massive(500, 30),
    ):
        assert anisotropy(x).value == pytest.approx(expected(x), abs=1e-12)


def test_an_isotropic_cloud_scores_what_random_matrix_theory_says() -> None:
    n, d = 4000, 100
    assert anisotropy(gaussian(n, d)).value == pytest.approx((1 + (d / n) ** 0.5) ** 2 / d, rel=0.03)


def test_a_line_scores_one() -> None:
    assert anisotropy(torch.arange(50.0)[:, None] * torch.tensor([1.0, -2.0, 0.5])).value == pytest.approx(1.0)


@pytest.mark.parametrize("cloud", ["isotropic", "gap", "low rank", "two equal"])
def test_the_largest_of_many_eigenvalues_is_found_without_the_others(
    cloud: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    d = FULL_SPECTRUM_UP_TO + 88
    x = gaussian(900, d)
    if cloud == "gap":
        x[:, 5] *= 40
    if cloud == "low rank":
        x = gaussian(900, 3) @ gaussian(3, d, 1)
    gram = x.T @ x
    if cloud == "two equal":
        gram = torch.diag(torch.cat([torch.tensor([7.0, 7.0]), torch.linspace(6.9, 0, d - 2)]).double())
    monkeypatch.setattr(torch.linalg, "eigh", None)
    value, axis = top_axis(gram)
    assert value == pytest.approx(float(torch.linalg.eigvalsh(gram)[-1]), rel=1e-12)
    assert float((gram @ axis - value * axis).norm()) < 1e-9 * value and float(axis.norm()) == pytest.approx(1)


def test_a_matrix_of_zeros_has_a_largest_eigenvalue() -> None:
    assert top_axis(torch.zeros(FULL_SPECTRUM_UP_TO + 1, FULL_SPECTRUM_UP_TO + 1, dtype=torch.float64))[0] == 0


def test_the_standard_error_matches_the_spread_between_data_sets() -> None:
    groups = np.repeat(np.arange(80), 5)
    runs = []
    for seed in range(60):
        x = gaussian(400, 10, seed) + 2 * gaussian(80, 1, 500 + seed).repeat_interleave(5, 0) * gaussian(1, 10, 9)
        runs.append(anisotropy(x, groups=groups))
    spread = np.std([e.value for e in runs])
    assert 0.7 < np.mean([e.stderr for e in runs]) / spread < 1.4


def test_clouds_without_a_score_say_why() -> None:
    broken = gaussian(20, 3)
    broken[4, 1] = torch.nan
    for x, reason in (
        (torch.full((20, 3), 0.1), "no variance"),
        (gaussian(1, 3), "at least 2 tokens, got 1"),
        (gaussian(0, 3), "at least 2 tokens, got 0"),
        (broken, "1 of 20 tokens hold NaN or infinity.*isfinite"),
    ):
        with pytest.raises(MetricError, match=reason):
            anisotropy(x)


def test_nan_at_the_next_boundary_does_not_spoil_this_one() -> None:
    from microscope_bench.metrics.core.cloud import ArrayCloud
    from microscope_bench.metrics.spectrum_metrics import anisotropy_scores

    x = gaussian(100, 4)
    y = next_states(x)
    y[5] = torch.inf
    example = torch.arange(100)
    ((_, _, estimate),) = anisotropy_scores(ArrayCloud(x, y, example % 10, example, 10))
    ((_, _, alone),) = anisotropy_scores(ArrayCloud(x, None, example % 10, example, 10))
    assert estimate == alone and estimate.value is not None
