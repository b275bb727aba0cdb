"""Linearity against the reference package, an independent SVD, scikit-learn, and what theory says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression
from torch import Tensor

from microscope_bench.errors import MetricError, UnknownNameError
from microscope_bench.metrics import Estimate, linearity
from microscope_bench.metrics.core.arrays import Groups, cloud_of
from microscope_bench.metrics.core.axes import RANK_CUTOFF
from microscope_bench.metrics.core.cloud_rows import Chunk
from microscope_bench.metrics.core.fold_moments import accumulate
from microscope_bench.metrics.core.folds import assign_folds
from microscope_bench.metrics.core.jackknife import interval
from microscope_bench.metrics.core.left_out import LeftOut
from microscope_bench.metrics.core.linear_solve import LinearFit
from microscope_bench.metrics.linearity_metric import ESTIMATORS, Linearity, scores
from tests.metrics.oracles import conditioned, gaussian, hard_clouds, massive, next_states, reference, svd_linearity

STREAMS = ["hidden", "update"]


def value(
    x: Tensor, y: Tensor, stream: str = "hidden", estimator: str = "in_sample", groups: Groups | None = None
) -> float:
    estimate = linearity(x, y, stream, estimator, groups)
    assert estimate.value is not None, estimate.reason
    return estimate.value


def row(x: Tensor, y: Tensor, stream: str = "hidden", estimator: str = "in_sample", groups: object = None) -> Estimate:
    """The estimate as a result holds it: where :func:`linearity` raises, a null with its reason."""
    return Linearity(cloud_of(x, y, groups)).estimate(estimator, stream)  # type: ignore[arg-type]


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
    estimate = linearity(x, y, stream, "in_sample")
    assert estimate.value == pytest.approx(expected, abs=1e-6)
    flag = f"rank={rank}/{x.shape[1]}"
    assert (flag in estimate.flags) == (rank < x.shape[1])


def test_both_ways_to_solve_agree_where_both_are_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    from microscope_bench.metrics.core import linear_solve

    x = conditioned(700, 40, 1e4)
    y = next_states(x)
    by_cholesky = value(x, y, stream="update")
    failed = torch.tensor(1)
    monkeypatch.setattr(linear_solve.torch.linalg, "cholesky_ex", lambda gram: (torch.eye(len(gram)).to(gram), failed))
    assert value(x, y, stream="update") == pytest.approx(by_cholesky, abs=1e-10)


def test_directions_are_kept_up_to_condition_1e6_and_float32_noise_is_not() -> None:
    assert linearity(conditioned(600, 50, 1e6), gaussian(600, 50), "hidden", "in_sample").flags == ()
    low_rank = gaussian(600, 10, 1) @ gaussian(10, 50, 2)
    offset = 30 * low_rank.std(0)
    for x in (low_rank.float(), (low_rank + offset).float()):
        assert linearity(x, gaussian(600, 50), "hidden", "in_sample").flags == ("rank=10/50",)
    assert 1.6e-13 < RANK_CUTOFF < 1e-12


def test_an_exactly_linear_map_scores_one() -> None:
    x = gaussian(500, 20)
    y = x @ gaussian(20, 20, 1) + 5
    for stream in STREAMS:
        for estimator in ("in_sample", "adjusted", "held_out", "cross_fitted"):
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
    assert value(x, y, estimator="cross_fitted") == pytest.approx(0.0, abs=5e-3)


@pytest.mark.parametrize("stream", STREAMS)
def test_values_of_folds_equal_scikit_learn_fold_by_fold(stream: str) -> None:
    n, d = 900, 30
    x = gaussian(n, d)
    x[:, 4] = x[:, 5] * 2  # rank-deficient: the minimum-norm map decides what leaves the span
    x[:, 9] = 0.0
    groups = [f"example-{i // 9}" for i in range(n)]
    fold = assign_folds(groups, 10, 0)
    x[torch.from_numpy(fold == 3), 9] = gaussian(int((fold == 3).sum()), 1, 8)[:, 0]  # varies in one fold alone
    y = next_states(x)
    target = y if stream == "hidden" else y - x
    covariance = rss = tss = 0.0
    for k in range(10):
        train, test = fold != k, fold == k
        scale = x[train].std(0).numpy()
        scale[scale == 0] = np.inf
        model = LinearRegression().fit(x[train].numpy() / scale, target[train].numpy())
        predicted, mean = model.predict(x[test].numpy() / scale), target[train].numpy().mean(0)
        covariance += ((predicted - mean) * (target[test].numpy() - mean)).sum()
        rss += np.square(target[test].numpy() - predicted).sum()
        tss += np.square(target[test].numpy() - mean).sum()
    assert value(x, y, stream, "held_out", groups=groups) == pytest.approx(1 - rss / tss, abs=1e-9)
    assert value(x, y, stream, "cross_fitted", groups=groups) == pytest.approx(covariance / tss, abs=1e-9)


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
    estimate = linearity(x, y, "hidden", "in_sample")
    assert estimate.value == 1.0 and estimate.stderr is None
    assert set(estimate.flags) == {"rank=29/40", "saturated", "no_stderr"}
    assert linearity(x, y, estimator="in_sample_permuted") == estimate
    with pytest.raises(MetricError, match=r"adjusted.* rank 29.*more tokens"):
        linearity(x, y, estimator="adjusted")
    for estimator in ("cross_fitted", "held_out", "held_out_permuted"):
        with pytest.raises(MetricError, match=r"(held_out|cross_fitted).* d = 40.*more tokens"):
            linearity(x, y, estimator=estimator)


def test_a_fold_that_saturates_takes_the_standard_error_away() -> None:
    estimate = linearity(gaussian(42, 38), gaussian(42, 38, 1), "hidden", "in_sample")
    assert estimate.value is not None and estimate.value < 1
    assert estimate.stderr is None and "no_stderr" in estimate.flags


def test_targets_without_variance_have_no_score() -> None:
    x = gaussian(100, 5) * 1e3 + 0.1
    for estimator in ESTIMATORS:
        with pytest.raises(MetricError, match="next states have no variance"):
            linearity(x, torch.full_like(x, 1 / 3), estimator=estimator)
    for y in (x, x + 1.0):  # the second is constant up to the rounding of x
        for estimator in set(ESTIMATORS) - {"identity"}:
            with pytest.raises(MetricError, match="updates have no variance"):
                linearity(x, y, "update", estimator)
        assert value(x, y) == pytest.approx(1.0)


def test_next_states_that_are_constant_but_for_the_rounding_of_a_large_update_have_no_variance() -> None:
    """y − x is as large as y, and its rounding a billion times that of x."""
    x = gaussian(100, 5)
    with pytest.raises(MetricError, match="next states have no variance"):
        linearity(x, torch.full_like(x, 1e8 + 0.1))


def test_an_update_of_a_hundred_millionth_of_the_states_is_no_rounding() -> None:
    x = gaussian(300, 6)
    assert value(x, x + 1e-8 * (x @ gaussian(6, 6, 1)), "update") == pytest.approx(1.0, abs=1e-6)


def test_a_column_that_is_constant_but_for_its_last_bits_is_no_direction() -> None:
    x = gaussian(1000, 5)
    x[:, 2] = 3.7 * (1 + 16 * torch.finfo(torch.float64).eps * torch.sign(gaussian(1000, 1, 3)[:, 0]))
    assert len(x[:, 2].unique()) == 2
    assert linearity(x, gaussian(1000, 5, 1), "hidden", "in_sample").flags == ("rank=4/5",)


def test_constant_states_predict_nothing() -> None:
    x, y = torch.full((100, 5), 0.1), gaussian(100, 5)
    estimate = linearity(x, y, "hidden", "in_sample")
    assert estimate.value == 0.0 and estimate.flags == ("rank=0/5",)
    assert value(x, y, estimator="in_sample_permuted") == value(x, y, estimator="held_out_permuted") == 0.0
    for estimator in ("held_out", "cross_fitted"):
        assert value(x, y, estimator=estimator) == pytest.approx(0.0, abs=1e-12)


def test_an_update_that_erases_a_massive_activation_keeps_its_digits() -> None:
    x = massive(500, 30)
    y = gaussian(500, 30, 2)
    for stream in STREAMS:
        assert value(x, y, stream) == pytest.approx(svd_linearity(x, y, stream)[0], abs=1e-9)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_rows_that_are_not_finite_are_counted_and_leave_no_value(bad: float) -> None:
    x, y = gaussian(200, 5), gaussian(200, 5, 1)
    x[3, 0], y[3, 1], y[7, 2] = bad, bad, bad
    for estimator in ESTIMATORS:
        estimate = row(x, y, estimator=estimator)
        assert (estimate.value, estimate.stderr, estimate.flags) == (None, None, ("non_finite",))
        with pytest.raises(MetricError, match=r"2 of 200 tokens hold NaN or infinity.*isfinite"):
            linearity(x, y, estimator=estimator)


def test_jackknife_standard_error_matches_the_spread_between_data_sets() -> None:
    groups = np.repeat(np.arange(60), 10)
    a = gaussian(8, 8, 99)
    runs = []
    for seed in range(40):
        effect = gaussian(60, 8, 1000 + seed).repeat_interleave(10, 0)
        x = gaussian(600, 8, seed) + effect
        y = x @ a + 4 * gaussian(600, 8, 500 + seed) + 4 * torch.sin(3 * effect)
        runs.append([linearity(x, y, "hidden", e, groups) for e in ("in_sample", "held_out", "cross_fitted")])
    for estimates in zip(*runs, strict=True):
        spread = np.std([e.value for e in estimates])
        assert 0.6 < np.mean([e.stderr for e in estimates]) / spread < 1.6


def clustered(rng: np.random.Generator, examples: int, d: int) -> NDArray[np.float64]:
    """32 normal tokens of unit variance an example, half of it shared within the example."""
    offset, own = rng.standard_normal((examples, 1, d)), rng.standard_normal((examples, 32, d))
    return ((offset + own) / 2**0.5).reshape(-1, d)


@pytest.mark.parametrize("examples, d", [(8, 24), (12, 48), (48, 24)])
def test_cross_fitted_is_true_however_few_examples_there_are(examples: int, d: int) -> None:
    """A quarter to 2 examples for a dimension; the update is half linear (``benchmarks/linearity_truth.py``)."""
    a = np.random.default_rng(99).standard_normal((d, d)) / d**0.5
    truth = np.square(a).sum() / (np.square(a).sum() + d)
    found: dict[str, list[Estimate]] = {"cross_fitted": [], "held_out": []}
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x = clustered(rng, examples, d)
        update = x @ a + clustered(rng, examples, d)
        cloud = cloud_of(torch.from_numpy(x), torch.from_numpy(x + update), np.repeat(np.arange(examples), 32))
        for estimator, estimates in found.items():
            estimates.append(Linearity(cloud).estimate(estimator, "update"))
    for estimator, estimates in found.items():
        values, errors = np.array([(e.value, e.stderr) for e in estimates]).T
        assert 0.8 < np.sqrt(np.mean(errors**2)) / values.std(ddof=1) < 1.45, estimator
        covered = [low < truth < high for low, high in map(interval, values, errors, [min(examples, 10)] * 40)]
        if estimator == "cross_fitted":
            assert abs(values.mean() - truth) < 0.015 and np.mean(covered) > 0.9
        else:
            assert values.mean() < truth - 0.03, "what a map fitted on this many explains is less"


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("estimator", ["cross_fitted", "held_out", "held_out_permuted"])
def test_leaving_a_fold_out_is_to_first_order_in_what_it_weighs(estimator: str, stream: str) -> None:
    """Each replicate against the map written out: A − c G⁻¹(C_j − G_j A), its sums linear in that change."""
    groups = np.repeat(np.arange(23), 12)
    x = gaussian(276, 9, 1) + 2 * gaussian(23, 9, 2).repeat_interleave(12, 0) + 3
    t = next_states(x) - x
    fold = assign_folds(groups.tolist(), 10, 0)
    xs, ts = x.numpy(), (t if stream == "update" else x + t).numpy()
    replicates = []
    for j in range(10):
        covariance = rss = tss = 0.0
        for k in set(range(10)) - {j}:
            rows, lost = (fold != k), (fold == j)
            fitted, left = xs[rows] - xs[rows].mean(0), ts[rows] - ts[rows].mean(0)
            inverse = np.linalg.inv(fitted.T @ fitted)
            a = inverse @ fitted.T @ left
            rest = rows & ~lost
            # G − G_j and C − C_j are the moments of the rest about their own means
            about = xs[rest] - xs[rest].mean(0), ts[rest] - ts[rest].mean(0)
            gram = fitted.T @ fitted - about[0].T @ about[0]
            scale = rows.sum() / rest.sum()
            change = -scale * inverse @ (fitted.T @ left - about[0].T @ about[1] - gram @ a)
            tested, target = xs[fold == k] - xs[rest].mean(0), ts[fold == k] - ts[rest].mean(0)
            at_x, at_t = xs[fold == k] - xs[rows].mean(0), ts[fold == k] - ts[rows].mean(0)
            total = np.square(target).sum()
            if estimator == "held_out_permuted":
                total = len(tested) * (1 + 1 / rows.sum())
                leverage = np.einsum("ij,jk,ik->", tested, inverse, tested)
                rss += total + leverage + scale * np.einsum("ij,jk,ik->", at_x @ inverse, gram, at_x @ inverse)
            else:
                covariance += (tested @ a * target).sum() + (at_x @ change * at_t).sum()
                rss += np.square(target - tested @ a).sum() - 2 * (at_x @ change * (at_t - at_x @ a)).sum()
            tss += total
        replicates.append(covariance / tss if estimator == "cross_fitted" else 1 - rss / tss)
    expected = (9 / 10 * np.square(np.array(replicates) - np.mean(replicates)).sum()) ** 0.5
    assert row(x, x + t, stream, estimator, groups).stderr == pytest.approx(expected, rel=1e-9)


def test_one_example_has_no_standard_error() -> None:
    x, y = gaussian(50, 3), gaussian(50, 3, 1)
    estimate = linearity(x, y, "hidden", "in_sample", ["only"] * 50)
    assert estimate.value is not None and estimate.stderr is None and estimate.flags == ("no_stderr",)
    assert estimate.n_examples == 1
    for estimator in ("cross_fitted", "held_out", "held_out_permuted"):
        with pytest.raises(MetricError, match="2 examples"):
            linearity(x, y, estimator=estimator, groups=["only"] * 50)


@pytest.mark.parametrize("n", [0, 1])
def test_a_cloud_without_tokens_is_a_row_of_nulls(n: int) -> None:
    x = gaussian(n, 3)
    found = list(scores(cloud_of(x, x + 1, None)))
    assert len(found) == 2 * len(ESTIMATORS) - 1
    assert {estimate.reason for _, _, estimate in found} == {f"linearity needs at least 2 tokens, got {n}"}
    with pytest.raises(MetricError, match=f"at least 2 tokens, got {n}"):
        linearity(x, x + 1)


def permuted(x: Tensor, target: Tensor, stream: str, seed: int) -> Tensor:
    """The next states with which a stream's target is re-paired at random with x."""
    shuffled = target[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))]
    return shuffled if stream == "hidden" else x + shuffled


@pytest.mark.parametrize("stream", STREAMS)
def test_the_null_is_the_mean_over_permutations_of_the_rows(stream: str) -> None:
    """Of a rank-deficient cloud with a constant column, large tokens and alike ones: none of that may matter."""
    x = torch.cat([gaussian(100, 5), torch.full((100, 1), 3.0)], 1)
    x[:, 3] = x[:, 1] * 2
    x[:4, :5] *= 10
    y, groups = next_states(x), np.repeat(np.arange(20), 5)
    target = y if stream == "hidden" else y - x
    in_sample, cross_fitted, errors = [], [], []
    for seed in range(100):
        drawn = Linearity(cloud_of(x, permuted(x, target, stream, seed), groups))
        in_sample.append(drawn.estimate("in_sample", stream).value)
        cross_fitted.append(drawn.estimate("cross_fitted", stream).value)
        errors.append(drawn.fits.left_out(stream, None)[1:])
    assert value(x, y, stream, "in_sample_permuted", groups) == 4 / 99
    assert np.mean(in_sample) == pytest.approx(4 / 99, abs=4 * np.std(in_sample) / 100**0.5)
    assert np.mean(cross_fitted) == pytest.approx(0, abs=4 * np.std(cross_fitted) / 100**0.5)
    held_out = [1 - rss / tss for rss, tss in errors]
    rss, tss = np.sum(errors, 0)
    exact = value(x, y, stream, "held_out_permuted", groups)
    assert exact == pytest.approx(1 - rss / tss, abs=4 * np.std(held_out) / 100**0.5)
    assert exact < -0.1


def test_the_null_is_exact() -> None:
    """A target of N orthonormal columns has no two rows alike: what a map makes of it, it makes of any on average."""
    n, fitted = 40, 30
    x, target = torch.zeros(n, n, dtype=torch.float64), torch.eye(n, dtype=torch.float64)
    x[:, :5] = gaussian(n, 5)
    x[fitted:, :5] += 2
    x[:, 4] = x[:, 1] - x[:, 0]
    fold = (torch.arange(n) >= fitted).long()
    folds = accumulate([Chunk(x, x + target, fold, fold)], dim=n, n_folds=2, has_next=True).folds
    fit = LinearFit(folds[0])
    assert fit.rank == 4
    _, update, permuted = LeftOut(fit, 1, folds).sums()[:, 1:, 0]
    torch.testing.assert_close(permuted, update, rtol=1e-12, atol=0)


def test_the_null_is_the_same_whatever_the_target() -> None:
    x, groups = gaussian(300, 8), np.repeat(np.arange(30), 10)
    one, other = (row(x, y, "update", "held_out_permuted", groups) for y in (next_states(x), gaussian(300, 8, 7)))
    assert one.value == pytest.approx(other.value, rel=1e-12) and one.stderr == pytest.approx(other.stderr, rel=1e-9)
    assert one == row(x, next_states(x), "hidden", "held_out_permuted", groups)


@pytest.mark.parametrize(
    "examples, d, expected",
    [
        (20, 30, ("tokens/d=3.33", "examples/d=0.667", "few_examples")),
        (99, 10, ("tokens/d=49.5", "examples/d=9.9", "few_examples")),
        (100, 10, ("tokens/d=50", "examples/d=10")),
        (119, 120, ("tokens/d=4.96", "examples/d=0.992", "few_examples")),
    ],
)
def test_values_of_folds_say_how_many_tokens_and_examples_they_have(
    examples: int, d: int, expected: tuple[str, ...]
) -> None:
    x, groups = gaussian(5 * examples, d), np.arange(5 * examples) // 5
    for estimator in ("cross_fitted", "held_out", "held_out_permuted"):
        assert linearity(x, next_states(x), "update", estimator, groups).flags == expected
    assert linearity(x, next_states(x), "update", "in_sample", groups).flags == ()


@pytest.mark.parametrize("stream", STREAMS)
def test_leading_axes_are_found_without_the_fold_that_is_looked_at(stream: str) -> None:
    """Fewer tokens than dimensions; an independent numpy fit on the axes of each fold's rest."""
    n, d = 300, 320
    x = gaussian(n, d) * torch.arange(1, d + 1) ** -0.7 + 5
    y = x + 0.3 * next_states(x)
    groups = np.repeat(np.arange(30), 10)
    fold = assign_folds(groups.tolist(), 10, 0)
    xs, ts = x.numpy(), (y if stream == "hidden" else y - x).numpy()
    covariance = tss = 0.0
    for k in range(10):
        rest = fold != k
        mean = xs[rest].mean(0), ts[rest].mean(0)
        axes = np.linalg.svd(xs[rest] - mean[0], full_matrices=False)[2][:64].T
        a = np.linalg.lstsq((xs[rest] - mean[0]) @ axes, (ts[rest] - mean[1]) @ axes, rcond=None)[0]
        target = (ts[~rest] - mean[1]) @ axes
        covariance += ((xs[~rest] - mean[0]) @ axes @ a * target).sum()
        tss += np.square(target).sum()
    found = row(x, y, stream, "leading_64", groups)
    assert found.value == pytest.approx(covariance / tss, abs=1e-9) and found.stderr is not None
    share = tss / np.square(ts - ts.mean(0)).sum()
    assert found.flags == (f"variance={share:.4f}", "tokens/d=4.69", "examples/d=0.469", "few_examples")
    assert (
        row(x, y, stream, "cross_fitted", groups).reason
        == "a fold leaves 270 tokens to fit on; a map needs more than d = 320"
    )
    few = row(x[:60], y[:60], stream, "leading_64", groups[:60])
    assert few.reason == "a fold leaves 50 tokens to fit on; a map needs more than its number of axes, 64"


def test_leading_axes_of_no_more_dimensions_are_all_of_them() -> None:
    x, groups = gaussian(400, 8), np.arange(400) // 5
    assert linearity(x, next_states(x), "update", "leading_64", groups) == linearity(
        x, next_states(x), "update", "cross_fitted", groups
    )
    flat = gaussian(400, 3) @ gaussian(3, 70, 1)
    assert value(flat, flat @ gaussian(70, 70, 2), "update", "leading_64", groups) == pytest.approx(1.0, abs=1e-9)
    assert "no leading axes" in str(row(torch.ones(400, 70), gaussian(400, 70), "hidden", "leading_64", groups).reason)


def test_leading_axes_show_the_truth_below_as_many_tokens_as_dimensions() -> None:
    """25 examples of 16 tokens in 512 dimensions whose variances fall as 1 / i; the axes' population is known."""
    d, rng = 512, np.random.default_rng(99)
    scale, a = np.arange(1, d + 1) ** -0.5, 0.8 * rng.standard_normal((d, d)) / d**0.5
    of_target = np.diag(a.T @ (scale[:, None] ** 2 * a))[:64].sum() + 0.36 * np.square(scale[:64]).sum()
    truth = np.square(scale[:64, None] * a[:64, :64]).sum() / of_target
    values = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        x, noise = (clustered(rng, 13, d) * scale for _ in range(2))
        update = torch.from_numpy(x @ a + 0.6 * noise)
        values.append(
            row(torch.from_numpy(x), torch.from_numpy(x) + update, "update", "leading_64", np.arange(416) // 32).value
        )
    assert np.mean(values) == pytest.approx(truth, abs=0.04)


def test_mainflow_is_the_hidden_stream_of_its_own_chain() -> None:
    x, groups = gaussian(200, 5), np.repeat(np.arange(20), 10)
    cloud, chain = cloud_of(x, next_states(x), groups), cloud_of(x / 3, torch.tanh(x), groups)
    assert not [stream for _, stream, _ in scores(cloud) if stream == "mainflow"]
    cloud.mainflow = chain
    found = {estimator: estimate for estimator, stream, estimate in scores(cloud) if stream == "mainflow"}
    assert set(found) == set(ESTIMATORS)
    for estimator, estimate in found.items():
        assert estimate == linearity(x / 3, torch.tanh(x), "hidden", estimator, groups)
    cloud.mainflow, cloud.no_mainflow = None, "its blocks have no skip-free form"
    for _, stream, estimate in scores(cloud):
        if stream == "mainflow":
            assert (estimate.value, estimate.reason, estimate.n_tokens) == (None, cloud.no_mainflow, 200)


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
