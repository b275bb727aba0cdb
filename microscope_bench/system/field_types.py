"""Types of the fields of our JSON files, and what is told of their content: its hash, and how two of them differ.

The bounds keep a hostile file from costing its reader memory or time.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from hashlib import sha256
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from microscope_bench.errors import MicroscopeError
from microscope_bench.system.printable import UNSEEN, printable, seen

# (?![\s\S]) is the end of the text both in Python and in ECMA-262; Python's $ lets a last line break through
ONE_LINE = rf"^[^{UNSEEN}]+(?![\s\S])"
Name = Annotated[str, Meta(min_length=1, max_length=500, pattern=ONE_LINE)]
"""One line of text, of which every character is seen."""

Label = Annotated[str, Meta(min_length=1, max_length=500, extra_json_schema={"pattern": ONE_LINE})]
"""A name that thousands of rows repeat: whoever reads them holds the distinct ones against the pattern."""

LONGEST_TEXT = 10_000
Text = Annotated[str, Meta(max_length=LONGEST_TEXT)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}(?![\s\S])")]
Version = Annotated[int, Meta(ge=1, le=1_000_000)]

Count = Annotated[int, Meta(ge=0, le=10**15)]
Layer = Annotated[int, Meta(ge=0, le=10_000)]
Width = Annotated[int, Meta(ge=1, le=10_000_000)]

Finite = Annotated[float, Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
"""A number; NaN and infinity do not pass."""

NotNegative = Annotated[float, Meta(ge=0, le=sys.float_info.max)]
Share = Annotated[float, Meta(ge=0, le=1)]


def content_sha256(content: Any) -> str:
    """64 hex digits: SHA-256 of structs and JSON types as JSON without blanks, keys sorted."""
    try:
        return sha256(msgspec.json.encode(content, order="sorted")).hexdigest()
    except UnicodeEncodeError as error:
        text = error.object.encode("utf-8", "backslashreplace").decode()
        raise MicroscopeError(f"{text!r} is no Unicode text, which no result file can hold; rename it") from error


def place_and_rule(error: msgspec.ValidationError) -> str:
    """What msgspec says of JSON that breaks a type, the place before the rule, in at most 300 characters."""
    said = str(error).replace(f"`str` matching regex {ONE_LINE!r}", "text without unseen characters")
    rule, _, place = said.rpartition(" - at ")
    place = re.sub(r"\$\.?", "", place.replace("`", "")) or "the document"
    text = printable(f"{place}: {rule}" if rule else said)
    return text if len(text) <= 300 else f"{text[:300]}…"


def shortened(text: str) -> str:
    """The text without its unseen characters, cut to the length that a field of type ``Text`` may have."""
    text = seen(text)
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"


def named_differences(a: Any, b: Any) -> str:
    """The first six places, as ``model.dtype``, where two JSON values differ; "" where they are equal."""
    return ", ".join(sorted(_differences(a, b))[:6])


def _differences(a: Any, b: Any, at: str = "") -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in {*a, *b}:
            yield from _differences(a.get(key), b.get(key), f"{at}.{key}" if at else str(key))
    elif a != b:
        yield at
