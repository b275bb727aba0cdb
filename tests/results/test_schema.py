from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from microscope_bench.errors import ResultError
from microscope_bench.results.json_schema import generated_schema, schema, violations
from microscope_bench.results.result import Result
from tests.results.mutations import DOCUMENT, mutations
from tests.results.sample import SAMPLE_FILE, forge

DOCS = Path(__file__).resolve().parents[2] / "docs" / "result_format.md"
RESULTS = Path(__file__).resolve().parents[2] / "results"


def objects() -> dict[str, dict[str, Any]]:
    """Every record of the format by its name."""
    return {name: node for name, node in schema()["$defs"].items() if "properties" in node}


def test_the_shipped_schema_is_what_the_records_make() -> None:
    Draft202012Validator.check_schema(schema())
    assert schema() == generated_schema(), "make it again: python -m microscope_bench.results.json_schema"


def test_every_field_is_described_and_nothing_else_is_allowed() -> None:
    assert len(objects()) == 16
    optional = {"Score": {"replicates"}, "Inputs": {"folds", "copies"}, "ModelInfo": {"template", "peft"}}
    optional |= {"Identity": {"metric_code"}, "Protocol": {"window", "edges", "counted"}}
    for name, node in objects().items():
        assert node["additionalProperties"] is False, name
        assert set(node["properties"]) - set(node["required"]) == optional.get(name, set()), name
        for field, rule in node["properties"].items():
            assert rule["description"].endswith("."), f"{name}.{field}"


def bare(node: Any) -> Iterator[str]:
    """Places of strings, numbers, lists and mappings without a bound."""
    bounds = {"string": ("maxLength", "pattern"), "integer": ("maximum",), "number": ("maximum",)}
    bounds |= {"array": ("maxItems",)}
    if isinstance(node, dict):
        kind = node.get("type")
        if isinstance(kind, str) and kind in bounds and not node.keys() & set(bounds[kind]):
            yield json.dumps(node)
        if kind == "object" and "properties" not in node and "maxProperties" not in node:
            yield json.dumps(node)
        if "maxProperties" in node and "maxLength" not in node.get("propertyNames", {}):
            yield json.dumps(node)
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from bare(value)


def test_every_count_string_list_and_mapping_has_a_largest_size() -> None:
    assert list(bare(schema())) == []
    assert schema()["$defs"]["ModelInfo"]["properties"]["n_layers"]["maximum"] == 10_000


def test_the_page_explains_every_field() -> None:
    text = DOCS.read_text(encoding="utf-8")
    spellings = ("`{}`", ".{}`", "`{}.")  # alone, within its section, or as a section of dotted fields
    names = {field for node in objects().values() for field in node["properties"]}
    assert not {name for name in names if not any(s.format(name) in text for s in spellings)}


@pytest.mark.parametrize(
    "path", [SAMPLE_FILE, *sorted(RESULTS.rglob("shapesqa.json"))], ids=lambda path: f"{path.parts[-3]}/{path.name}"
)
def test_whole_files_follow_the_schema(path: Path) -> None:
    assert violations(path.read_bytes()) == []


@settings(max_examples=400, deadline=None, derandomize=True)
@given(document=mutations())
def test_what_is_read_follows_the_schema(document: dict[str, Any]) -> None:
    try:
        Result.from_dict(forge(document))
    except (ResultError, KeyError, TypeError, AttributeError, ValueError):
        return
    assert violations(json.dumps(document).encode()) == []


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([1.5, -1.0, 0.5, 10**16, "", "a", "a\nb", "a\n", "x" * 501, "hidden", {}]),
    st.lists(st.one_of(st.just("few_tokens"), st.integers(0, 1), st.just("")), max_size=2),
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(field=st.sampled_from(sorted(DOCUMENT["scores"][0])), value=VALUES)
def test_the_reader_and_jsonschema_agree_on_every_field_of_a_score(field: str, value: Any) -> None:
    document = copy.deepcopy(DOCUMENT)
    document["scores"][1][field] = value
    broken = violations(json.dumps(document).encode())
    refused = ""
    try:
        Result.from_dict(forge(document))
    except ResultError as error:
        refused = str(error)
    assert refused if broken else "does not follow the result schema" not in refused


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1, "b": {"a": 1, "a": 2}}', "the key 'a' occurs twice"),
        (b'{"value": NaN}', "null with a reason"),
        (b"[" * 100_000, "not JSON"),
        (b"{}", "15 more|is a required property"),
        (SAMPLE_FILE.read_bytes().replace(b'"layer":1', b'"layer":-1'), r"scores\[\d+\]\.layer: -1 is less than"),
    ],
)
def test_another_library_has_a_second_look(content: bytes, said: str) -> None:
    found = "; ".join(violations(content))
    assert re.search(said, found), found
