"""CSV and JSON data sets whose cells are what the files have; what cannot be kept as it is, is refused by its place.

``datasets`` makes nulls of cells such as None and NA, numbers of 007 and 1e5, times of dates, and fractions of whole
numbers that stand in one column with them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from microscope_bench.errors import TaskError
from microscope_bench.tasks.table_files import Written, read_table

KNOWN = {
    "csv": frozenset(
        {"sep", "delimiter", "names", "column_names", "header", "quotechar", "doublequote", "escapechar"}
        | {"skipinitialspace", "encoding", "encoding_errors", "chunksize", "memory_map"}
        # what is done here anyway
        | {"keep_default_na", "na_filter"}
    ),
    "json": frozenset(
        {"field", "encoding", "encoding_errors", "chunksize", "block_size", "use_threads", "parse_agent_traces"}
    ),
}
"""Options of reading that are followed here."""


def table_kind(builder: Any) -> str | None:
    """``csv`` or ``json`` where this module reads what a builder of ``datasets`` would; else None.

    A task that sets an option of reading that is not known here (``features``, ``na_values``, ``converters``, ...) asks
    for a meaning of its own: ``datasets`` follows it.
    """
    from datasets import BuilderConfig
    from datasets.packaged_modules.csv.csv import Csv
    from datasets.packaged_modules.json.json import Json

    kind = "csv" if isinstance(builder, Csv) else "json" if isinstance(builder, Json) else None
    if kind is None:
        return None
    config, plain = builder.config, type(builder.config)()
    known = KNOWN[kind] | {field.name for field in fields(BuilderConfig)}
    others = [f.name for f in fields(plain) if f.name not in known]
    if any(getattr(config, name) != getattr(plain, name) for name in others):
        return None
    unlike = kind == "csv" and (len(config.sep) != 1 or (config.header != "infer" and config.names is None))
    return None if unlike else kind


def read_splits(builder: Any, kind: str) -> dict[str, Any]:
    """The splits of a CSV or JSON data set: name → ``datasets.Dataset``, in memory.

    Raises:
        TaskError: A file is no table, or has a cell that cannot be kept; the message names the row and the column.
    """
    import datasets

    manager = datasets.DownloadManager(base_path=builder.base_path, dataset_name=builder.dataset_name)
    found = {}
    for split, sources in builder.config.data_files.items():
        files = [Path(file) for file in manager.iter_files(manager.download_and_extract(list(sources)))]
        place = ", ".join(file.name for file in files[:3])
        columns = _joined([read_table(file, kind, builder.config) for file in files], kind, place)
        table, features = _as_arrow(columns, kind, place, builder.info.features)
        info = datasets.DatasetInfo(features=features, download_checksums=dict.fromkeys(sources))
        found[str(split)] = datasets.Dataset(table, info=info, split=datasets.NamedSplit(str(split)))
    return found


def metadata_reader(builder: Any) -> Callable[..., Iterator[Any]]:
    """What takes the place of a folder builder's own ``_read_metadata``: the table of one metadata file."""
    import datasets

    read_others = builder._read_metadata

    def read(file: str, metadata_ext: str = "") -> Iterator[Any]:
        kind = {".csv": "csv", ".jsonl": "json"}.get(metadata_ext)
        if kind is None or builder.config.features is not None or builder.config.filters is not None:
            yield from read_others(file, metadata_ext=metadata_ext)
            return
        options = datasets.load_dataset_builder(kind, data_files=file).config
        columns = read_table(Path(file), kind, options)
        yield _as_arrow(columns, kind, file, None)[0]

    return read


def _as_arrow(columns: dict[str, list[Any]], kind: str, place: str, declared: Any) -> tuple[Any, Any]:
    """A ``pyarrow.Table`` of the cells and its ``datasets.Features``: those that are ``declared``, if any are."""
    import datasets
    import pyarrow as pa

    arrays, features = {}, datasets.Features()
    for name, cells in columns.items():
        if declared is None and kind == "csv":
            cells = _numbers_if_printed_alike(cells)
        elif declared is not None and kind == "csv" and declared.get(name) != datasets.Value("string"):
            cells = [cell or None for cell in cells]
        arrays[name], features[name] = _array(cells, f"{place}: column {name}")
    if declared is None:
        return pa.table(arrays), features
    n_rows = len(next(iter(columns.values()), []))
    shown = pa.table({name: arrays.get(name, pa.nulls(n_rows)) for name in declared})
    try:
        return datasets.table.table_cast(shown, declared.arrow_schema), declared
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise TaskError(
            f"{place}: its cells are not of the types that the data set's card declares: {error}"
        ) from error


def _numbers_if_printed_alike(cells: list[Any]) -> list[Any]:
    """The cells of a column as whole numbers, fractions or True and False, if each prints just as it is written.

    Templates that count with them find numbers, as in lm-eval; 007, 1e5 and +1 stay text, and so does their column.
    """
    for kind in (int, float):
        try:
            numbers = [kind(cell) for cell in cells]
        except (ValueError, OverflowError):
            continue
        if all(str(number) == cell for number, cell in zip(numbers, cells, strict=True)):
            kept = all(-(2**63) <= n < 2**63 for n in numbers) if kind is int else all(map(math.isfinite, numbers))
            if kept:
                return numbers
    return [cell == "True" for cell in cells] if cells and set(cells) <= {"True", "False"} else cells


def _array(cells: Sequence[Any], place: str) -> tuple[Any, Any]:
    """A ``pyarrow.Array`` that gives the very same cells back, and the feature that reads it.

    A column of several types is kept as JSON text, which ``datasets`` decodes when a row is read. A column with a
    number that it does not decode exactly, or that prints otherwise than it is written, is text.
    """
    import datasets
    import pyarrow as pa

    if any(isinstance(cell, Written) for cell in cells):
        cells = [getattr(cell, "text", None if cell is None else str(cell)) for cell in cells]
    try:
        array = pa.array(cells)
        if _same(array.to_pylist(), list(cells)):
            return array, datasets.Features.from_arrow_schema(pa.schema([pa.field("it", array.type)]))["it"]
    except (pa.ArrowException, OverflowError, UnicodeError):
        pass
    decode = datasets.Json().decode_example
    texts = [None if cell is None else json.dumps(cell, ensure_ascii=False) for cell in cells]
    for row, (cell, text) in enumerate(zip(cells, texts, strict=True)):
        if text is None or _same(_or_none(decode, text), cell):
            continue
        if any(isinstance(other, dict | list) for other in cells) or not _same(_or_none(json.loads, text), cell):
            raise TaskError(
                f"{place}, row {row}: {str(cell)[:80]!r} cannot be kept as it is; write it as text (NaN and Infinity "
                f"are no JSON numbers)"
            )
        return pa.array([None if cell is None else str(cell) for cell in cells]), datasets.Value("string")
    return pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts, pa.string())), datasets.Json()


def _or_none(function: Callable[[str], Any], text: str) -> Any:
    try:
        return function(text.encode().decode())  # which half of a surrogate pair alone does not survive
    except (ValueError, OverflowError, RecursionError):
        return None


def _same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal in their types, too: 1 is neither 1.0 nor true."""
    if type(one) is not type(other) and not (isinstance(one, float) and isinstance(other, float)):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _joined(tables: Sequence[dict[str, list[Any]]], kind: str, place: str) -> dict[str, list[Any]]:
    """The rows of several files, one after another; a column that a JSON file lacks is null there."""
    names = list(dict.fromkeys(name for columns in tables for name in columns))
    lengths = [len(next(iter(columns.values()), [])) for columns in tables]
    lacking = [columns for columns in tables if columns and columns.keys() != set(names)]
    if kind == "csv" and lacking:
        raise TaskError(f"{place}: its files have different columns: {', '.join(lacking[0])}; and {', '.join(names)}")
    parts = list(zip(tables, lengths, strict=True))
    return {name: [cell for columns, n in parts for cell in columns.get(name, [None] * n)] for name in names}
