"""benchmarks/processes.py: its quick run measures both ways and writes what it found."""

from __future__ import annotations

import json

import pytest

from benchmarks import processes


@pytest.mark.heavy
def test_a_quick_run_writes_the_ratio_of_every_stage(tmp_path, capsys):
    processes.main(["--quick", "--json", str(tmp_path / "figures.json")])
    found = json.loads((tmp_path / "figures.json").read_text())
    (stages,) = found["models"].values()
    assert set(stages) == {"load", "capture", "measure", "command"}
    assert all(each["ratio"] == each["several"] / each["one"] > 0 for each in stages.values())
    assert found["machine"]["processor"] and "2 processes: s" in capsys.readouterr().out
