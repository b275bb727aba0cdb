"""Whether a document is a valid result: the JSON Schema, the rules a schema cannot say, and the checksum."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from operator import itemgetter
from typing import Any

from jsonschema import Draft202012Validator, ValidationError, validators

from microscope_bench.errors import ResultError
from microscope_bench.results.document import checksum
from microscope_bench.results.quick_check import Check, is_integer, is_number, is_string, quick_check
from microscope_bench.results.signature import short_id

NEWEST = 3
"""The newest version of the result format."""

_SHOWN = 5
_series_and_layer = itemgetter("metric", "estimator", "stream", "modality", "tokens", "layer")
_LONGEST_MESSAGE = 160


def schema(version: int = NEWEST) -> dict[str, Any]:
    """The JSON Schema (2020-12) of one version of the result format."""
    text = (files("microscope_bench.results") / "schema" / f"result.v{version}.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


def check_document(document: Mapping[str, Any]) -> None:
    """Raises unless the document is a valid result of its own schema version, as it was written.

    Raises:
        ResultError: with the place and the rule of the first few violations, or saying that the file was edited.
    """
    version = document["schema_version"]
    if not _quick_check(version)(document):
        errors = _validator(version).iter_errors(document)
        found = sorted(errors, key=lambda error: list(error.path)[:1])
        if found:
            _refuse("does not follow the result schema", (_describe(error) for error in found), len(found))
    broken = list(_broken_rules(document))
    if broken:
        _refuse("contradicts itself", broken, len(broken))
    _check_unedited(document)


def _check_unedited(document: Mapping[str, Any]) -> None:
    expected = f"|id:{short_id(document['identity'])}"
    if not document["signature"].endswith(expected):
        raise ResultError(
            f"the identity does not belong to the signature (it hashes to {expected[1:]}, the signature says "
            f"{document['signature'][-15:]}): it was edited after the run. Take the original file, or repeat the run"
        )
    if document["checksum"] != checksum(document):
        raise ResultError(
            "the content does not match its checksum: it was edited or damaged after it was written. Take the original "
            "file, or repeat the run"
        )


def _broken_rules(document: Mapping[str, Any]) -> Iterator[str]:
    """What no JSON Schema says clearly; expects a document that follows the schema."""
    identity, scores = document["identity"], document["scores"]
    if document["status"] == "failed":
        if document["error"] is None:
            yield "error: a failed result says why"
        if scores or document["accuracy"]:
            yield "scores, accuracy: a failed result has none"
    else:
        if document["error"] is not None:
            yield "error: a complete result has none"
        if not scores:
            yield "scores: a complete result has at least one"
        if identity["n_examples"] < 1:
            yield "identity.n_examples: a complete result measured at least one example"
        for section, name in (
            ("identity", "example_ids_sha256"),
            ("identity", "prompt_sha256"),
            ("inputs", "tokens_sha256"),
        ):
            if document[section][name] is None:
                yield f"{section}.{name}: null only in a failed result"
    if document["accuracy"] is not None:
        yield from _broken_value("accuracy", document["accuracy"])

    n_layers = identity["model"]["n_layers"]
    yield from _broken_sinks(document.get("sinks") or (), n_layers)
    metrics, seen = identity["metrics"], dict[tuple[object, ...], int]()
    for index, row in enumerate(scores):
        yield from _broken_value("scores", row, index)
        if row["layer"] > n_layers:
            yield f"scores[{index}].layer: {row['layer']} lies outside 0..{n_layers}"
        if row["metric"] not in metrics:
            yield f"scores[{index}].metric: {row['metric']!r} has no version in identity.metrics"
        key = _series_and_layer(row)
        first = seen.setdefault(key, index)
        if first != index:
            yield f"scores[{index}]: the same metric, estimator, stream, modality, tokens and layer as scores[{first}]"


def _broken_sinks(sinks: Iterable[Mapping[str, Any]], n_layers: int) -> Iterator[str]:
    modalities: set[str] = set()
    for index, row in enumerate(sinks):
        where = f"sinks[{index}]"
        if row["modality"] in modalities:
            yield f"{where}: a second entry for {row['modality']}"
        modalities.add(row["modality"])
        if not row["n_examples"] <= row["n_sinks"] <= row["n_tokens"]:
            yield f"{where}: {row['n_sinks']} sinks of {row['n_examples']} examples among {row['n_tokens']} tokens"
        if row["layers"] and [layer["layer"] for layer in row["layers"]] != list(range(n_layers + 1)):
            yield f"{where}.layers: one entry per boundary 0..{n_layers} in order, or none"


def _broken_value(section: str, row: Mapping[str, Any], index: int | None = None) -> Iterator[str]:
    where = section if index is None else f"{section}[{index}]"
    if (row["value"] is None) == (row["reason"] is None):
        yield f"{where}: either a value or a reason, {'both' if row['reason'] is not None else 'neither'} is there"
    elif row["value"] is None and row["stderr"] is not None:
        yield f"{where}.stderr: a standard error without a value"


def _refuse(verdict: str, problems: Iterable[str], count: int) -> None:
    shown = [text for text, _ in zip(problems, range(_SHOWN), strict=False)]
    rest = f" (and {count - len(shown)} more)" if count > len(shown) else ""
    raise ResultError(f"{verdict}: {'; '.join(shown)}{rest}")


def _describe(error: ValidationError) -> str:
    place = ""
    for step in error.absolute_path:
        if isinstance(step, str) and step.isidentifier():
            place += f".{step}"
        else:
            place += f"[{step!r}]"
    message = error.message
    if len(message) > _LONGEST_MESSAGE:
        message = f"…{message[-_LONGEST_MESSAGE:]}"
    return f"{place.removeprefix('.') or 'the document'}: {message} ({error.validator})"


@cache
def _validator(version: int) -> Draft202012Validator:
    # stricter than the standard's types where those would let through what no file of ours holds: 3.0 as an integer,
    # NaN and infinity (which Python's floats have) as numbers
    types = Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda _, value: is_integer(value),
            "number": lambda _, value: is_number(value),
            "string": lambda _, value: is_string(value),
        }
    )
    strict = validators.extend(Draft202012Validator, type_checker=types)  # type: ignore[no-untyped-call]
    validator: Draft202012Validator = strict(schema(version))
    return validator


@cache
def _quick_check(version: int) -> Check:
    """Whether a document follows the schema for certain; :func:`_validator` says what is wrong with another."""
    document = schema(version)
    return quick_check(document, document["$defs"])
