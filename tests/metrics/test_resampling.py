"""Folds of examples and the jackknife over them."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microscope_bench.metrics.core.estimate import NoValue
from microscope_bench.metrics.core.folds import assign_folds
from microscope_bench.metrics.core.jackknife import interval, jackknife_stderr, jackknifed


@given(ids=st.lists(st.integers(0, 60), min_size=1, max_size=200), n_folds=st.integers(1, 12), seed=st.integers(0, 3))
def test_folds_are_balanced_hold_whole_examples_and_ignore_order(ids: list[int], n_folds: int, seed: int) -> None:
    fold = assign_folds(ids, n_folds, seed)
    of = dict(zip(ids, fold.tolist(), strict=True))
    assert [of[i] for i in ids] == fold.tolist()
    sizes = np.bincount(list(of.values()), minlength=n_folds)
    assert sizes.max() - sizes.min() <= 1
    order = np.random.default_rng(seed).permutation(len(ids))
    assert assign_folds([ids[i] for i in order], n_folds, seed).tolist() == fold[order].tolist()


def test_folds_depend_on_the_seed_and_on_nothing_else() -> None:
    ids = [f"q{i}" for i in range(100)]
    assert assign_folds(ids, 10, 0).tolist() == assign_folds(ids, 10, 0).tolist()
    assert assign_folds(ids, 10, 0).tolist() != assign_folds(ids, 10, 1).tolist()
    assert assign_folds([1, 2], 2, 0).tolist() == assign_folds(["1", "2"], 2, 0).tolist()
    assert assign_folds([np.int64(1), np.int64(2)], 2, 0).tolist() == assign_folds([1, 2], 2, 0).tolist()


def test_the_folds_are_frozen() -> None:
    """These folds may never change: published standard errors and held-out values are of them."""
    assert assign_folds([f"q{i}" for i in range(12)], 5, 0).tolist() == [3, 2, 4, 1, 0, 0, 4, 1, 3, 2, 0, 1]
    assert assign_folds([f"q{i}" for i in range(12)], 5, 7).tolist() == [0, 4, 1, 2, 3, 3, 4, 1, 2, 0, 1, 0]


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    x = np.random.default_rng(0).normal(size=40)
    replicates = [float(np.delete(x, i).mean()) for i in range(40)]
    assert jackknife_stderr(replicates) == pytest.approx(x.std(ddof=1) / 40**0.5)


@pytest.mark.parametrize("replicates", [[], [1.0], [1.0, None], [1.0, 2.0, float("nan")]])
def test_jackknife_makes_nothing_up(replicates: list[float | None]) -> None:
    assert jackknife_stderr(replicates) is None


def test_no_folds_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        assign_folds(["a"], 0, 0)


def test_an_interval_is_students_t_with_a_fold_less() -> None:
    assert interval(1.0, 0.5, n_folds=10) == pytest.approx((1 - 2.2621572 * 0.5, 1 + 2.2621572 * 0.5))
    assert interval(1.0, 0.5, n_folds=3, level=0.9) == pytest.approx((1 - 2.9199856 * 0.5, 1 + 2.9199856 * 0.5))
    assert interval(1.0, 0.0, n_folds=2) == (1.0, 1.0)


def test_intervals_of_a_mean_of_few_draws_cover_it() -> None:
    """Five draws: the normal quantile would cover 88 %."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        x = rng.normal(size=5)
        stderr = jackknife_stderr([float(np.delete(x, i).mean()) for i in range(5)])
        assert stderr is not None
        low, high = interval(float(x.mean()), stderr, n_folds=5)
        covered += low <= 0 <= high
    assert 0.935 < covered / 2000 < 0.965


@pytest.mark.parametrize(
    "bad", [{"n_folds": 1}, {"stderr": -1.0}, {"stderr": float("nan")}, {"level": 1.0}, {"level": 95.0}]
)
def test_intervals_of_nothing_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        interval(**{"value": 0.0, "stderr": 1.0, "n_folds": 10, **bad})  # type: ignore[arg-type]


def test_an_estimate_of_which_one_replicate_fails_has_no_standard_error() -> None:
    """A spread over the folds that happened to work would be too small."""
    replicates = {None: 1.0, 0: 0.9, 1: 1.2}

    def outcome(left_out: int | None) -> float:
        if left_out == 2:
            raise NoValue("no variance without fold 2")
        return replicates[left_out]

    estimate = jackknifed(outcome, [0, 1, 2], n_tokens=30, n_examples=3)
    assert (estimate.value, estimate.stderr, estimate.flags) == (1.0, None, ("no_stderr",))
    assert estimate.replicates == (0.9, 1.2, None)


def test_replicates_stand_at_the_number_of_their_fold() -> None:
    estimate = jackknifed(lambda k: 1.0 if k is None else k / 10, [1, 4, 2], n_tokens=30, n_examples=3)
    assert estimate.replicates == (None, 0.1, 0.2, None, 0.4)
    assert jackknifed(lambda _: 1.0, [0], 30, 1).replicates == (), "one fold leaves nothing"


def test_what_an_outcome_computed_with_goes_with_it_where_a_fold_has_no_value() -> None:
    class Held:
        pass

    def estimated(held: Held) -> None:
        def outcome(left_out: int | None) -> float:
            if left_out == 1 and held:
                raise NoValue("without fold 1 there is nothing")
            return 1.0

        jackknifed(outcome, [0, 1, 2], 9, 3)

    held = Held()
    alive = weakref.ref(held)
    gc.disable()
    try:
        estimated(held)
        del held
        assert alive() is None, "gigabytes of moments would wait until cycles are looked for"
    finally:
        gc.enable()
