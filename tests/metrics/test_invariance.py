"""What must not move a metric: rotation, scale, shift, the order of the tokens, the names of the examples' order."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from microscope_bench.metrics import Estimate, anisotropy, gride, intrinsic_dimension, linearity, pareto_distance
from microscope_bench.metrics.core.cloud import ArrayCloud
from microscope_bench.metrics.core.workspace import Workspace
from microscope_bench.metrics.linearity_metric import scores
from tests.metrics.oracles import gaussian, next_states

N, D = 150, 5
X = gaussian(N, D) * torch.tensor([5.0, 2.0, 1.0, 0.5, 0.1], dtype=torch.float64)
Y = next_states(X)
GROUPS = torch.arange(N) // 5
LINEARITY = [("hidden", e) for e in ("cross_fitted", "in_sample", "adjusted", "held_out", "identity")] + [
    ("update", e) for e in ("cross_fitted", "in_sample", "adjusted", "held_out")
]


def every_estimate(x: Tensor, y: Tensor, groups: Tensor) -> list[Estimate]:
    return [
        *(linearity(x, y, stream, estimator, groups) for stream, estimator in LINEARITY),
        anisotropy(x, groups),
        intrinsic_dimension(x, groups=groups),
        intrinsic_dimension(x, "twonn_regression20", groups=groups),
        intrinsic_dimension(x, "twonn_discard10", groups=groups),
        intrinsic_dimension(x, "twonn_discard10", groups=groups, neighbours="any"),
        *(gride(x, k, groups) for k in (1, 2, 3)),
        pareto_distance(x, groups),
    ]


EXPECTED = every_estimate(X, Y, GROUPS)


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 10_000),
    exponent=st.integers(-12, 12),
    shift=st.floats(-1e3, 1e3),
)
def test_rotation_scale_shift_and_order_change_nothing(seed: int, exponent: int, shift: float) -> None:
    rotation = torch.linalg.qr(gaussian(D, D, seed))[0]
    scale = 2.0**exponent
    order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
    x, y = (scale * (z @ rotation + shift * gaussian(1, D, seed + i)) for i, z in enumerate((X, Y)))
    for found, expected in zip(every_estimate(x[order], y[order], GROUPS[order]), EXPECTED, strict=True):
        assert found.value == pytest.approx(expected.value, rel=1e-6, abs=1e-8)
        assert found.stderr == pytest.approx(expected.stderr, rel=1e-5, abs=1e-8)
        assert (found.flags, found.n_tokens, found.n_examples) == (expected.flags, N, N // 5)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_fitted_linearity_ignores_any_invertible_change_of_x_in_the_hidden_stream(seed: int) -> None:
    mix = torch.eye(D, dtype=torch.float64) + 0.3 * gaussian(D, D, seed)
    for (stream, estimator), expected in zip(LINEARITY, EXPECTED, strict=False):
        if stream == "hidden" and estimator != "identity":
            found = linearity(X @ mix, Y, stream, estimator, GROUPS)
            assert found.value == pytest.approx(expected.value, abs=1e-8)


@settings(deadline=None, max_examples=10)
@given(size=st.integers(1, N))
def test_the_size_of_the_chunks_changes_nothing(size: int) -> None:
    def cloud() -> ArrayCloud:
        return ArrayCloud(X, Y, GROUPS % 10, GROUPS, 10)

    small = cloud()
    small.workspace = Workspace(rows_per_chunk=size)
    for (name, stream, found), (_, _, expected) in zip(scores(small), scores(cloud()), strict=True):
        assert found.value == pytest.approx(expected.value, abs=1e-11), (name, stream)
        assert found.stderr == pytest.approx(expected.stderr, abs=1e-11)
