"""A result: one model on one task under one protocol, as typed objects and as a file.

``docs/result_format.md`` explains every field. This module and everything it imports is light: no torch, no numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, structs

from microscope_bench.errors import MicroscopeError, ResultError
from microscope_bench.identity import Identity
from microscope_bench.results import contradictions
from microscope_bench.results.document import to_text, write_atomically
from microscope_bench.results.records import Accuracy, Environment, Failure, Inputs, Score, Sinks, Timing
from microscope_bench.system.disk import read_regular
from microscope_bench.system.field_types import Sha256, content_sha256, place_and_rule

if TYPE_CHECKING:
    import pandas

SCHEMA_VERSION: Literal[1] = 1
COMPLETE: Literal["complete"] = "complete"
FAILED: Literal["failed"] = "failed"

LARGEST_FILE = 50_000_000
"""Bytes of a result file, at most: several times what a run of all metrics on 80 layers writes."""

_LONGEST_MESSAGE = 300
_SHOWN = 5


class Result(Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """One model on one task under one protocol.

    Attributes:
        schema_version: Version of this format.
        status: Failed for a run that an error ended; it has no scores.
        error: What ended a failed run; null in a complete result.
        signature: The line by which the result is cited; it ends with a hash of identity.
        identity: Everything that decides whether two results may be compared.
        inputs: What went into the model.
        environment: Software, hardware, command.
        timing: When, and how long.
        accuracy: Share of examples answered rightly; null where the task has no choices that one pass can score.
        sinks: Massive-activation tokens, per modality; empty in a failed result.
        scores: One row per metric, estimator, stream, modality, token set and layer; empty in a failed result.
    """

    schema_version: Literal[1]
    status: Literal["complete", "failed"]
    error: Failure | None
    signature: Annotated[str, Meta(max_length=10_000, pattern=r"^[A-Za-z0-9/:@|=.,%+~_-]+\|id:[0-9a-f]{12}(?![\s\S])")]
    identity: Identity
    inputs: Inputs
    environment: Environment
    timing: Timing
    accuracy: Accuracy | None
    sinks: Annotated[tuple[Sinks, ...], Meta(max_length=10)]
    scores: Annotated[tuple[Score, ...], Meta(max_length=1_000_000)]

    def signed(self) -> Result:
        """The same result with the signature that its identity and its package version make."""
        return structs.replace(self, signature=self.identity.signature(self.environment.package_version))

    @property
    def identity_hash(self) -> str:
        """64 hex digits over ``identity``: equal for results that may be compared number by number."""
        return self.identity.hash

    @property
    def short_id(self) -> str:
        """The 12 hex digits at the end of the signature."""
        return self.identity.short_id

    @property
    def computed_checksum(self) -> str:
        """64 hex digits: SHA-256 of the result as JSON without blanks, keys sorted."""
        return content_sha256(self)

    def series(
        self, metric: str, estimator: str, stream: str | None, modality: str, tokens: str = "all"
    ) -> list[Score]:
        """The scores of one metric over the layers, in the order of the layers; empty where there are none."""
        return list(self.by_series.get((metric, estimator, stream, modality, tokens), ()))

    @cached_property
    def by_series(self) -> dict[tuple[str, str, str | None, str, str], list[Score]]:
        """The scores by metric, estimator, stream, modality and token set, each list in the order of the layers."""
        found: dict[tuple[str, str, str | None, str, str], list[Score]] = {}
        for score in sorted(self.scores, key=attrgetter("layer")):
            key = (score.metric, score.estimator, score.stream, score.modality, score.tokens)
            found.setdefault(key, []).append(score)
        return found

    def to_dict(self) -> dict[str, Any]:
        """The document as built-in types, arrays as tuples, in the order of the file, checksum included."""
        return {**msgspec.to_builtins(self), "checksum": self.computed_checksum}

    def to_dataframe(self) -> pandas.DataFrame:
        """The scores as a table of pandas: one row per score, its fields behind columns that say what was measured.

        Returns:
            float64 ``value`` and ``stderr`` (NaN where there is none), int64 ``layer``, ``n_tokens`` and
            ``n_examples``, text elsewhere; ``flags`` are joined by ``"; "``. In the order of ``scores``; those of
            several results can be put under each other.

        Raises:
            ResultError: pandas is not installed.
        """
        from microscope_bench.results.data_frame import dataframe, identity_columns

        return dataframe(identity_columns(self.identity, self.inputs.n_examples, self.signature), self.scores)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Result:
        """The inverse of :meth:`to_dict`.

        Raises:
            ResultError: not a valid result document.
        """
        return _checked(lambda kind: msgspec.convert(document, kind))

    def save(self, path: str | Path) -> None:
        """Validates the result and writes it, whole or not at all, in place of what was there.

        Raises:
            ResultError: the result breaks the format, or the file cannot be written.
        """
        try:
            document = self.to_dict()
            Result.from_dict(document)
        except MicroscopeError as error:
            raise ResultError(f"{path} was not written: {error}") from error
        write_atomically(Path(path), to_text(document))


class ResultFile(Result, frozen=True):
    """One model on one task under one protocol. docs/result_format.md lists the rules that a JSON Schema cannot say.

    Attributes:
        checksum: SHA-256 of everything else. It finds accidents and edits, not forgery.
    """

    checksum: Sha256


def load_result(path: str | Path) -> Result:
    """Reads and validates one result file.

    Raises:
        ResultError: missing, truncated, foreign, of a newer schema, against the schema, or edited by hand; the message
            names the file, the place in it, and what to do.
    """
    data = read_bytes(path)
    try:
        return _checked(lambda kind: msgspec.json.decode(data, type=kind))
    except ResultError as error:
        raise ResultError(f"{path}: {error}") from None


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a result file; a ResultError where it is missing, no regular file, or larger than any result."""
    try:
        return read_regular(Path(path), LARGEST_FILE)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ResultError(f"cannot read the result file {path}: {reason}") from error


def _checked(as_type: Callable[[type], Any]) -> Result:
    """A result from what ``as_type`` makes of a file, held against every rule."""
    try:
        file: ResultFile = as_type(ResultFile)
    except msgspec.ValidationError as error:
        raise ResultError(_foreign(as_type) or f"does not follow the result schema: {place_and_rule(error)}") from None
    except msgspec.DecodeError as error:
        what = f"not complete JSON ({error}): truncated or damaged (NaN is not a JSON number)"
        raise ResultError(f"{what}. Copy it again or repeat the run") from None
    except RecursionError:
        raise ResultError("nested too deeply to be a result file") from None
    result = Result(*(getattr(file, name) for name in Result.__struct_fields__))
    _check_rules(result)
    expected = f"|{result.identity.signature_end(result.environment.package_version)}"
    if not result.signature.endswith(expected):
        raise ResultError(
            f"the identity does not belong to the signature (it makes {expected[-_LONGEST_MESSAGE:]}, the file says "
            f"{result.signature[-_LONGEST_MESSAGE:]}): it was edited after the run. Take the original file, or repeat "
            f"the run"
        )
    if file.checksum != result.computed_checksum:
        raise ResultError(
            "the content does not match its checksum: it was edited or damaged after it was written. Take the original "
            "file, or repeat the run"
        )
    return result


def _check_rules(result: Result) -> None:
    n_layers = result.identity.model.n_layers
    broken = [
        *(_in_failed(result) if result.status == FAILED else _in_complete(result)),
        *(contradictions.in_value("accuracy", result.accuracy) if result.accuracy else ()),
        *contradictions.in_sinks(result.sinks, n_layers),
        *contradictions.in_scores(result.scores, result.identity.metrics, n_layers),
    ]
    if broken:
        rest = f" (and {len(broken) - _SHOWN} more)" if len(broken) > _SHOWN else ""
        raise ResultError(f"contradicts itself: {'; '.join(broken[:_SHOWN])}{rest}")


def _in_failed(result: Result) -> Iterator[str]:
    if result.error is None:
        yield "error: a failed result says why"
    if result.scores or result.accuracy or result.sinks:
        yield "scores, accuracy, sinks: a failed result has none"


def _in_complete(result: Result) -> Iterator[str]:
    inputs = result.inputs
    if result.error is not None:
        yield "error: a complete result has none"
    if not result.scores:
        yield "scores: a complete result has at least one"
    if inputs.n_examples < 1:
        yield "inputs.n_examples: a complete result measured at least one example"
    for name in ("examples_sha256", "tokens_sha256"):
        if getattr(inputs, name) is None:
            yield f"inputs.{name}: null only in a failed result"


class _Head(Struct):
    """What tells whose file it is."""

    schema_version: Any = None
    signature: Any = None
    lm_eval_version: Any = None


def _foreign(as_type: Callable[[type], Any]) -> str:
    """Why a document is no result of this version at all, or "" where it is one with an error in it."""
    try:
        head: _Head = as_type(_Head)
    except (msgspec.DecodeError, RecursionError):
        head = _Head()
    if head.lm_eval_version is not None:
        return "a result file of lm-eval, not of microscope_bench; those lie below microscope/ beside it"
    if head.schema_version is None or head.signature is None:
        return "not a microscope_bench result: it has no schema_version and signature"
    version = head.schema_version
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        return f"not a microscope_bench result: schema_version is {str(version)[:40]!r}, not 1, 2, ..."
    if version > SCHEMA_VERSION:
        return (
            f"schema_version {version} is newer than {SCHEMA_VERSION}, the newest that this version reads. "
            f"Upgrade microscope_bench: pip install --upgrade microscope-bench"
        )
    return ""
