"""What is handed to the public functions by mistake: an error that says so, never a wrong number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from microscope_bench import metrics
from microscope_bench.errors import MetricError, UnknownNameError
from microscope_bench.metrics.core import frechet
from microscope_bench.metrics.core.arrays import matrix
from microscope_bench.metrics.core.jackknife import OUT_OF_RANGE, jackknifed
from microscope_bench.metrics.linearity_metric import ESTIMATORS
from tests.metrics.oracles import gaussian, next_states

X, TEXT = gaussian(80, 6), gaussian(60, 6, 1)
Y = next_states(X)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_numpy_arrays_keep_the_tolerance_of_their_dtype(dtype: type) -> None:
    """The same token in two batches differs in its last bits."""
    x = X.numpy().astype(dtype)
    x = np.concatenate([x, np.nextafter(x[:20], dtype(np.inf))])
    assert matrix("x", x).dtype == torch.from_numpy(x).dtype
    assert metrics.intrinsic_dimension(x) == metrics.intrinsic_dimension(torch.from_numpy(x))
    assert metrics.intrinsic_dimension(x.astype(">f4")) == metrics.intrinsic_dimension(x.astype(np.float32))


@pytest.mark.parametrize("given", [np.int16, np.uint64, np.longdouble, np.dtype(">f8")])
def test_other_numpy_dtypes_become_float64(given: Any) -> None:
    assert matrix("x", np.ones((2, 2), given)).dtype == torch.float64


def test_tensors_that_torch_cannot_compute_with_are_converted() -> None:
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.int8):
        x = (8 * X.abs()).to(dtype)
        expected = x.float() if dtype.is_floating_point else x.double()
        assert metrics.gride(x, 2) == metrics.gride(expected, 2)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X.to_sparse(), "x must be a dense tensor"),
        (np.ma.masked_greater(X.numpy(), 1), "x has masked entries"),
    ],
)
def test_what_is_no_dense_cloud_is_refused(x: Any, message: str) -> None:
    for function in (metrics.anisotropy, metrics.gride):
        with pytest.raises(ValueError, match=message):
            function(x)


def test_a_masked_array_without_masked_entries_is_an_array() -> None:
    assert metrics.anisotropy(np.ma.masked_array(X.numpy())) == metrics.anisotropy(X)


MISSING = [None] * 80
MIXED = np.array([0, "a"] * 40, dtype=object)


@pytest.mark.parametrize("groups", [MISSING, MIXED, [*range(79), None], [*range(79), float("nan")], [1j] * 80])
def test_groups_that_name_no_examples_are_refused(groups: Any) -> None:
    with pytest.raises(ValueError, match=r"integers or strings.*groups=None makes each token its own"):
        metrics.anisotropy(X, groups=groups)
    with pytest.raises(ValueError, match="integers or strings"):
        metrics.modality_gap(X, TEXT, groups=groups, text_groups=groups[:60])


@pytest.mark.parametrize("kind", [str, int])
def test_groups_may_be_objects_of_one_kind(kind: type) -> None:
    names = [kind(i // 4) for i in range(80)]
    assert metrics.anisotropy(X, groups=np.array(names, dtype=object)) == metrics.anisotropy(X, groups=names)


def test_the_rate_takes_stacked_boundaries_and_refuses_those_that_differ() -> None:
    states, text = torch.stack([X, Y]), torch.stack([TEXT, TEXT + 1])
    expected = metrics.modality_integration_rate(list(states), list(text))
    assert metrics.modality_integration_rate(states, text) == expected
    assert metrics.modality_integration_rate(states.numpy(), text.numpy()) == expected
    for other, other_text in ((X[:70], TEXT), (X, TEXT[:50]), (X[:, :5], TEXT[:, :5])):
        with pytest.raises(ValueError, match=r"same tokens.*\(80, 6\) and \(60, 6\)"):
            metrics.modality_integration_rate([X, other], [TEXT, other_text])
    with pytest.raises(ValueError, match="one array per boundary, got 0 and 0"):
        metrics.modality_integration_rate(states[:0], text[:0])


@pytest.mark.parametrize("number", [2.5, 20.0, "2", np.float64(3)])
def test_numbers_that_are_not_whole_are_refused(number: Any) -> None:
    with pytest.raises(ValueError, match="k must be a whole number, got"):
        metrics.gride(X, number)
    with pytest.raises(ValueError, match="n must be a whole number, got"):
        metrics.intrinsic_dimension(X, n=number)


def test_whole_numbers_of_numpy_give_the_values_of_python() -> None:
    estimate = metrics.gride(X, np.int64(3))
    assert estimate == metrics.gride(X, 3) and type(estimate.value) is float
    with pytest.raises(ValueError, match="got None"):
        metrics.gride(X, None)


def test_no_name_is_an_unknown_name() -> None:
    for ask in (
        lambda: metrics.linearity(X, Y, stream=None),
        lambda: metrics.linearity(X, Y, estimator=None),
        lambda: metrics.cka(X, Y, 3),
        lambda: metrics.mir(X, TEXT, None),
    ):
        with pytest.raises(UnknownNameError, match=r"Known: |Did you mean"):
            ask()


FUNCTIONS: dict[str, Callable[..., metrics.Estimate]] = {
    **{
        f"{estimator} {stream}": lambda x, y, t, e=estimator, s=stream: metrics.linearity(x, y, s, e)
        for estimator in ESTIMATORS
        for stream in ("hidden", "update")
        if (estimator, stream) != ("identity", "update")
    },
    **{
        name: lambda x, y, t, name=name: getattr(metrics, name)(x)
        for name in ("anisotropy", "participation_ratio", "effective_rank", "isoscore", "gride", "pareto_distance")
    },
    **{
        estimator: lambda x, y, t, e=estimator: metrics.intrinsic_dimension(x, e)
        for estimator in ("twonn_mle", "twonn_regression20", "twonn_discard10")
    },
    **{f"cka {e}": lambda x, y, t, e=e: metrics.cka(x, y, e) for e in ("linear", "debiased")},
    **{f"gap {e}": lambda x, y, t, e=e: metrics.modality_gap(x, t, e) for e in ("unit", "scaled")},
    **{f"cosine {e}": lambda x, y, t, e=e: metrics.cosine_alignment(x, t, e) for e in ("all_pairs", "mean_vectors")},
    "subspace overlap": lambda x, y, t: metrics.subspace_overlap(x, t, 1),
    **{f"mir {e}": lambda x, y, t, e=e: metrics.mir(x, t, e) for e in ("exact", "mir_fast_compat")},
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_the_scale_of_all_states_changes_nothing_up_to_where_it_is_refused(function: Callable[..., Any]) -> None:
    expected = function(X, Y, TEXT)
    for scale in (1e-58, 1e-40, 1e36, 1e58):
        found = function(X * scale, Y * scale, TEXT * scale)
        assert (found.value, found.stderr) == pytest.approx((expected.value, expected.stderr), rel=1e-6, abs=1e-12)
    for scale in (1e-300, 1e-80, 1e80, 1e300):
        with pytest.raises(MetricError, match="outside 1e-60 to 1e60"):
            function(X * scale, Y * scale, TEXT * scale)
    for extreme in (1e61, 1e100, 1e200):
        with pytest.raises(MetricError, match=r"of .* tokens hold NaN or infinity, or are outside.*scale"):
            function(*(torch.where(torch.arange(6) == 2, extreme, z) for z in (X, Y, TEXT)))


def test_scales_within_one_cloud_give_a_value_or_the_reason_why_not() -> None:
    """Within the bounds, yet a map fitted on the one part is beyond float64 on the other."""
    scale = torch.tensor([1e59] * 8 + [1e-59] * 72, dtype=torch.float64)[:, None]
    y = torch.tensor([1.0] * 8 + [1e59] * 72, dtype=torch.float64)[:, None] * Y
    groups = torch.arange(80) // 8
    for estimator in ("cross_fitted", "held_out", "held_out_permuted", "in_sample"):
        try:
            assert np.isfinite(metrics.linearity(X * scale, y, "hidden", estimator, groups).value)
        except MetricError as error:
            assert OUT_OF_RANGE in str(error)
    with pytest.raises(MetricError, match="leaves the range of float64"):
        metrics.linearity(X * scale, y, "hidden", "held_out", groups)


def test_arithmetic_that_fails_is_a_reason_and_takes_the_standard_error_of_a_fold_away() -> None:
    def divide(_: int | None) -> float:
        return 1 / 0

    def decompose(_: int | None) -> float:
        return float(torch.linalg.cholesky(-torch.eye(2)).sum())

    for outcome in (divide, decompose, lambda _: float("nan"), lambda _: 1e200**2.0):
        estimate = jackknifed(outcome, [0, 1], 9, 3, ("rank=1/2",))
        assert (estimate.value, estimate.reason, estimate.flags) == (None, OUT_OF_RANGE, ("rank=1/2",))
        of_folds = jackknifed(lambda k, f=outcome: 1.0 if k is None else f(k), [0, 1], 9, 3)
        assert (of_folds.value, of_folds.stderr, of_folds.flags) == (1.0, None, ("no_stderr",))
    far_apart = jackknifed(lambda k: 1e200 * (k or 0), [0, 1], 9, 3)
    assert (far_apart.value, far_apart.stderr, far_apart.flags) == (0.0, None, ("no_stderr",))


def test_metrics_that_compute_ahead_of_the_jackknife_give_the_reason_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(frechet.ESTIMATORS, "exact", lambda a, b: 1 / 0)
    monkeypatch.setattr("microscope_bench.metrics.core.linear_folds.LinearFit", lambda moments: 1 / 0)
    for ask in (lambda: metrics.mir(X, TEXT), lambda: metrics.linearity(X, Y)):
        with pytest.raises(MetricError, match=OUT_OF_RANGE):
            ask()
