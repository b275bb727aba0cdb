"""Intrinsic dimension against the reference package, scikit-dimension, and clouds of known dimension."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from microscope_bench.errors import MetricError, UnknownNameError
from microscope_bench.metrics import intrinsic_dimension
from tests.metrics.oracles import embedded, gaussian, massive, reference

ESTIMATORS = ["twonn_mle", "twonn_regression20", "twonn_discard10"]


def with_copies(x: Tensor, share: float) -> Tensor:
    copies = int(share * len(x))
    return torch.cat([x[copies:], x[:copies], x[:copies]])[: len(x) + copies]


@pytest.mark.parametrize(
    "cloud", ["plain", "copies", "near copies", "lattice", "near lattice", "float32", "bfloat16", "massive", "far away"]
)
def test_regression20_with_copies_kept_equals_the_reference_package(cloud: str) -> None:
    try:
        expected = reference().intrinsic_dimension
    except ModuleNotFoundError as missing:
        pytest.skip(str(missing))
    x = embedded(400, 5, 12)
    x = {
        "plain": x,
        "copies": with_copies(x, 0.25),
        "near copies": torch.cat([x, x[:100] + 1e-10 * gaussian(100, 12, 1)]),  # nearer than the package looks
        "lattice": (2 * gaussian(400, 4)).round(),  # equal distances, so μ = 1, and copies
        "near lattice": (2 * gaussian(400, 4)).round() + 1e-11 * gaussian(400, 4, 1),  # μ = 1 but for rounding
        "float32": x.float(),
        "bfloat16": x.bfloat16(),
        "massive": massive(400, 12),
        "far away": x + 300,
    }[cloud]
    estimate = intrinsic_dimension(x, "twonn_regression20", deduplicate=False)
    assert estimate.value == pytest.approx(expected(x, "cpu"), abs=1e-9)


# Wider than 25, scikit-dimension takes distances from a product: it puts copies at 1e-8 instead of 0.
# Of 504 tokens nine tenths are 453.6: the lowest 453.
@pytest.mark.parametrize(("n", "d", "copies"), [(500, 8, 0.0), (500, 8, 0.1), (500, 40, 0.0), (504, 8, 0.0)])
def test_discard10_equals_scikit_dimension(n: int, d: int, copies: float) -> None:
    skdim_id = pytest.importorskip("skdim.id", reason="scikit-dimension is not installed")
    x = with_copies(embedded(n, 6, d), copies)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = skdim_id.TwoNN().fit(x.numpy()).dimension_
        mle = skdim_id.TwoNN(method="mle", discard_fraction=0.0).fit(x.numpy()).dimension_
    assert intrinsic_dimension(x, "twonn_discard10", deduplicate=False).value == pytest.approx(expected, abs=1e-6)
    assert intrinsic_dimension(x, "twonn_mle", deduplicate=False).value == pytest.approx(mle, abs=1e-6)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_a_gaussian_of_k_dimensions_reads_as_k(k: int) -> None:
    for estimator, tolerance in zip(ESTIMATORS, (0.08, 0.15, 0.08), strict=True):
        assert intrinsic_dimension(embedded(2000, k, 24), estimator).value == pytest.approx(k, rel=tolerance)


def test_copies_are_dropped_and_reported_and_change_nothing() -> None:
    x = embedded(600, 4, 10)
    for estimator in ESTIMATORS:
        clean = intrinsic_dimension(x, estimator)
        copied = intrinsic_dimension(torch.cat([x, x[:150], -0.0 * x[:50] + x[:50]]), estimator)
        assert clean.flags == ()
        assert copied.flags == ("duplicates=0.2500",)
        assert copied.value == pytest.approx(clean.value)
        assert copied.n_tokens == 600


def test_copies_that_are_kept_are_flagged() -> None:
    estimate = intrinsic_dimension(with_copies(embedded(400, 4, 10), 0.25), deduplicate=False)
    assert estimate.flags == ("zero_distance=0.4000", "pareto_rejected")


def test_the_standard_error_is_of_the_size_of_the_spread_between_data_sets() -> None:
    groups = np.repeat(np.arange(60), 5)
    runs = [intrinsic_dimension(embedded(300, 5, 8, seed), groups=groups) for seed in range(60)]
    spread = np.std([e.value for e in runs])
    assert 0.8 < np.mean([e.stderr for e in runs]) / spread < 1.5
    assert runs[0].n_examples == 60


def test_clouds_without_a_value_say_why() -> None:
    square = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    broken = gaussian(30, 3)
    broken[[4, 9], 1] = torch.inf
    for x, estimator, deduplicate, reason in (
        (torch.ones(50, 4), "twonn_mle", True, "at least 3 tokens, got 1.*more distinct tokens"),
        (torch.ones(50, 4), "twonn_mle", False, "same"),
        (gaussian(0, 4), "twonn_mle", True, "at least 3 tokens, got 0"),
        (gaussian(4, 3), "twonn_regression20", True, "too few of the 4 tokens"),
        (gaussian(9, 3), "twonn_regression20", True, "too few of the 9 tokens"),
        (square, "twonn_mle", True, "different distances"),
        (broken, "twonn_mle", True, "2 of 30 tokens hold NaN or infinity.*isfinite"),
    ):
        with pytest.raises(MetricError, match=reason):
            intrinsic_dimension(x, estimator, deduplicate)


def test_unknown_estimators_are_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="twonn_mle"):
        intrinsic_dimension(gaussian(30, 3), "two_nn_mle")


@pytest.mark.parametrize("estimator", ["twonn_mle", "twonn_regression20", "twonn_discard10"])
def test_copies_that_differ_by_rounding_change_nothing(estimator: str) -> None:
    x = gaussian(1500, 8).float()
    again = x[:300] * (1 + 2e-7 * torch.sign(gaussian(300, 8, 1))).float()
    groups = np.arange(1500) // 5
    clean = intrinsic_dimension(x, estimator, groups=groups)
    doubled = intrinsic_dimension(torch.cat([x, again]), estimator, groups=np.concatenate([groups, groups[:300]]))
    assert (doubled.value, doubled.stderr) == pytest.approx((clean.value, clean.stderr), rel=1e-6)
    assert doubled.n_tokens == 1500
    assert doubled.flags == (f"duplicates={300 / 1800:.4f}", *clean.flags)
    assert intrinsic_dimension(torch.cat([x, again]), estimator, False, groups=None).n_tokens == 1800


def test_a_token_with_copies_in_two_folds_stays_whichever_fold_leaves() -> None:
    """Else the standard error would depend on which of the copies happens to come first."""
    words = gaussian(60, 6).float()
    index = torch.from_numpy(np.random.default_rng(0).integers(0, 60, 2000))
    groups = np.arange(2000) // 10
    runs = []
    for seed in range(3):
        order = torch.from_numpy(np.random.default_rng(seed).permutation(2000))
        runs.append(intrinsic_dimension(words[index[order]], groups=groups[order.numpy()]))
    assert len({(round(run.value, 9), round(run.stderr, 9), run.n_examples) for run in runs}) == 1
    assert runs[0].n_examples == 200
