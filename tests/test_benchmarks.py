"""Every script that measures can be imported: what it takes from the package is there."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_it_can_be_imported(script: Path) -> None:
    importlib.import_module(f"benchmarks.{script.stem}")
