"""How much of σ₁², of a linear fit and of a Fréchet distance few tokens carry: by theory and by a second algorithm."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chi2, t
from torch import Tensor

from microscope_bench.metrics import anisotropy, linearity, mir
from microscope_bench.metrics.core.arrays import cloud_of
from microscope_bench.metrics.core.cloud import ArrayCloud
from microscope_bench.metrics.core.concentration import TopShare
from microscope_bench.metrics.core.workspace import Workspace
from tests.metrics.oracles import gaussian, next_states

N, D = 20_000, 24


def lorenz_share(parts: np.ndarray) -> float:
    """What the largest 5 % carry: 1 − the Lorenz curve at 0.95, which is straight between two tokens."""
    heights = np.concatenate([[0.0], np.cumsum(np.sort(parts))]) / parts.sum()
    return float(1 - np.interp(0.95, np.linspace(0, 1, len(parts) + 1), heights))


def concentration(x: Tensor, y: Tensor | None = None, rows_per_chunk: int = 8192) -> tuple[float | None, ...]:
    cloud = cloud_of(x, y, None)
    cloud.workspace = Workspace(rows_per_chunk=rows_per_chunk)
    found = cloud.concentration
    return found.first_axis, found.hidden, found.update


def flag(estimate) -> float | None:
    return next((float(name.partition("=")[2]) for name in estimate.flags if name.startswith("concentrated")), None)


@pytest.mark.parametrize("n", [1, 2, 7, 19, 20, 21, 40, 103, 1000])
@pytest.mark.parametrize("at_once", [1, 13, 2000])
def test_the_largest_twentieth_is_a_point_of_the_lorenz_curve(n, at_once):
    values = torch.randn(n, generator=torch.Generator().manual_seed(n)).double().exp()
    parts = TopShare(n)
    for some in values.split(at_once):
        parts.add(some)
    assert parts.share == pytest.approx(lorenz_share(values.numpy()), rel=1e-12)


def test_nothing_has_no_share():
    parts = TopShare(3)
    parts.add(torch.zeros(3))
    assert parts.share is None and TopShare(0).share is None


def test_a_gaussian_cloud_is_concentrated_as_theory_says():
    """A share p of the largest of chi-square parts with k degrees carries P(χ²(k + 2) > q), P(χ²(k) > q) = p."""

    def largest(k: int) -> float:
        return float(chi2.sf(chi2.isf(0.05, k), k + 2))

    x = gaussian(N, D)
    first_axis, hidden, update = concentration(x, x + gaussian(N, D, seed=1))
    assert largest(1) == pytest.approx(0.279, abs=0.001)
    assert first_axis == pytest.approx(largest(1), abs=0.012)
    assert hidden == pytest.approx(largest(D), abs=0.003) and update == pytest.approx(largest(D), abs=0.003)


def test_the_tails_of_students_t_are_no_sinks_to_speak_of():
    """With 5 degrees of freedom the largest 5 % of |t|² carry .41, less than half."""
    q = t.isf(0.025, 5)
    grid = np.linspace(q, 4000, 4_000_001)
    expected = 2 * np.trapezoid(grid**2 * t.pdf(grid, 5), grid) / (5 / 3)
    x = torch.from_numpy(t.rvs(5, size=(N, 1), random_state=3)) * torch.tensor([1.0, 0.0]) + 1e-3 * gaussian(N, 2)
    assert concentration(x)[0] == pytest.approx(expected, abs=0.03)
    assert expected == pytest.approx(0.412, abs=0.001) and flag(anisotropy(x)) is None


@pytest.mark.parametrize("rows_per_chunk", [64, 8192])
@pytest.mark.parametrize("d", [12, 600])  # all eigenvalues; the largest alone
def test_equals_a_singular_value_decomposition(d, rows_per_chunk):
    x = gaussian(700, d, seed=2) * torch.linspace(0.1, 3, 700)[:, None] + 100
    y = next_states(x) + 50
    u, s, _ = np.linalg.svd((x - x.mean(0)).numpy(), full_matrices=False)
    expected = [(u[:, 0] * s[0]) ** 2, *(((z - z.mean(0)) ** 2).sum(1).numpy() for z in (y, y - x))]
    given = x.clone(), y.clone()
    assert concentration(x, y, rows_per_chunk) == pytest.approx([lorenz_share(e) for e in expected], rel=1e-6)
    assert torch.equal(x, given[0]) and torch.equal(y, given[1]), "nobody's states are changed"


def test_a_few_sinks_carry_all_and_every_number_made_of_them_says_so():
    x, text = gaussian(2000, D, seed=4), gaussian(1500, D, seed=5)
    assert flag(anisotropy(x)) is None and flag(mir(x, text)) is None
    x[:20, 3] += 500.0
    assert flag(anisotropy(x)) > 0.98
    text[:50, 3] += 100.0
    assert flag(mir(x, text)) is None, "tokens of unusual norm are replaced by the median"
    text[50:110, 3] += 50.0  # within 3 standard deviations, which the others stretch
    assert flag(mir(x, text)) > 0.6


def test_linearity_says_so_in_the_stream_that_few_tokens_make():
    x = gaussian(2000, D, seed=4)
    y = next_states(x)
    assert flag(linearity(x, y)) is None and flag(linearity(x, y, stream="update")) is None
    x[:20, 3] += 500.0
    y[:20, 3] += 502.0  # sinks that are there already, and that the block leaves as they are
    assert flag(linearity(x, y)) > 0.9 and flag(linearity(x, y, stream="update")) is None
    assert flag(linearity(x, y, estimator="in_sample")) > 0.9
    assert flag(linearity(x, y, estimator="in_sample_permuted")) is None
    y[:20, 3] -= 500.0  # it takes them away
    assert flag(linearity(x, y)) is None and flag(linearity(x, y, stream="update")) > 0.9


def test_the_pass_is_shared_and_none_is_made_of_states_that_are_not_finite():
    passes = []

    class Counted(ArrayCloud):
        def chunks(self):
            passes.append(1)
            return super().chunks()

    x, fold = gaussian(200, 5), torch.arange(200) % 10
    cloud = Counted(x, x + 1, fold, fold, 10)
    assert cloud.moments and cloud.concentration and cloud.concentration is cloud.concentration
    assert len(passes) == 2
    x[3, 2] = torch.nan
    found = Counted(x, x + 1, fold, fold, 10).concentration
    assert (found.first_axis, found.hidden, found.update) == (None, None, None)
