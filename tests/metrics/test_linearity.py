"""Linearity against the reference package, an independent SVD, scikit-learn, and what theory says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from torch import Tensor

from microscope_bench.errors import UnknownNameError
from microscope_bench.metrics import linearity
from microscope_bench.metrics.linear_solve import RANK_CUTOFF
from microscope_bench.metrics.resampling import assign_folds
from tests.metrics.oracles import conditioned, gaussian, hard_clouds, massive, next_states, reference, svd_linearity

STREAMS = ["hidden", "update"]


def value(*args: object, **kwargs: object) -> float:
    estimate = linearity(*args, **kwargs)  # type: ignore[arg-type]
    assert estimate.value is not None, estimate.reason
    return estimate.value


@pytest.mark.parametrize("stream", STREAMS)
def test_in_sample_equals_the_reference_package(stream: str) -> None:
    try:
        procrustes_similarity: Callable[[Tensor, Tensor], float] = reference().procrustes_similarity
    except ModuleNotFoundError as missing:
        pytest.skip(str(missing))
    for x in (gaussian(800, 40), gaussian(800, 40) + 30, conditioned(800, 40, 1e3)):
        y = next_states(x)
        expected = procrustes_similarity(x, y if stream == "hidden" else y - x)
        assert value(x, y, stream=stream) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("name", hard_clouds())
def test_in_sample_equals_a_truncated_svd_on_hard_clouds(name: str, stream: str) -> None:
    x, y = hard_clouds()[name]
    expected, rank = svd_linearity(x, y, stream)
    estimate = linearity(x, y, stream=stream)
    assert estimate.value == pytest.approx(expected, abs=1e-6)
    flag = f"rank={rank}/{x.shape[1]}"
    assert (flag in estimate.flags) == (rank < x.shape[1])


def test_both_ways_to_solve_agree_where_both_are_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    from microscope_bench.metrics import linear_solve

    x = conditioned(700, 40, 1e4)
    y = next_states(x)
    by_cholesky = value(x, y, stream="update")
    failed = torch.tensor(1)
    monkeypatch.setattr(linear_solve.torch.linalg, "cholesky_ex", lambda gram: (torch.eye(len(gram)).to(gram), failed))
    assert value(x, y, stream="update") == pytest.approx(by_cholesky, abs=1e-10)


def test_directions_are_kept_up_to_condition_1e6_and_float32_noise_is_not() -> None:
    assert linearity(conditioned(600, 50, 1e6), gaussian(600, 50)).flags == ()
    low_rank = gaussian(600, 10, 1) @ gaussian(10, 50, 2)
    offset = 30 * low_rank.std(0)
    for x in (low_rank.float(), (low_rank + offset).float()):
        assert linearity(x, gaussian(600, 50)).flags == ("rank=10/50",)
    assert 1.6e-13 < RANK_CUTOFF < 1e-12


def test_an_exactly_linear_map_scores_one() -> None:
    x = gaussian(500, 20)
    y = x @ gaussian(20, 20, 1) + 5
    for stream in STREAMS:
        for estimator in ("in_sample", "adjusted", "held_out"):
            assert value(x, y, stream, estimator) == pytest.approx(1.0, abs=1e-12)


def test_adjusted_pays_for_the_rank_and_not_for_the_width() -> None:
    n, rank = 200, 7
    x = gaussian(n, rank) @ gaussian(rank, 12, 1)
    for stream in STREAMS:
        in_sample, adjusted = value(x, gaussian(n, 12, 2), stream), value(x, gaussian(n, 12, 2), stream, "adjusted")
        assert adjusted == pytest.approx(1 - (1 - in_sample) * (n - 1) / (n - rank - 1), abs=1e-12)


def test_independent_clouds_score_the_null_value() -> None:
    n, d = 3000, 100
    x, y = gaussian(n, d, 0), gaussian(n, d, 1)
    assert value(x, y) == pytest.approx(d / (n - 1), abs=5e-3)
    assert value(x, y, estimator="adjusted") == pytest.approx(0.0, abs=5e-3)
    assert -2.5 * d / n < value(x, y, estimator="held_out") < 0


@pytest.mark.parametrize("stream", STREAMS)
def test_held_out_equals_scikit_learn_fold_by_fold(stream: str) -> None:
    n, d = 900, 30
    x = gaussian(n, d)
    x[:, 4] = x[:, 5] * 2  # rank-deficient: the minimum-norm map decides what leaves the span
    x[:, 9] = 0.0
    groups = [f"example-{i // 9}" for i in range(n)]
    fold = assign_folds(groups, 10, 0)
    x[torch.from_numpy(fold == 3), 9] = gaussian(int((fold == 3).sum()), 1, 8)[:, 0]  # varies in one fold alone
    y = next_states(x)
    target = y if stream == "hidden" else y - x
    rss = tss = 0.0
    for k in range(10):
        train, test = fold != k, fold == k
        scale = x[train].std(0).numpy()
        scale[scale == 0] = np.inf
        model = LinearRegression().fit(x[train].numpy() / scale, target[train].numpy())
        rss += np.square(target[test].numpy() - model.predict(x[test].numpy() / scale)).sum()
        tss += np.square(target[test].numpy() - target[train].numpy().mean(0)).sum()
    assert value(x, y, stream, "held_out", groups=groups) == pytest.approx(1 - rss / tss, abs=1e-9)


def test_tokens_of_one_example_never_stand_on_both_sides() -> None:
    # Every example has its own map, so nothing carries over to new examples, but much does to new tokens of old ones.
    n_examples, d = 40, 10
    x = gaussian(n_examples * 50, d) + gaussian(n_examples, d, 1).repeat_interleave(50, 0) * 5
    y = torch.cat([rows.norm(dim=1, keepdim=True) * gaussian(1, d, 50 + i) for i, rows in enumerate(x.split(50))])
    groups = torch.arange(n_examples).repeat_interleave(50)
    assert value(x, y, estimator="held_out", groups=groups) < value(x, y, estimator="held_out") - 0.1


def test_identity_is_what_no_map_scores() -> None:
    x = gaussian(400, 10)
    y = next_states(x)
    xc, yc = x - x.mean(0), y - y.mean(0)
    expected = 1 - float((yc - xc).square().sum() / yc.square().sum())
    assert value(x, y, estimator="identity") == pytest.approx(expected, abs=1e-12)
    assert value(x, x, estimator="identity") == 1.0
    with pytest.raises(ValueError, match="identity"):
        linearity(x, y, stream="update", estimator="identity")


def test_as_many_dimensions_as_tokens_saturate() -> None:
    x, y = gaussian(30, 40), gaussian(30, 40, 1)
    estimate = linearity(x, y)
    assert estimate.value == 1.0 and estimate.stderr is None
    assert set(estimate.flags) == {"rank=29/40", "saturated", "no_stderr"}
    assert "29" in str(linearity(x, y, estimator="adjusted").reason)
    assert "d = 40" in str(linearity(x, y, estimator="held_out").reason)


def test_a_fold_that_saturates_takes_the_standard_error_away() -> None:
    estimate = linearity(gaussian(42, 38), gaussian(42, 38, 1))
    assert estimate.value is not None and estimate.value < 1
    assert estimate.stderr is None and "no_stderr" in estimate.flags


def test_targets_without_variance_have_no_score() -> None:
    x = gaussian(100, 5) * 1e3 + 0.1
    assert "no variance" in str(linearity(x, torch.full_like(x, 1 / 3)).reason)
    for y in (x, x + 1.0):  # the second is constant up to the rounding of x
        for estimator in ("in_sample", "adjusted", "held_out"):
            assert "no variance" in str(linearity(x, y, "update", estimator).reason)
        assert value(x, y) == pytest.approx(1.0)


def test_constant_states_predict_nothing() -> None:
    estimate = linearity(torch.full((100, 5), 0.1), gaussian(100, 5))
    assert estimate.value == 0.0 and estimate.flags == ("rank=0/5",)


def test_an_update_that_erases_a_massive_activation_keeps_its_digits() -> None:
    x = massive(500, 30)
    y = gaussian(500, 30, 2)
    for stream in STREAMS:
        assert value(x, y, stream) == pytest.approx(svd_linearity(x, y, stream)[0], abs=1e-9)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_rows_that_are_not_finite_are_counted_and_leave_no_value(bad: float) -> None:
    x, y = gaussian(200, 5), gaussian(200, 5, 1)
    x[3, 0], y[3, 1], y[7, 2] = bad, bad, bad
    for estimator in ("in_sample", "adjusted", "held_out", "identity"):
        estimate = linearity(x, y, estimator=estimator)
        assert (estimate.value, estimate.stderr, estimate.flags) == (None, None, ("non_finite",))
        assert estimate.reason == "2 of 200 tokens hold NaN or infinity"


def test_jackknife_standard_error_matches_the_spread_between_data_sets() -> None:
    groups = np.repeat(np.arange(60), 10)
    a = gaussian(8, 8, 99)
    runs = []
    for seed in range(40):
        effect = gaussian(60, 8, 1000 + seed).repeat_interleave(10, 0)
        x = gaussian(600, 8, seed) + effect
        y = x @ a + 4 * gaussian(600, 8, 500 + seed) + 4 * torch.sin(3 * effect)
        runs.append([linearity(x, y, estimator=e, groups=groups) for e in ("in_sample", "held_out")])
    for estimates in zip(*runs, strict=True):
        spread = np.std([e.value for e in estimates])
        assert 0.6 < np.mean([e.stderr for e in estimates]) / spread < 1.6


def test_held_out_standard_error_counts_the_maps_that_change_with_the_examples() -> None:
    """Fewer examples than dimensions: errors of the left-out folds alone would give about half of the spread."""
    groups = np.repeat(np.arange(30), 32)
    a = gaussian(48, 48, 99) / 14
    estimates = []
    for seed in range(30):
        image, effect = (gaussian(30, 48, k + seed).repeat_interleave(32, 0) for k in (1000, 2000))
        x = image + gaussian(960, 48, seed)
        update = x @ a + 0.25 * effect + 0.5 * gaussian(960, 48, 500 + seed)
        estimates.append(linearity(x, x + update, "update", "held_out", groups))
    spread = np.std([e.value for e in estimates], ddof=1)
    assert 0.75 < np.sqrt(np.mean([e.stderr**2 for e in estimates])) / spread < 1.5


def test_one_example_has_no_standard_error() -> None:
    x, y = gaussian(50, 3), gaussian(50, 3, 1)
    estimate = linearity(x, y, groups=["only"] * 50)
    assert estimate.value is not None and estimate.stderr is None and estimate.flags == ("no_stderr",)
    assert estimate.n_examples == 1
    assert "2 examples" in str(linearity(x, y, estimator="held_out", groups=["only"] * 50).reason)
    assert "at least 2 tokens" in str(linearity(x[:1], y[:1]).reason)
    assert "at least 2 tokens" in str(linearity(x[:0], y[:0]).reason)


def test_arrays_of_any_kind_give_the_same_number() -> None:
    x, y = gaussian(300, 6), gaussian(300, 6, 1)
    x, y = x.bfloat16(), (x + 0.3 * y).bfloat16()
    expected = linearity(x.double(), y.double(), groups=[str(i // 3) for i in range(300)])
    assert linearity(x, y, groups=torch.arange(300) // 3) == expected
    readonly = x.double().numpy()
    readonly.flags.writeable = False
    assert linearity(readonly, y.float().numpy()[::-1][::-1], groups=np.arange(300) // 3) == expected
    assert linearity(x.double().requires_grad_(), y, groups=np.arange(300) // 3) == expected


def test_bad_arguments_are_named() -> None:
    x = gaussian(20, 3)
    with pytest.raises(UnknownNameError, match="held_out"):
        linearity(x, x, estimator="heldout")
    with pytest.raises(UnknownNameError, match="hidden"):
        linearity(x, x, stream="hiden")
    with pytest.raises(ValueError, match=r"one shape.*\(20, 3\).*\(20, 2\)"):
        linearity(x, x[:, :2])
    with pytest.raises(ValueError, match=r"shape \(N tokens, d\)"):
        linearity(x[0], x[0])
    with pytest.raises(ValueError, match=r"groups.*\(20,\).*\(19,\)"):
        linearity(x, x, groups=list(range(19)))
    with pytest.raises(ValueError, match="real numbers"):
        linearity(x.to(torch.complex64), x)
    with pytest.raises(ValueError, match="real numbers"):
        linearity(np.array([["a"]]), x)
