"""Whatever happens to a file: a ResultError or the same Result, never another exception."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from microscope_bench.errors import ResultError
from microscope_bench.publish.terminal import summary_table
from microscope_bench.results.result import Result, load_result
from tests.publish.small import render
from tests.results.mutations import BYTES, DOCUMENT, mutations
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
@given(data=st.data())
def test_bytes(tmp_path: Path, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(BYTES)))
    end = data.draw(st.integers(start, min(len(BYTES), start + 20)))
    content = BYTES[:start] + data.draw(st.binary(max_size=20)) + BYTES[end:]
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
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
