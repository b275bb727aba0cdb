"""docs/fusion.md: made from the committed results, and what its tables compute."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from benchmarks import fusion
from benchmarks.fusion_parts import tables
from benchmarks.fusion_parts.tables import ANISOTROPY, HIDDEN, Curve, Experiment, curve
from microscope_bench.zoo import FUSIONS
from tests.results.sample import sample

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "fusion.md"


@pytest.fixture(scope="module")
def experiment():
    return Experiment(ROOT / "results")


def test_the_page_is_what_the_results_make_it():
    assert PAGE.read_text(encoding="utf-8") == fusion.render(ROOT / "results")


def test_its_pictures_are_there():
    linked = re.findall(r"\]\(([^)]+\.svg)\)", PAGE.read_text(encoding="utf-8"))
    assert len(linked) == 4 and all((PAGE.parent / path).is_file() for path in linked)


def test_nothing_is_left_to_fill_in():
    assert not re.search(r"@[A-Z]+@|\$[a-z_]+|\bnan\b|TODO", PAGE.read_text(encoding="utf-8"))


def test_every_model_was_asked_the_same_questions_under_one_protocol(experiment):
    results = [experiment.under(name, condition) for name in FUSIONS for condition in tables.CONDITIONS]
    results += [experiment.seed(name, seed) for name in tables.REPEATED for seed in tables.SEEDS]
    assert len({result.identity.example_ids_sha256 for result in results}) == 1
    assert len({result.identity.task for result in results}) == 1
    assert {result.identity.n_examples for result in results} == {2016}
    assert {result.identity.protocol.name for result in results} == {"geometry/1"}
    assert {result.identity.model.dtype for result in results} == {"float32"}
    assert len({result.identity.model.revision for result in results}) == 2 * len(FUSIONS) + 4


def test_a_table_shows_the_scores_of_the_files(experiment):
    result = experiment.seed("omnifusion", 1)
    row = next(
        line for line in tables.by_layer(experiment, ANISOTROPY, "image").splitlines() if "omnifusion, seed 1" in line
    )
    scores = result.series("anisotropy", "top_share", None, "image")
    cells = [cell.strip() for cell in row.strip("|").split("|")][1:-1]
    assert len(cells) == len(scores) == result.identity.model.n_layers + 1
    for cell, score in zip(cells, scores, strict=True):
        assert float(cell.split()[0]) == pytest.approx(score.value, abs=2 * (score.stderr or 1))


def test_mean_and_change_of_a_curve():
    row = sample().series("anisotropy", "top_share", None, "image")[0]
    without = np.array([[0.9, 1.2, 1.3], [2.1, 1.8, 2.4], [6.2, 5.5, 6.6]])  # value of each layer without each fold
    rows = [replace(row, value=v, replicates=tuple(w)) for v, w in zip((1.0, 2.0, 6.0), without, strict=True)]
    shown = Curve(rows, rows[1:])

    def jackknife(values):
        return np.sqrt(2 / 3 * np.square(values - values.mean()).sum())

    assert shown.mean == pytest.approx((4.0, jackknife(without[1:].mean(0))))
    assert shown.change == pytest.approx((5.0, jackknife(without[2] - without[0])))


def test_results_that_do_not_compare_are_refused(tmp_path):
    one = sample(model={"name": "zoo-llava"})
    one.save(tmp_path / "one.json")
    task = one.identity.task.name
    assert Experiment(tmp_path, task).result("zoo-llava") == one
    with pytest.raises(ValueError, match="no result of zoo-fuyu under shuffled_image"):
        Experiment(tmp_path, task).under("fuyu", "pictures shuffled")
    sample(model={"name": "zoo-llava", "revision": "b" * 40}).save(tmp_path / "two.json")
    with pytest.raises(ValueError, match="a second result of"):
        Experiment(tmp_path, task)
    sample(model={"name": "zoo-fuyu"}, n_examples=7, example_ids_sha256="0" * 64).save(tmp_path / "two.json")
    with pytest.raises(ValueError, match="2 kinds of protocol, data or questions"):
        Experiment(tmp_path, task)


def test_a_series_with_a_hole_is_an_error(experiment):
    with pytest.raises(ValueError, match="is not complete"):
        curve(experiment.under("llava", "trained"), HIDDEN, "audio")
