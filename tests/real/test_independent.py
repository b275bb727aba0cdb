"""The headline numbers of real states, computed a second time in plain numpy; and what a result says of their error."""

from __future__ import annotations

import pytest

from microscope_bench import difference, metrics
from tests.real import independent
from tests.real.conftest import PICTURES, TEXT

pytestmark = pytest.mark.real
CLOUDS = [(PICTURES, "image"), (PICTURES, "text"), (TEXT, "text")]


@pytest.mark.parametrize("layer", [1, 5, 20])
@pytest.mark.parametrize(("asked", "modality"), CLOUDS)
def test_anisotropy(real_run, asked, modality, layer):
    run = real_run(*asked)
    x, _ = run.distinct(modality, layer)
    value = run.values("anisotropy", "top_share", None, modality)[layer]
    assert value == pytest.approx(independent.anisotropy(x), rel=1e-6)


@pytest.mark.parametrize("layer", [1, 20])
@pytest.mark.parametrize(("asked", "modality"), CLOUDS)
def test_linearity(real_run, asked, modality, layer):
    run = real_run(*asked)
    (x, source), (y, _) = run.distinct(modality, layer), run.distinct(modality, layer + 1)
    again = independent.cross_fitted_update(x, y, run.folds(source))
    assert metrics.linearity(x, y, stream="update", groups=source).value == pytest.approx(again, rel=1e-6)
    if asked == TEXT:  # whose run has measured it, with some other copy of a token standing for all
        assert run.values("linearity", "cross_fitted", "update", modality)[layer] == pytest.approx(again, abs=0.01)


@pytest.mark.parametrize("asked", [TEXT, PICTURES])
def test_every_score_has_the_replicates_of_its_error(real_run, asked):
    result = real_run(*asked).result
    with_value = [s for s in result.scores if s.metric in ("anisotropy", "linearity") and s.value is not None]
    assert len(with_value) > 90
    for score in with_value:
        assert score.stderr is not None and len(score.replicates) == result.inputs.folds.n == 10, score


@pytest.mark.parametrize("asked", [TEXT, PICTURES])
def test_a_result_does_not_differ_from_itself(real_run, asked):
    result = real_run(*asked).result
    rows = difference(result, result, layers=True).rows
    assert len(rows) > 100
    assert all(row.found.difference == 0 for row in rows if row.found)


@pytest.mark.parametrize("layer", [1, 10, 29])
@pytest.mark.parametrize(("asked", "modality"), CLOUDS)
def test_intrinsic_dimension(real_run, asked, modality, layer):
    """Of all tokens together; the headline is the same of draws of them."""
    x, source = real_run(*asked).distinct(modality, layer)
    found = metrics.intrinsic_dimension(x, groups=source)
    kept = independent.distinct_rows(x)
    assert found.value == pytest.approx(independent.two_nn(x[kept], source[kept]), rel=1e-6)
