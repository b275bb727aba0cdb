"""What the texts of a command line mean: ``key=value,key=value``, true and false, numbers, sizes of memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from microscope_bench.errors import MicroscopeError

_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def key_values(option: str, text: str | Mapping[str, object] | None) -> dict[str, str]:
    """``"a=b,c=d"`` as a dict; a mapping passes through with its values as strings. Errors name the ``option``.

    >>> key_values("--model_args", "pretrained=org/name,dtype=bfloat16")
    {'pretrained': 'org/name', 'dtype': 'bfloat16'}
    """
    if text is None:
        return {}
    if isinstance(text, Mapping):
        return {str(key): str(value) for key, value in text.items()}
    if not isinstance(text, str):
        raise MicroscopeError(f"{option} must be key=value,key=value or a mapping, not {text!r}")
    pairs: dict[str, str] = {}
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        key, equals, value = (side.strip() for side in piece.partition("="))
        if not equals or not key:
            comma = ". A comma ends a value: a path that holds one needs a link without" if pairs else ""
            raise MicroscopeError(f"{option}: {piece!r} is not key=value; write {option} key=value,key=value{comma}")
        if key in pairs:
            raise MicroscopeError(f"{option}: {key!r} is given twice, as {pairs[key]!r} and as {value!r}; keep one")
        pairs[key] = value
    return pairs


def flag(name: str, value: object) -> bool:
    """True or false from a bool, or from such a text; also 1 and 0, yes and no. Errors name what is read."""
    found = _FLAGS.get(str(value).lower())
    if found is None:
        raise MicroscopeError(f"{name} must be true or false, not {value!r}")
    return found


def number(name: str, value: Any) -> float:
    """A number, from one or from its text."""
    try:
        return float(str(value) if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        raise MicroscopeError(f"{name} must be a number, not {value!r}") from None


def whole(name: str, value: Any) -> int:
    """A whole number, from one or from its text; no float passes, not even 2.0."""
    try:
        text = str(value) if isinstance(value, bool) else value
        return int(text.strip() if isinstance(text, str) else text.__index__())
    except (AttributeError, ValueError):
        raise MicroscopeError(f"{name} must be a whole number, not {value!r}") from None


def at_least(least: int) -> Callable[[str, Any], int]:
    """What reads a whole number that is not below ``least``."""

    def read(name: str, value: Any) -> int:
        found = whole(name, value)
        if found < least:
            raise MicroscopeError(f"{name} must be at least {least}, not {found}")
        return found

    return read


def memory_size(option: str, size: str | int) -> int:
    """Bytes from ``8GB``, ``512MiB``, ``1.5 GB``, or from an integer. A text needs a unit.

    >>> memory_size("--measure_memory", "1.5GB"), memory_size("--measure_memory", 2048)
    (1500000000, 2048)
    """
    given = f"{size} B" if isinstance(size, int) else size
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", given)
    unit = UNITS.get(found[2].upper()) if found else None
    if found is None or unit is None or float(found[1]) <= 0:
        raise MicroscopeError(f"{option}: {size!r} is not a size in memory; write for instance {option} 8GB")
    return int(float(found[1]) * unit)
