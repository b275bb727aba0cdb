"""Checksums of what a token store holds, by which damage is found, and the differences between two runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def file_sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def signed(document: Mapping[str, Any]) -> bytes:
    return json.dumps({**document, "sha256": own_sha256(document)}, indent=1, allow_nan=False).encode()


def own_sha256(document: Mapping[str, Any]) -> str:
    """64 hex digits: SHA-256 of everything in a JSON document but its key ``sha256``."""
    content = {key: value for key, value in document.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def named_differences(a: Any, b: Any) -> str:
    """The first six places, as ``model.dtype``, where two JSON values differ; "" where they are equal."""
    return ", ".join(sorted(_differences(a, b))[:6])


def _differences(a: Any, b: Any, at: str = "") -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in {*a, *b}:
            yield from _differences(a.get(key), b.get(key), f"{at}.{key}" if at else str(key))
    elif a != b:
        yield at
