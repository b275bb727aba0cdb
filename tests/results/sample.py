"""The example result, and variants of it."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from microscope_bench.errors import MicroscopeError
from microscope_bench.identity import SHORT_ID_LENGTH, Identity
from microscope_bench.protocol import Protocol
from microscope_bench.results.records import Failure, Score
from microscope_bench.results.result import COMPLETE, FAILED, Result, load_result

SAMPLE_FILE = Path(__file__).with_name("sample.json")


def sample(*, model: dict[str, Any] | None = None, protocol: Protocol | None = None, **identity: Any) -> Result:
    """The example result with another identity; signed anew."""
    result = load_result(SAMPLE_FILE)
    changed = replace(
        result.identity,
        model=replace(result.identity.model, **(model or {})),
        protocol=protocol or result.identity.protocol,
        **identity,
    )
    return signed(replace(result, identity=changed))


def signed(result: Result) -> Result:
    """The same result with the signature that its identity and its package version make."""
    return replace(result, signature=result.identity.signature(result.environment.package_version))


def failed(result: Result) -> Result:
    """The same run, ended by an error."""
    error = Failure("CaptureError", "boundary 3 came where boundary 2 was expected", "capture")
    return replace(result, status=FAILED, error=error, scores=(), sinks=(), accuracy=None)


def with_scores(result: Result, change: Callable[[Score], Score | None]) -> Result:
    """The result with each score changed, or dropped where ``change`` gives None."""
    assert result.status == COMPLETE
    return replace(result, scores=tuple(new for score in result.scores if (new := change(score)) is not None))


def digest(document: Any) -> str:
    return sha256(msgspec.json.encode(document, order="sorted")).hexdigest()


def forge(document: dict[str, Any]) -> dict[str, Any]:
    """Makes an edited document consistent again: what somebody who means it can do."""
    try:
        identity = msgspec.convert(document["identity"], Identity)
        document["signature"] = identity.signature(document["environment"]["package_version"])
    except (msgspec.ValidationError, MicroscopeError, KeyError, TypeError):
        identity_id = digest(document["identity"])[:SHORT_ID_LENGTH]
        document["signature"] = document["signature"].rpartition("|id:")[0] + f"|id:{identity_id}"
    document["checksum"] = digest({key: value for key, value in document.items() if key != "checksum"})
    return document
