"""Whatever happens to a file: a ResultError or the same Result, never another exception."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from microscope_bench.errors import ResultError
from microscope_bench.publish.terminal import summary_table
from microscope_bench.results.result import Result, load_result
from tests.publish.small import render
from tests.results.mutations import DOCUMENT, damages, mutations
from tests.results.sample import forge

QUICK = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


def load(path: Path, content: bytes) -> Result | None:
    path.write_bytes(content)
    try:
        return load_result(path)
    except ResultError as error:
        str(error).encode()  # can be printed
        return None


@QUICK
@given(content=damages())
def test_bytes(tmp_path: Path, content: bytes) -> None:
    loaded = load(tmp_path / "x.json", content)
    assert loaded is None or loaded == Result.from_dict(DOCUMENT)


@QUICK
@given(document=mutations())
def test_fields(tmp_path: Path, document: dict[str, Any]) -> None:
    loaded = load(tmp_path / "x.json", json.dumps(document).encode())
    assert loaded is None or loaded == Result.from_dict(DOCUMENT)


@QUICK
@given(document=mutations())
def test_fields_of_a_forged_file_that_passes_its_checksum(tmp_path: Path, document: dict[str, Any]) -> None:
    """With a fitting checksum the schema alone stands guard; what it lets through can be saved and published."""
    try:
        forge(document)
    except (KeyError, TypeError, AttributeError, ValueError):
        return  # no signature or no identity left to make fit
    loaded = load(tmp_path / "x.json", json.dumps(document).encode())
    if loaded is not None:
        loaded.save(tmp_path / "y.json")
        assert load_result(tmp_path / "y.json") == loaded
        assert render([("x.json", loaded)]).encode()
        assert summary_table(loaded)


@pytest.mark.parametrize("n_files", [8, pytest.param(3000, marks=pytest.mark.heavy)])
def test_no_reader_falls_over_a_file_or_takes_long(tmp_path: Path, n_files: int) -> None:
    """In 4 GB of address space."""
    command = [sys.executable, "-m", "tests.results.campaign", str(n_files)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
