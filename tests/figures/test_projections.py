from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microscope_bench.errors import MicroscopeError
from microscope_bench.figures.projections import evenly, principal_coordinates, project, shares


def cloud(n=60, d=7, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) * np.arange(1, d + 1) + 5


def test_svd_shows_the_two_widest_axes_of_the_covariance():
    x = cloud()
    found = project(x, "svd")
    values, vectors = np.linalg.eigh(np.cov(x.T))
    expected = (x - x.mean(0)) @ vectors[:, [-1, -2]]
    np.testing.assert_allclose(np.abs(found.points), np.abs(expected), atol=1e-9)
    assert found.axes[0] == f"axis 1 ({values[-1] / values.sum():.1%} of the variance)"


def test_the_sign_of_an_axis_is_not_the_solvers():
    x = cloud()
    points = project(x, "svd").points
    axes = np.linalg.lstsq(points, x - x.mean(0), rcond=None)[0]
    assert (axes[np.arange(2), np.abs(axes).argmax(axis=1)] > 0).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(4, 40), d=st.integers(2, 12))
def test_principal_coordinates_keep_all_distances(seed, n, d):
    x = np.random.default_rng(seed).normal(size=(n, d))
    coordinates, part = principal_coordinates(x)
    assert part.sum() == pytest.approx(1) and (np.diff(part) <= 1e-12).all()
    for a, b in ((x, coordinates),):
        np.testing.assert_allclose(
            np.linalg.norm(a[:, None] - a, axis=2), np.linalg.norm(b[:, None] - b, axis=2), atol=1e-9
        )


def test_tsne_is_the_same_every_time_and_hangs_on_its_seed_alone():
    x = cloud(50)
    first, again = (project(x, "tsne", seed=3).points for _ in range(2))
    assert np.array_equal(first, again)


def test_tsne_keeps_groups_together():
    x = np.concatenate([cloud(30, seed=1), cloud(30, seed=2) + 500])
    points = project(x, "tsne").points
    a, b = points[:30], points[30:]
    gap = np.linalg.norm(a.mean(0) - b.mean(0))
    assert gap > max(np.linalg.norm(part - part.mean(0), axis=1).max() for part in (a, b))


@pytest.mark.parametrize(
    "x, message",
    [
        (np.zeros((3, 2)), "at least 4 tokens"),
        (np.full((5, 2), np.nan), "5 tokens hold NaN"),
        (np.ones((5, 2)), "the same vector"),
    ],
)
def test_what_makes_no_picture_is_refused(x, message):
    with pytest.raises(MicroscopeError, match=message):
        project(x, "svd")


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.integers(1, 120))
def test_shares_take_as_many_as_they_may_and_as_evenly(sizes, most):
    taken = shares(sizes, most)
    assert all(0 <= t <= size for t, size in zip(taken, sizes, strict=True))
    assert sum(taken) == min(most, sum(sizes))
    whole = [t for t, size in zip(taken, sizes, strict=True) if t < size]
    assert not whole or max(taken) - min(whole) <= 1


@given(st.integers(1, 100), st.integers(2, 6))
def test_evenly_begins_and_ends_with_the_ends(n_layers, most):
    layers = evenly(n_layers, most)
    assert layers[0] == 0 and layers[-1] == n_layers and len(layers) == min(most, n_layers + 1)
