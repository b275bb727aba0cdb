"""The quick check lets nothing through that jsonschema refuses, and every whole file of ours."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microscope_bench.results.quick_check import quick_check
from microscope_bench.results.validation import NEWEST, _quick_check, _validator, schema
from tests.results.mutations import DOCUMENT, mutations
from tests.results.sample import HISTORIC

RESULTS = Path(__file__).resolve().parents[2] / "results"
FILES = sorted([*HISTORIC.glob("*.json"), *RESULTS.rglob("shapesqa.json")])


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parts[-3]}/{path.name}")
def test_whole_files_need_no_second_look(path: Path) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    assert _quick_check(document["schema_version"])(document)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(document=mutations())
def test_what_it_lets_through_follows_the_schema(document: dict[str, Any]) -> None:
    if _quick_check(NEWEST)(document):
        assert not list(_validator(NEWEST).iter_errors(document))


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([0.0, 1.0, -1.0, 0.5, float("inf"), float("nan"), "", "a", "a\nb", "x" * 501, "\ud800", "hidden"]),
    st.lists(st.one_of(st.just("few_tokens"), st.integers(0, 1), st.just("")), max_size=2),
    st.just({}),
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(values=st.lists(st.tuples(st.sampled_from(sorted(DOCUMENT["scores"][0])), VALUES), min_size=1, max_size=3))
def test_columns_hide_no_row(values: list[tuple[str, Any]]) -> None:
    """Fields of some rows changed, to values that may equal a right one's in another type; agreement both ways."""
    document = copy.deepcopy(DOCUMENT)
    for index, (field, value) in enumerate(values):
        document["scores"][index][field] = value
    assert _quick_check(NEWEST)(document) == (not list(_validator(NEWEST).iter_errors(document)))


@pytest.mark.parametrize(
    "rule",
    [
        {"anyOf": [{"type": "null"}]},
        {"type": "array", "minItems": 1},
        {"enum": [1, 2]},
        {"type": "object", "properties": {"a": {}}, "required": [], "additionalProperties": False},
    ],
)
def test_a_schema_that_it_does_not_know_is_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="the quick check knows"):
        quick_check(rule, {})


def test_every_schema_version_is_known() -> None:
    for version in range(1, NEWEST + 1):
        check = quick_check(schema(version), schema(version)["$defs"])
        assert not check({}), "an empty document is no result"
