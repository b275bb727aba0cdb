"""Folds of examples and the jackknife over them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microscope_bench.metrics.resampling import assign_folds, jackknife_stderr


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


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    x = np.random.default_rng(0).normal(size=40)
    replicates = [float(np.delete(x, i).mean()) for i in range(40)]
    assert jackknife_stderr(replicates)[0] == pytest.approx(x.std(ddof=1) / 40**0.5)


@pytest.mark.parametrize("replicates", [[], [1.0], [1.0, None], [1.0, 2.0, float("nan")]])
def test_jackknife_makes_nothing_up(replicates: list[float | None]) -> None:
    assert jackknife_stderr(replicates) == (None, ("no_stderr",))


def test_no_folds_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        assign_folds(["a"], 0, 0)
