"""A result: one model on one task under one protocol, as typed objects and as a file.

``docs/result_format.md`` explains every field. This module and everything it imports is light: no torch, no numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microscope_bench.errors import MicroscopeError, ResultError
from microscope_bench.protocol import Protocol
from microscope_bench.results.document import checksum, parse, to_text, write_atomically
from microscope_bench.results.records import (
    Accuracy,
    DatasetRecord,
    Environment,
    Failure,
    Identity,
    Inputs,
    ModelRecord,
    Score,
    Selection,
    SinkLayer,
    Sinks,
    Skipped,
    TaskRecord,
    Timing,
)
from microscope_bench.results.signature import identity_hash, short_id, signature
from microscope_bench.results.validation import NEWEST, check_document

if TYPE_CHECKING:
    import pandas

__all__ = [
    "COMPLETE",
    "FAILED",
    "SCHEMA_VERSION",
    "Accuracy",
    "DatasetRecord",
    "Environment",
    "Failure",
    "Identity",
    "Inputs",
    "ModelRecord",
    "Result",
    "Score",
    "Selection",
    "SinkLayer",
    "Sinks",
    "Skipped",
    "TaskRecord",
    "Timing",
    "load_result",
    "migrate",
]

SCHEMA_VERSION = NEWEST
COMPLETE, FAILED = "complete", "failed"


def _with_sinks(document: dict[str, Any]) -> dict[str, Any]:
    """Version 2 says which tokens are sinks; version 1 did not look for them."""
    return {**document, "schema_version": 2, "sinks": None}


def _with_halves(document: dict[str, Any]) -> dict[str, Any]:
    """Version 3 knows the token sets ``correct`` and ``wrong``; version 2 had none."""
    return {**document, "schema_version": 3}


MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _with_sinks, 2: _with_halves}
"""Schema version → function that turns a document of that version into one of the next; see :func:`migrate`."""


@dataclass(frozen=True)
class Result:
    """One model on one task under one protocol.

    Attributes:
        identity: what defines comparability.
        inputs: hashes and counts of what went into the model.
        environment: software, hardware, command.
        timing: when, and how long each stage took.
        sinks: the massive-activation tokens of each modality; None in a failed result and in one that did not look.
        scores: the rows; empty in a failed result.
        accuracy: None where the task has no choices that one forward pass can score.
        status: "complete" or "failed".
        error: what ended a failed run; None in a complete one.
        signature: the line it is cited by; made from ``identity`` unless given (a file keeps the one it was made with).
        schema_version: of the file format.
    """

    identity: Identity
    inputs: Inputs
    environment: Environment
    timing: Timing
    scores: tuple[Score, ...] = ()
    accuracy: Accuracy | None = None
    status: str = COMPLETE
    error: Failure | None = None
    signature: str = ""
    schema_version: int = SCHEMA_VERSION
    sinks: tuple[Sinks, ...] | None = None

    def __post_init__(self) -> None:
        if not self.signature:
            line = signature(_plain(self.identity), self.environment.package_version)
            object.__setattr__(self, "signature", line)

    @property
    def identity_hash(self) -> str:
        """64 hex digits over ``identity``: equal for results that may be compared number by number."""
        return identity_hash(_plain(self.identity))

    @property
    def short_id(self) -> str:
        """The 12 hex digits at the end of the signature."""
        return short_id(_plain(self.identity))

    def series(
        self, metric: str, estimator: str, stream: str | None, modality: str, tokens: str = "all"
    ) -> list[Score]:
        """The scores of one metric over the layers, in the order of the layers; empty where there are none."""
        return list(self._by_series.get((metric, estimator, stream, modality, tokens), ()))

    @cached_property
    def _by_series(self) -> dict[tuple[str, str, str | None, str, str], list[Score]]:
        """The scores of each series in the order of the layers: a table asks for dozens of them."""
        found: dict[tuple[str, str, str | None, str, str], list[Score]] = {}
        for score in sorted(self.scores, key=attrgetter("layer")):
            key = (score.metric, score.estimator, score.stream, score.modality, score.tokens)
            found.setdefault(key, []).append(score)
        return found

    def to_dict(self) -> dict[str, Any]:
        """The document as JSON types, in the order of the file, checksum included."""
        order = ("schema_version", "status", "error", "signature", "identity", "inputs", "environment", "timing")
        document = {name: _plain(getattr(self, name)) for name in (*order, "accuracy", "sinks", "scores")}
        return {**document, "checksum": checksum(document)}

    def to_dataframe(self) -> pandas.DataFrame:
        """The scores as a table of pandas: one row per score, its fields behind columns that say what was measured.

        Returns:
            float64 ``value`` and ``stderr`` (NaN where there is none), int64 ``layer``, ``n_tokens`` and
            ``n_examples``, text elsewhere; ``flags`` are joined by ``"; "``. In the order of ``scores``; those of
            several results can be put under each other.

        Raises:
            ResultError: pandas is not installed.
        """
        from microscope_bench.results.data_frame import dataframe

        return dataframe(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Result:
        """The inverse of :meth:`to_dict`; older schema versions are migrated.

        Raises:
            ResultError: not a valid result document.
        """
        try:
            return _build(migrate(document))
        except RecursionError:
            raise ResultError("nested too deeply to be a result") from None

    def save(self, path: str | Path) -> None:
        """Validates the result and writes it, whole or not at all, in place of what was there.

        Raises:
            ResultError: the result breaks the format, or the file cannot be written.
        """
        document = self.to_dict()
        try:
            check_document(document)
        except ResultError as error:
            raise ResultError(f"{path} was not written: {error}") from error
        write_atomically(Path(path), to_text(document))


def load_result(path: str | Path) -> Result:
    """Reads and validates one result file.

    Raises:
        ResultError: missing, truncated, foreign, of a newer schema, against the schema, or edited by hand; the message
            names the file, the place in it, and what to do.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise ResultError(f"cannot read the result file {path}: it is no regular file")
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ResultError(f"cannot read the result file {path}: {reason}") from error
    try:
        return Result.from_dict(parse(data))
    except ResultError as error:
        raise ResultError(f"{path}: {error}") from error


def migrate(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document of any schema version as one of the newest, checked.

    A document is checked under its own version first, then turned step by step into the newest. A migration never
    changes ``identity``: signatures that have been cited stay true.

    Raises:
        ResultError: foreign, newer than this version of the package knows, or invalid.
    """
    if isinstance(document, Mapping) and "lm_eval_version" in document:
        raise ResultError("a result file of lm-eval, not of microscope_bench; those lie below microscope/ beside it")
    if not isinstance(document, Mapping) or not {"schema_version", "signature"} <= document.keys():
        raise ResultError("not a microscope_bench result: it has no schema_version and signature")
    version = document["schema_version"]
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ResultError(f"not a microscope_bench result: schema_version is {str(version)[:40]!r}, not 1, 2, ...")
    if version > SCHEMA_VERSION:
        raise ResultError(
            f"schema_version {version} is newer than {SCHEMA_VERSION}, the newest that this version reads. "
            f"Upgrade microscope_bench: pip install --upgrade microscope-bench"
        )
    current = dict(document)
    check_document(current)
    for step in range(version, SCHEMA_VERSION):
        current = MIGRATIONS[step](current)
        current["checksum"] = checksum(current)
        check_document(current)
    return current


def _plain(value: Any) -> Any:
    """Dataclasses, tuples and mappings as the dicts and lists of JSON."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _build(document: Mapping[str, Any]) -> Result:
    identity, inputs = document["identity"], document["inputs"]
    try:
        protocol = Protocol(**identity["protocol"])
    except MicroscopeError as error:
        raise ResultError(f"identity.protocol: {error}") from error
    return Result(
        schema_version=document["schema_version"],
        status=document["status"],
        error=Failure(**document["error"]) if document["error"] else None,
        signature=document["signature"],
        identity=Identity(
            **{
                **identity,
                "protocol": protocol,
                "model": ModelRecord(**identity["model"]),
                "task": TaskRecord(**identity["task"]),
                "dataset": DatasetRecord(**identity["dataset"]),
                "selection": Selection(**identity["selection"]),
            }
        ),
        inputs=Inputs(**{**inputs, "skipped": tuple(Skipped(**row) for row in inputs["skipped"])}),
        environment=Environment(**document["environment"]),
        timing=Timing(**document["timing"]),
        accuracy=Accuracy(**document["accuracy"]) if document["accuracy"] else None,
        sinks=None if document["sinks"] is None else tuple(map(_sinks, document["sinks"])),
        scores=tuple(map(_score, document["scores"])),
    )


def _score(row: Mapping[str, Any]) -> Score:
    """A row whose fields the schema has checked; the ``__init__`` of a frozen dataclass takes three times as long, and
    a leaderboard reads half a million rows.
    """
    score = object.__new__(Score)
    score.__dict__.update(row, flags=tuple(row["flags"]))
    return score


def _sinks(row: Mapping[str, Any]) -> Sinks:
    layers = tuple(SinkLayer(**{**layer, "dimensions": tuple(layer["dimensions"])}) for layer in row["layers"])
    return Sinks(**{**row, "layers": layers})
