"""Whatever happens to a file: a ResultError or the same Result, never another exception."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from microscope_bench.errors import ResultError
from microscope_bench.publish.leaderboard.markdown_page import render
from microscope_bench.publish.terminal import summary_table
from microscope_bench.results.result import Result, load_result
from tests.results.sample import SAMPLE_FILE, forge

ORIGINAL = load_result(SAMPLE_FILE)
# few rows, so that most mutations hit something else than a row
DOCUMENT: dict[str, Any] = forge(ORIGINAL.to_dict() | {"scores": ORIGINAL.to_dict()["scores"][:4]})
BYTES = json.dumps(DOCUMENT).encode()

QUICK = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)

deep: Any = 0
for _ in range(300):
    deep = [deep]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["\ud800", "\0", "a\nb", "x" * 100_000, 10**400, deep, {}, [], {"": {}}, {"\ud800": 1}]),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def places(node: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    steps = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [at, *(place for key, value in steps for place in places(value, (*at, key)))]


PLACES = places(DOCUMENT)[1:]


@st.composite
def mutations(draw: st.DrawFn) -> dict[str, Any]:
    changed = copy.deepcopy(DOCUMENT)
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from(PLACES))
        try:
            at: Any = changed
            for step in parents:
                at = at[step]
            match draw(st.sampled_from(["replace", "delete", "add", "repeat"])):
                case "replace":
                    at[last] = draw(VALUES)
                case "delete":
                    del at[last]
                case "add" if isinstance(at, dict):
                    at[draw(st.text(max_size=5))] = draw(VALUES)
                case _ if isinstance(at, list):
                    at.append(at[last])
        except (KeyError, IndexError, TypeError):
            continue  # an earlier mutation took this place away
    return changed


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
