"""The scripts that measure scale and start-up run, and say what they promise."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def measured(script: str, tmp_path: Path, *options: str) -> dict:
    target = tmp_path / "measured.json"
    command = [sys.executable, str(BENCHMARKS / script), "--quick", "--json", str(target), *options]
    subprocess.run(command, check=True, capture_output=True)
    return json.loads(target.read_text())


@pytest.mark.heavy
def test_scaling(tmp_path: Path) -> None:
    found = measured("scaling.py", tmp_path, "--only", "examples", "--stages", "capture", "check", "read")
    rows = found["examples"]
    assert [(row["stage"], row["examples"]) for row in rows] == [
        (stage, n) for stage in ("capture", "check", "read") for n in (32, 96)
    ]
    assert all(row["seconds"] > 0 and row["peak_mib"] > 50 for row in rows) and found["machine"]["threads"] > 0


@pytest.mark.heavy
def test_startup(tmp_path: Path) -> None:
    found = measured("startup.py", tmp_path)["startup"]
    assert found["--help"]["cpu"] < found["import torch"]["cpu"]
