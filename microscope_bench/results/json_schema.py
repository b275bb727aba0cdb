"""The JSON Schema (2020-12) of a result file, made from the typed records, and files held against it.

    python -m microscope_bench.results.json_schema

writes ``schema/result.v1.json`` anew after a record was changed.
"""

from __future__ import annotations

import inspect
import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from microscope_bench import identity
from microscope_bench.results import records, result
from microscope_bench.system.docstrings import described_attributes

LOOKED_AT = 10_000
"""Scores of a file that are held against the JSON Schema, the first ones: at 0.3 ms each, more take minutes."""

_SHOWN = 5
_LONGEST_MESSAGE = 160


def generated_schema() -> dict[str, Any]:
    """The schema that the records make; each field has its line under "Attributes" for a description."""
    made = msgspec.json.schema(result.ResultFile)
    classes = {**vars(identity), **vars(records), **vars(result)}
    for name, definition in made["$defs"].items():
        record = classes[name]
        lines = {field: line for parent in record.__mro__ for field, line in described_attributes(parent).items()}
        definition["description"] = (inspect.getdoc(record) or "").split("\n\n")[0].replace("\n", " ")
        definition["properties"] = {
            field: {"description": lines[field], **rule} for field, rule in definition["properties"].items()
        }
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:microscope_bench:result:v{result.SCHEMA_VERSION}",
        "title": f"microscope_bench result, version {result.SCHEMA_VERSION}",
    }
    document: dict[str, Any] = json.loads(json.dumps({**head, **made}))  # the default () is [] there
    return document


def schema() -> dict[str, Any]:
    """The schema as it is shipped."""
    document: dict[str, Any] = json.loads(_file().read_text(encoding="utf-8"))
    return document


def violations(data: bytes) -> list[str]:
    """Where a file breaks the JSON Schema, or the JSON standard, by the word of others' code.

    Reading a result asks msgspec, this asks Python's own parser and jsonschema. It is too slow for every reading, and
    for more than the first :data:`LOOKED_AT` scores.
    """
    try:
        document = json.loads(data, parse_constant=_no_constant, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        return [f"not JSON as the standard defines it: {error}"]
    if isinstance(document, dict) and isinstance(scores := document.get("scores"), list):
        del scores[LOOKED_AT:]
    found = sorted(_validator().iter_errors(document), key=lambda error: list(map(str, error.path)))
    more = [f"{len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    return [_place_and_rule(error) for error in found[:_SHOWN]] + more


@cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(schema())


def _place_and_rule(error: Any) -> str:
    message = error.message if len(error.message) <= _LONGEST_MESSAGE else f"…{error.message[-_LONGEST_MESSAGE:]}"
    return f"{error.json_path.removeprefix('$.')}: {message} ({error.validator})"


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number; a missing value is null with a reason")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice in one object")
    return document


def _file() -> Path:
    return Path(str(files("microscope_bench.results"))) / "schema" / f"result.v{result.SCHEMA_VERSION}.json"


if __name__ == "__main__":
    _file().write_text(json.dumps(generated_schema(), indent=2, ensure_ascii=True) + "\n", encoding="utf-8")
