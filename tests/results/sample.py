"""The committed example result, and variants of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from microscope_bench.protocol import Protocol
from microscope_bench.results.document import checksum
from microscope_bench.results.result import COMPLETE, FAILED, Failure, Result, Score, load_result
from microscope_bench.results.signature import short_id

HISTORIC = Path(__file__).resolve().parents[1] / "historic"
SAMPLE_FILE = HISTORIC / "result.v3.json"


def sample(*, model: dict[str, Any] | None = None, protocol: Protocol | None = None, **identity: Any) -> Result:
    """The example result with another identity; signed anew."""
    result = load_result(SAMPLE_FILE)
    changed = replace(
        result.identity,
        model=replace(result.identity.model, **(model or {})),
        protocol=protocol or result.identity.protocol,
        **identity,
    )
    return replace(result, identity=changed, signature="")


def failed(result: Result) -> Result:
    """The same run, ended by an error."""
    error = Failure("CaptureError", "boundary 3 came where boundary 2 was expected", "capture")
    return replace(result, status=FAILED, error=error, scores=(), sinks=None, accuracy=None)


def with_scores(result: Result, change: Callable[[Score], Score | None]) -> Result:
    """The result with each score changed, or dropped where ``change`` gives None."""
    assert result.status == COMPLETE
    return replace(result, scores=tuple(new for score in result.scores if (new := change(score)) is not None))


def forge(document: dict[str, Any]) -> dict[str, Any]:
    """Makes an edited document consistent again: what somebody who means it can do."""
    identity_id = short_id(document["identity"])
    document["signature"] = document["signature"].rpartition("|id:")[0] + f"|id:{identity_id}"
    document["checksum"] = checksum(document)
    return document
