"""The example of docs/adding_a_metric.md does what the page says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor

from microscope_bench.cli.main import main
from microscope_bench.metrics import METRICS
from microscope_bench.metrics.core.cloud import ArrayCloud
from tests.metrics.oracles import gaussian
from tests.results.sample import forge, with_scores
from tests.toy import result_files, run

PAGE = (Path(__file__).parents[2] / "docs" / "adding_a_metric.md").read_text(encoding="utf-8")
MODULE, USE = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture
def metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example's metric, as the entry point of another package."""
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "norm_spread.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    name, value = re.findall(r'^(norm_spread) = "(.*)"$', PAGE, flags=re.MULTILINE)[0]
    group = re.findall(r'entry-points."(.*)"\]', PAGE)[0]
    points = {group: [EntryPoint(name, value, group)]}
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points.get(group, []))
    monkeypatch.setattr(METRICS, "_objects", {})
    monkeypatch.setattr(METRICS, "_points", None)
    return METRICS.get(name)


def test_the_example_is_found_and_computes(metric: Any) -> None:
    assert "norm_spread" in METRICS.names() and metric.name == "norm_spread"
    x, example = gaussian(200, 6), torch.arange(200) // 10
    ((estimator, stream, estimate),) = metric.scores(ArrayCloud(x, None, example % 10, example, 10))
    assert [(one.estimator, one.stream) for one in metric.headlines] == [(estimator, stream)]
    norms = x.norm(dim=1)
    assert estimate.value == pytest.approx(float(norms.std(correction=0) / norms.mean()))
    assert 0 < estimate.stderr < 0.1


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        (torch.zeros(0, 3), "at least 2 tokens, got 0"),
        (torch.zeros(20, 3), "all tokens are zeros"),
        (torch.full((20, 3), torch.nan), "20 of 20 tokens hold NaN or infinity"),
    ],
)
def test_the_example_keeps_the_rules(metric: Any, x: Tensor, reason: str) -> None:
    example = torch.arange(len(x))
    ((_, _, estimate),) = metric.scores(ArrayCloud(x, None, example % 10, example, 10))
    assert estimate.value is None and reason in estimate.reason


def test_the_example_prints_what_the_page_says() -> None:
    shown = re.findall(r"print\(.*\)  # (.*)", USE)[0]
    run = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", MODULE + USE], check=True, capture_output=True, encoding="utf-8"
    )
    assert run.stdout.strip() == shown


def test_the_module_can_be_listed_without_torch() -> None:
    subprocess.run([sys.executable, "-c", MODULE + "\nimport sys; assert 'torch' not in sys.modules"], check=True)


def test_the_example_goes_all_the_way_without_another_line(
    metric: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    result = run(results, metrics=("anisotropy", "norm_spread"))
    assert result.identity.metrics["norm_spread"] == metric.version
    assert all(score.value is not None for score in result.scores if score.metric == "norm_spread")
    (file,) = map(str, result_files(results))
    assert main(["validate", file]) == 0
    pages = {form: tmp_path / f"page.{form}" for form in ("markdown", "html", "latex", "csv", "json")}
    for form, page in pages.items():
        assert main(["leaderboard", str(results), "--format", form, "-o", str(page)]) == 0
        assert ("norm_spread" if form in ("csv", "json") else "norm spread") in page.read_text(encoding="utf-8"), form
    assert main(["report", file, "-o", str(tmp_path / "report.html")]) == 0
    assert "norm spread" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert main(["plot", file, "-o", str(tmp_path / "plots")]) == 0
    assert list((tmp_path / "plots").glob("*norm_spread*"))
    capsys.readouterr()
    assert main(["cite", file]) == 0
    assert f"norm_spread (version {metric.version})" in capsys.readouterr().out
    moved = with_scores(result, lambda s: replace(s, value=s.value + 1) if s.metric == "norm_spread" else s)
    (tmp_path / "moved.json").write_text(json.dumps(forge(moved.to_dict())), encoding="utf-8")
    assert main(["compare", file, file]) == 0 and main(["compare", file, str(tmp_path / "moved.json")]) == 1
    assert "norm_spread relative" in capsys.readouterr().out
