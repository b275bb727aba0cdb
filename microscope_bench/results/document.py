"""The JSON text of a result: read strictly, hashed canonically, written atomically."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from microscope_bench.errors import ResultError
from microscope_bench.system.disk import write_whole

_LONGEST_INTEGER = 18  # digits; every such integer fits into 64 bits


def canonical(document: Any) -> str:
    """The one spelling of a JSON value that hashes are made of: sorted keys, no blanks, ASCII."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=repr)


def sha256(text: str) -> str:
    """64 hex digits: SHA-256 of the text in UTF-8."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def checksum(document: Mapping[str, Any]) -> str:
    """64 hex digits over everything in a result document but its ``checksum``.

    It finds accidents and edits by hand. It is no protection against forgery: whoever changes a number on purpose can
    compute it anew.
    """
    return sha256(canonical({key: value for key, value in document.items() if key != "checksum"}))


def parse(data: bytes) -> Any:
    """Reads JSON as the standard defines it, and nothing more.

    Raises:
        ResultError: not UTF-8, not JSON, cut off, nested too deeply, a key that occurs twice, NaN, infinity, or a
            number that no measurement yields.
    """
    try:
        return json.loads(
            data.decode("utf-8"),
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_integer,
            object_pairs_hook=_unique_keys,
        )
    except RecursionError:
        raise ResultError("nested too deeply to be a result file") from None
    except UnicodeDecodeError as error:
        raise ResultError(f"not UTF-8 text (byte {error.start}): damaged, or not a result file") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ResultError(
            f"not complete JSON ({error.msg}, {place}): truncated or damaged. Copy it again or repeat the run"
        ) from None
    except ValueError as error:
        raise ResultError(f"not a result file: {error}") from None


def to_text(document: Mapping[str, Any]) -> str:
    """The file's text: sections indented, one score per line, keys in the order of the document."""
    sections = []
    for key, value in document.items():
        if key == "scores" and value:
            body = "[\n" + ",\n".join("    " + _one_line(row) for row in value) + "\n  ]"
        else:
            body = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).replace("\n", "\n  ")
        sections.append(f"  {json.dumps(key)}: {body}")
    return "{\n" + ",\n".join(sections) + "\n}\n"


def write_atomically(path: Path, text: str) -> None:
    """Writes a file so that it is there whole or not at all; missing directories are made.

    Raises:
        ResultError: the file cannot be written; what was there before is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode("utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ResultError(
            f"cannot write {path}: {reason}. Free some space, or choose a directory that you may write to "
            f"(--output_path)"
        ) from error


def _one_line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number; a missing value is null with a reason")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def _integer(text: str) -> int:
    if len(text) > _LONGEST_INTEGER and len(text.lstrip("-")) > _LONGEST_INTEGER:
        raise ValueError(f"the integer {text[:40]} is too large")
    return int(text)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} occurs twice in one object")
    return document
