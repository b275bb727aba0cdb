"""Finds the cell without a value that a prompt would print as the word None or nan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from microscope_bench.system.bounded_templates import Missing

WORDS = ("none", "nan", "nat")
"""How a missing value prints, in small letters."""
MARK = Missing("ꙮꙮꙮ")  # printable, without case, and in no data set


def printed_null(row: Mapping[str, Any], render: Callable[[Mapping[str, Any]], Sequence[str]]) -> str | None:
    """The cell without a value that stands as a word in what is rendered of a row, as Jinja names it (``q``), or None.

    Inside a list or a mapping it is named by its place: ``q[0].text``.

    A cell is to blame if a mark in its place comes out exactly where the word stood. What a template or a function does
    to leave out a missing value (``{% if hint %}``, ``is none``, ``or ""``) is therefore left alone, and so is the word
    where a cell does hold it.

    Args:
        row: As it is rendered.
        render: Every text that is made of a row; the same ones each time.
    """
    missing = [path for column in row for path in _missing(row[column], (column,))]
    if not missing:
        return None
    texts = [text.casefold() for text in render(row)]
    if not any(word in text for text in texts for word in WORDS):
        return None
    for path in missing:
        try:
            marked = [text.casefold().replace(repr(MARK), MARK) for text in render(_with_mark(row, path))]
        except Exception:  # of a template or a function that takes a mark for a text
            continue
        there = {word for word in WORDS if [text.replace(MARK, word) for text in marked] == texts}
        if there and any(MARK in text for text in marked):
            return str(path[0]) + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path[1:])
    return None


def _missing(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, Mapping):
        for key in value:
            yield from _missing(value[key], (*path, key))
    elif isinstance(value, list):
        for place, each in enumerate(value):
            yield from _missing(each, (*path, place))
    elif value is None or (isinstance(value, float) and value != value) or type(value).__name__ == "NaTType":
        yield path


def _with_mark(value: Any, path: tuple[Any, ...]) -> Any:
    if not path:
        return MARK
    first, *others = path
    if isinstance(value, list):
        return [_with_mark(v, tuple(others)) if place == first else v for place, v in enumerate(value)]
    return {key: _with_mark(v, tuple(others)) if key == first else v for key, v in value.items()}
