"""benchmarks/calibration.py: its quick run writes the page, and what it holds the metrics against is right."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("skdim", reason="scikit-dimension, a development extra, makes the manifolds")
pytest.importorskip("matplotlib", reason="the page has a picture")

from benchmarks import calibration
from benchmarks.calibration_parts import picture_counts
from benchmarks.calibration_parts.clustered import SETTINGS, World
from benchmarks.calibration_parts.coverage import summarised


def tables(page: str) -> list[dict[str, list[str]]]:
    """Each table of a page: first cell of a row → the others; the header is the row of that name."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", page, flags=re.MULTILINE)
    rows = [[[c.strip() for c in line.strip("|").split("|")] for line in block.splitlines()] for block in blocks]
    assert all(len(row) == len(table[0]) for table in rows for row in table)
    return [{row[0]: row[1:] for row in table if not row[0].startswith(":")} for table in rows]


@pytest.mark.heavy
def test_the_quick_run_writes_the_page_and_its_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", ["calibration.py", "--quick", "--write", str(page)])
    calibration.main()
    text = page.read_text()
    assert "--quick" in text and "$" not in text
    assert "](page.svg)" in text and (tmp_path / "page.svg").read_text().startswith("<?xml")

    dimension, manifolds, by_examples, by_setting, settings, coverage, ratio, pictures, neighbours, pairs = tables(text)
    assert "linearity update" in pairs and len(pairs) == 5
    assert float(dimension["`twonn_mle`"][0]) <= 0.15  # the peers' error at n = 1,000 is 0.13
    assert dimension["`twonn_discard10`"] == dimension["scikit-dimension TwoNN"]
    assert dimension["DADApy"][0] == "not installed"
    assert len(manifolds) == 1 + 24 and manifolds["M7 Roll"][0] == "2"
    assert len(settings) == 1 + len(SETTINGS)
    assert list(coverage) == list(ratio) == ["setting", *calibration.QUICK_SETTINGS]
    population, cross_fitted, held_out, adjusted, fresh = map(float, by_setting["few"][1:6])
    assert fresh == pytest.approx(held_out, abs=0.02)
    assert cross_fitted == pytest.approx(population, abs=0.02)
    assert held_out < population < adjusted
    of_kind = by_examples["plain"]  # the last row, 4 examples for a dimension
    assert float(of_kind[7].replace("−", "-")) < 0 < float(of_kind[8]) and of_kind[1:3] == ["4", "64"]
    assert len(pictures["40"]) == 1 + len(picture_counts.JUDGED)
    others, whosever, own = map(float, neighbours["lines"][1:])
    assert own == pytest.approx(1, abs=0.1) and whosever < 1.5 and others > 3.5


@pytest.mark.parametrize("name", ["few", "uneven 30"])
@pytest.mark.parametrize("stream", ["hidden", "update"])
def test_the_known_answer_is_what_many_tokens_give(name: str, stream: str) -> None:
    setting = next(s for s in SETTINGS if s.name == name)
    world = World(dataclasses.replace(setting, examples=20_000, tokens=2))
    data = world.draw(np.random.default_rng(0))
    target = data.y if stream == "hidden" else data.y - data.x
    x, target = data.x - data.x.mean(0), target - target.mean(0)
    left = target - x @ np.linalg.lstsq(x, target, rcond=None)[0]
    known = world.linearity(stream)
    assert known == pytest.approx(1 - (left**2).sum() / (target**2).sum(), abs=0.004)
    assert world.linearity_of_fit(data, stream) == pytest.approx(known, abs=0.004)
    assert world.interval_of_known_map(data, stream)[0] == pytest.approx(known, abs=0.004)


def test_coverage_counts_intervals_that_hold_the_mean() -> None:
    values = np.random.default_rng(0).standard_normal(4000)
    right = summarised([(v, 1.0) for v in values], n_folds=1000)
    beside = summarised([(v, 1.0) for v in values], n_folds=1000, target=1.0)
    short = summarised([(v, 0.5) for v in values], n_folds=1000)
    assert right.covered == pytest.approx(0.95, abs=0.01)
    assert short.covered == pytest.approx(0.675, abs=0.02)  # P(|z| < 0.98)
    assert beside.covered == pytest.approx(0.8315, abs=0.02)  # P(-0.96 < z < 2.96)
    assert short.below + short.covered + short.above == pytest.approx(1)


def test_measured_parts_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "parts.json"
    assert calibration.Parts(file).get("part", lambda: [1.5]) == [1.5]
    assert calibration.Parts(file).get("part", lambda: pytest.fail("measured again")) == [1.5]
