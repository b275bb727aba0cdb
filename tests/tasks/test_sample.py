"""A draw of rows: by the seed and the rows' ids alone, the smaller in the larger, and told in the version."""

from __future__ import annotations

import random

import pytest

from microscope_bench import RunConfig
from microscope_bench.errors import MicroscopeError
from microscope_bench.run.evaluate import evaluate
from microscope_bench.tasks import TaskSettings, load_task
from microscope_bench.tasks.settings import Seeds
from tests.toy import ToyAdapter

ROWS = [{"key": f"k{number}", "question": f"Q{number}?", "answer": number % 2} for number in range(200)]


def drawn(path, n: int | None, seed: int = 0) -> list[str]:
    return list(load_task(path, settings=TaskSettings(sample=n, seeds=Seeds(python=seed))).ids)


def test_a_draw_is_of_the_seed_and_in_the_order_of_the_data(write_task):
    path = write_task(rows=ROWS)
    ids = drawn(path, 40)
    assert len(ids) == 40 and ids == sorted(ids, key=lambda key: int(key[1:])) and ids == drawn(path, 40)
    assert 8 <= sum(int(key[1:]) < 100 for key in ids) <= 32, "of all parts of the data"
    assert ids != drawn(path, 40, seed=1)
    assert set(drawn(path, 10)) < set(ids), "a smaller draw is part of a larger one"


def test_rows_with_ids_are_drawn_wherever_they_lie(write_task):
    shuffled = random.Random(3).sample(ROWS, len(ROWS))
    assert set(drawn(write_task("one", rows=ROWS), 40)) == set(drawn(write_task("other", rows=shuffled), 40))


def test_the_version_tells_the_draw_and_a_draw_of_all_is_all(write_task):
    path = write_task(rows=ROWS)
    versions = [load_task(path, settings=TaskSettings(sample=n)).version for n in (None, 200, 999, 40, 41)]
    assert versions[:3] == ["2", "2", "2"]
    assert versions[3].startswith("2+sample:40@") and versions[4].startswith("2+sample:41@")
    task = load_task(path, settings=TaskSettings(sample=40))
    assert [task.example(index).id for index in (0, 39)] == [task.ids[0], task.ids[39]]
    assert task.example(5).text == f"Q{task.ids[5][1:]}?\nAnswer:"


def test_an_interrupted_run_of_a_draw_goes_on_with_it(write_task, tmp_path):
    options = {"task": str(write_task(rows=ROWS)), "sample": 40, "metrics": "anisotropy", "progress": False}
    undisturbed = evaluate(ToyAdapter(), **options)
    with pytest.raises(KeyboardInterrupt):
        evaluate(ToyAdapter(break_at=4), store=tmp_path / "store", **options)
    resumed_by = ToyAdapter()
    resumed = evaluate(resumed_by, store=tmp_path / "store", **options)
    assert resumed.scores == undisturbed.scores and resumed.identity == undisturbed.identity
    assert resumed_by.passes < 5, "what was captured is not captured again"


def test_a_draw_excludes_what_else_chooses_rows(write_task):
    for other in ({"limit": 3}, {"samples": {"toy": [1]}}):
        with pytest.raises(MicroscopeError, match="sample draws the rows"):
            RunConfig(sample=3, **other)
    task = load_task(write_task(rows=ROWS), settings=TaskSettings(sample=9))
    with pytest.raises(MicroscopeError, match="limit excludes samples and sample, of which one has chosen the rows"):
        evaluate(ToyAdapter(), task, limit=3, progress=False)
    with pytest.raises(MicroscopeError, match="toy is loaded already: give sample to load_task"):
        evaluate(ToyAdapter(), task, sample=3, progress=False)
