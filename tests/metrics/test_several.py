"""Several metrics at once against each metric's own function."""

from __future__ import annotations

import numpy as np
import pytest

from microscope_bench import metrics
from microscope_bench.errors import MetricError, UnknownNameError
from tests.metrics.oracles import gaussian, next_states

X, GROUPS = gaussian(300, 12), np.arange(300) // 6
Y = next_states(X)


def test_equals_each_function() -> None:
    found = metrics.estimates(X, Y, groups=GROUPS)
    for estimator in ("cross_fitted", "held_out"):
        assert found["linearity", estimator, "update"] == metrics.linearity(X, Y, "update", estimator, GROUPS)
    assert found["anisotropy", "top_share", None] == metrics.anisotropy(X, GROUPS)
    for name in ("twonn_mle", "twonn_regression20", "twonn_discard10"):
        assert found["intrinsic_dimension", name, None] == metrics.intrinsic_dimension(X, name, groups=GROUPS)


def test_one_fold_gives_the_values_without_errors() -> None:
    one, ten = (metrics.estimates(X, Y, groups=GROUPS, n_folds=n) for n in (1, 10))
    assert one.keys() == ten.keys()
    for key, estimate in one.items():
        if key[1].startswith(("held_out", "cross_fitted", "leading")):
            assert estimate.value is None and estimate.reason
        else:
            assert estimate.value == pytest.approx(ten[key].value, rel=1e-12) and estimate.stderr is None


def test_what_is_missing_is_said() -> None:
    with pytest.raises(MetricError, match=r"linearity .* needs y"):
        metrics.estimates(X)
    with pytest.raises(MetricError, match=r"mir .* text"):
        metrics.estimates(X, Y, "mir")
    with pytest.raises(UnknownNameError):
        metrics.estimates(X, Y, "linearty")
    with pytest.raises(ValueError, match="one shape"):
        metrics.estimates(X, Y[:5])
    with pytest.raises(ValueError, match="n_folds must be at least 1"):
        metrics.estimates(X, Y, n_folds=0)
    assert metrics.estimates(X, metrics="anisotropy").keys() == {("anisotropy", "top_share", None)}
