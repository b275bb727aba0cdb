"""``run --tap`` measures where it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from microscope_bench import load_result
from microscope_bench.cli.main import main


def test_a_tap_on_the_command_line_reaches_the_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = "run --model zoo-llava --tasks shapesqa --limit 8 --quiet --metrics anisotropy --tap vision"
    assert main(command.split()) == 0
    (file,) = Path("results").rglob("*~vision.json")
    result = load_result(file)
    assert result.identity.model.options == {"tap": "vision"}
    assert {score.modality for score in result.scores} == {"image"}
