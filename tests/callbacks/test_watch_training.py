"""The example of docs/training.md: a model of the zoo whose linearity and dimension move while it trains."""

from __future__ import annotations

import sys

from benchmarks import watch_training
from microscope_bench.metrics.registry import headlines
from microscope_bench.publish.step_lines import run_and_step
from microscope_bench.publish.summary import summarise
from microscope_bench.results.result_files import each_result
from tests.toy import result_files


def test_linearity_and_dimension_move(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["watch_training.py", str(tmp_path), "--every", "200"])
    watch_training.main()
    results = {run_and_step(result)[1]: result for _, result in each_result(result_files(tmp_path / "geometry"))}
    assert sorted(results) == [0, 200]
    for headline in headlines(["linearity", "intrinsic_dimension"]):
        first, last = (summarise(results[step], headline, "joint") for step in (0, 200))
        assert abs(last.mean - first.mean) > 3 * (first.mean_stderr + last.mean_stderr), headline.title
    assert (tmp_path / "shapesqa.steps.svg").stat().st_size < 200_000
