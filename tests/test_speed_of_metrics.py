"""benchmarks/metrics.py: its quick run gives every contender a line, and values that agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import metrics as script
from benchmarks.timing import interleaved, machine


def test_the_quick_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script.main(["--quick", "--threads", "1", "--shapes", "300x40", "--json", str(tmp_path / "out.json")])
    assert "largest difference" in capsys.readouterr().out
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["machine"].keys() >= {"processor", "threads", "packages", "date"}
    contenders = {(row["task"], row["contender"]): row for row in found["rows"]}
    assert {task for task, _ in contenders} == {"linearity and anisotropy", "TwoNN"}
    left_out = " ".join(found["left_out"])
    for row in found["rows"]:
        assert row["seconds"] > 0 and (row["largest_difference"] or 0) < 1e-4
    for task, name in (("linearity and anisotropy", "llm-microscope"), ("TwoNN", "scikit-dimension")):
        assert (task, name) in contenders or name in left_out


def test_runs_take_turns() -> None:
    order: list[str] = []
    seconds = interleaved({name: (lambda name=name: order.append(name)) for name in "ab"}, 3)
    assert order == list("ababab") and [len(runs) for runs in seconds.values()] == [3, 3]


def test_machine_names_no_host_and_no_path() -> None:
    import platform

    text = json.dumps(machine())
    assert platform.node() not in text and str(Path.home()) not in text
