"""The columns of one CSV or JSON file, as it is written."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from microscope_bench.errors import TaskError

LARGEST_FILE = 2 * 10**9
"""Bytes of a CSV or JSON file, which is read whole; Parquet is read in pieces."""
MOST_DIGITS = 4_000
"""Of a whole number in JSON; Python reads no more than 4,300."""


def read_table(file: Path, kind: str, options: Any) -> dict[str, list[Any]]:
    """The columns of a file, the cells of a CSV as text."""
    if (size := file.stat().st_size) > LARGEST_FILE:
        raise TaskError(f"{file}: {size:,} bytes are too many for a {kind} file; convert it to Parquet")
    try:
        return (_read_csv if kind == "csv" else _read_json)(file, options)
    except UnicodeError as error:
        raise TaskError(
            f"{file}: not {options.encoding or 'utf-8'}: {error}; save it as UTF-8, or name dataset_kwargs.encoding"
        ) from error


def _encoding(options: Any) -> str:
    named = str(options.encoding or "utf-8")
    return "utf-8-sig" if named.lower() in ("utf-8", "utf8") else named  # a byte order mark is no part of a name


def _read_csv(file: Path, options: Any) -> dict[str, list[Any]]:
    csv.field_size_limit(2**31 - 1)
    form = {name: getattr(options, name) for name in ("quotechar", "doublequote", "escapechar", "skipinitialspace")}
    with file.open(encoding=_encoding(options), errors=options.encoding_errors, newline="") as stream:
        lines = csv.reader(stream, delimiter=options.sep, strict=True, **form)
        try:
            named = options.names
            header = next((line for line in lines if line), []) if named is None or options.header == 0 else named
            names = [str(name) or f"Unnamed: {place}" for place, name in enumerate(named or header)]
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise TaskError(f"{file}: two columns are called {twice!r}; give each a name of its own")
            rows: list[list[str]] = []
            for line in filter(None, lines):
                if len(line) != len(names):
                    raise TaskError(
                        f"{file}: row {len(rows)} (line {lines.line_num}) has {len(line)} cells where the header has "
                        f"{len(names)}; put cells that hold {options.sep!r} in quotes"
                    )
                rows.append(line)
        except csv.Error as error:
            raise TaskError(f"{file}: line {lines.line_num}: {error}") from error
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def _read_json(file: Path, options: Any) -> dict[str, list[Any]]:
    text = file.read_text(encoding=_encoding(options), errors=options.encoding_errors)
    rows = list(_json_rows(text, file, options.field))
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [row.get(name) for row in rows] for name in names}


def _json_rows(text: str, file: Path, field: str | None) -> Iterator[dict[str, Any]]:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if field is None and lines and lines[0][1].lstrip().startswith("{"):
        try:
            _parsed(lines[0][1])
        except ValueError:  # one value over several lines
            pass
        else:
            for number, line in lines:
                yield _row(line, f"{file}: line {number}")
            return
    found = _parsed_at(text, str(file)) if lines else []
    if field is not None:
        if not isinstance(found, dict) or field not in found:
            raise TaskError(f"{file}: has no key {field!r}, which dataset_kwargs.field names")
        found = found[field]
    if isinstance(found, dict):
        lengths = {len(column) if isinstance(column, list) else None for column in found.values()}
        if len(lengths) != 1 or None in lengths:
            raise TaskError(f"{file}: one object and no list of rows; name the list's key: dataset_kwargs.field")
        found = [dict(zip(found, cells, strict=True)) for cells in zip(*found.values(), strict=True)]
    if not isinstance(found, list):
        raise TaskError(f"{file}: no list of rows")
    for number, row in enumerate(found):
        if not isinstance(row, dict):
            raise TaskError(f"{file}: row {number} is no object of column names and cells")
        yield row


def _row(line: str, place: str) -> dict[str, Any]:
    row = _parsed_at(line, place)
    if not isinstance(row, dict):
        raise TaskError(f"{place}: no object of column names and cells")
    return row


def _parsed_at(text: str, place: str) -> Any:
    try:
        return _parsed(text)
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{place}: not valid JSON: {error}") from error


def _parsed(text: str) -> Any:
    # NaN and the infinities are equal to nothing, so that they are refused where they stand
    return json.loads(
        text,
        parse_float=_number,
        parse_int=_whole,
        parse_constant=lambda _: math.nan,
        object_pairs_hook=_each_key_once,
    )


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a whole number has {len(text):,} digits, more than {MOST_DIGITS:,}; write it as text")
    return int(text)


class Written(float):
    """A fraction that prints otherwise than it is written: 1.10, 1e5."""

    text: str


def _number(text: str) -> float:
    if repr(plain := float(text)) == text:
        return plain
    written = Written(text)
    written.text = text
    return written


def _each_key_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"an object has two values for one of its keys: {', '.join(key for key, _ in pairs)[:200]}")
    return found
