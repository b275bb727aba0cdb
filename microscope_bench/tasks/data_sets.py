"""Which data a run has seen: hub data sets by their commit, everything else by the content of its rows."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from microscope_bench.errors import MicroscopeError, TaskError, first_line
from microscope_bench.rgb_pictures import as_rgb, open_picture, pixels, stored_content
from microscope_bench.system.disk import user_path
from microscope_bench.system.hub import cached_snapshot, is_offline, resolve_commit
from microscope_bench.tasks.tables import metadata_reader, read_splits, table_kind

FILE_FORMATS = frozenset(
    {"arrow", "audiofolder", "csv", "hdf5", "imagefolder", "json", "pandas", "parquet", "text", "videofolder"}
    | {"webdataset", "xml"}
)
"""What ``datasets.load_dataset`` takes for a file format rather than for a hub repository."""

OF_LOADING = frozenset({"split", "verification_mode", "keep_in_memory", "save_infos", "streaming", "num_proc"})
"""Options of ``datasets.load_dataset`` that its builders do not take."""

LOCAL_HINT = "use a local copy: --task_args data_dir=DIR"


def is_hub_repository(path: str) -> bool:
    return path not in FILE_FORMATS and not os.path.exists(user_path(path))


def pin_repository(path: str, revision: str | None = None) -> tuple[str, dict[str, str | None]]:
    """The full commit that a revision of a hub data set means, and ``dataset_path`` and ``revision`` to open it by."""
    meant = get_close_matches(path, FILE_FORMATS, n=1)
    hint = LOCAL_HINT + (f". Did you mean the file format {meant[0]}?" if meant else "")
    sha = resolve_commit(path, revision, "dataset", local_hint=hint, error_type=TaskError)
    if not is_offline():
        return sha, {"dataset_path": path, "revision": sha}
    snapshot = cached_snapshot(path, sha, "dataset")
    if snapshot is None:
        raise TaskError(f"{path}@{sha} is not in the local hub cache and HF_HUB_OFFLINE is set. {LOCAL_HINT}")
    return sha, {"dataset_path": str(snapshot), "revision": None}


def cache_directories() -> list[Path]:
    """Where ``datasets`` and the hub library put the files of data sets, unpacked archives among them."""
    import datasets
    from huggingface_hub import constants

    return [Path(datasets.config.HF_DATASETS_CACHE), Path(constants.HF_HUB_CACHE)]


def open_splits(path: str, name: str | None, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """``datasets.load_dataset`` as split name → ``datasets.Dataset``; never runs code of a repository.

    Cells of CSV and JSON files stay as they are written, those of the ``metadata`` files beside pictures among them.
    """
    import datasets
    from datasets.packaged_modules.folder_based_builder.folder_based_builder import FolderBasedBuilder

    options = {key: value for key, value in options.items() if key != "trust_remote_code" and value is not None}
    directory, cache = user_path(path), str(datasets.config.HF_DATASETS_CACHE)
    if path not in FILE_FORMATS and os.path.isdir(directory):
        path, cache = str(directory), f"{cache}/local-{_state(directory)}"
    if path == str(directory) and (saved := _saved(directory)) is not None:
        return saved
    options = {"cache_dir": cache} | options
    _check_named(options, directory)
    builder = datasets.load_dataset_builder(path, name, **{k: v for k, v in options.items() if k not in OF_LOADING})
    _check_files(builder)
    if (kind := table_kind(builder)) is not None:
        if "split" in options:
            raise TaskError("dataset_kwargs.split: name the split in test_split, and rows of it with --samples")
        return read_splits(builder, kind)
    if isinstance(builder, FolderBasedBuilder):
        options["cache_dir"] += "/as-written"  # what datasets alone reads of the same files has other cells
        builder = datasets.load_dataset_builder(path, name, **{k: v for k, v in options.items() if k not in OF_LOADING})
        builder._read_metadata = metadata_reader(builder)
        builder.download_and_prepare()
        loaded = builder.as_dataset(options.get("split"))
    else:
        loaded = datasets.load_dataset(path, name, **options)
    return loaded if isinstance(loaded, Mapping) else {str(options.get("split", "train")): loaded}


def leaves(value: Any) -> list[str]:
    """Every text in nested mappings and lists."""
    if isinstance(value, Mapping | list | tuple):
        return [leaf for part in (value.values() if isinstance(value, Mapping) else value) for leaf in leaves(part)]
    return [] if value is None else [str(value)]


def _check_named(options: Mapping[str, Any], directory: Path) -> None:
    """Raises for a file that is named and there but no regular one, of which ``datasets`` says that it is not there."""
    base = user_path(options.get("data_dir") or (directory if directory.is_dir() else "."))
    for file in (base / user_path(name) for name in leaves(options.get("data_files"))):
        if os.path.isdir(file):
            raise TaskError(f"{file} is a directory; name the files in it under dataset_kwargs.data_files: {file}/*")
        if os.path.exists(file) and not os.path.isfile(file):
            raise TaskError(f"{file} is no regular file, so it cannot hold rows")


def _check_files(builder: Any) -> None:
    """Raises unless every local file that a builder is going to read is a regular one: a pipe would be waited for.

    And unless one of Parquet is whole and has rows, since ``datasets`` names no file where it fails.
    """
    import pyarrow
    from datasets.packaged_modules.parquet.parquet import Parquet
    from pyarrow.parquet import read_metadata

    for file in (Path(file) for files in (builder.config.data_files or {}).values() for file in files):
        if not file.exists():
            continue
        _check_regular(file)
        try:
            if isinstance(builder, Parquet) and read_metadata(file).num_rows == 0:
                raise TaskError(f"{file} has no rows; leave it out")
        except pyarrow.ArrowException as error:
            raise TaskError(
                f"{file} is no whole Parquet file ({first_line(error)}); write or fetch it again"
            ) from error


def _check_regular(file: Path) -> None:
    if not file.is_file():
        raise TaskError(f"{file} is no regular file, so it cannot hold rows")


def _saved(directory: Path) -> Mapping[str, Any] | None:
    """The splits that ``save_to_disk`` of ``datasets`` has written into a directory; None where it has not."""
    import datasets

    if not any((directory / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return None
    for file in directory.rglob("*.arrow"):
        _check_regular(file)
    found = datasets.load_from_disk(str(directory))
    return found if isinstance(found, Mapping) else {str(found.split or "train"): found}


def _state(directory: Path) -> str:
    """16 hexadecimal digits that change with a directory's place and with the size or the time of any file in it.

    ``datasets`` caches a directory whose README names its files under the directory's last part and that README alone:
    it would give the rows of another directory of that name, or those from before an edit.
    """
    files = [(file, file.stat()) for file in sorted(directory.resolve().rglob("*")) if file.is_file()]
    listed = "\n".join(f"{file}\t{stat.st_size}\t{stat.st_mtime_ns}" for file, stat in files)
    return hashlib.sha256(listed.encode()).hexdigest()[:16]


def hash_rows(rows: Any, directories: Sequence[Path] = ()) -> str:
    """A hash of a ``datasets.Dataset``: of its rows in their order, with its pictures as every model sees them.

    A stored file (``{"bytes": ..., "path": ...}``) that is no picture counts by its bytes; one that cannot be read, by
    that alone. ``directories``: where files may lie, see :func:`microscope_bench.rgb_pictures.stored_content`.
    """
    digest = hashlib.sha256()
    seen: dict[bytes, str] = {}
    with ThreadPoolExecutor() as pool:  # pictures are decoded without Python's lock
        for table in rows.with_format("arrow").iter(batch_size=64):
            found = table.to_pylist()
            parts = [found[start : start + 8] for start in range(0, len(found), 8)]
            for part in pool.map(lambda part: _canonical(part, directories, seen), parts):
                for row in part:
                    digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode())
                    digest.update(b"\n")
    return f"sha256-{digest.hexdigest()[:16]}"


def _canonical(value: Any, directories: Sequence[Path], seen: dict[bytes, str]) -> Any:
    """A JSON value; a stored file becomes the hash of its content."""
    if isinstance(value, dict):
        if value.keys() == {"bytes", "path"} and isinstance(value["bytes"], bytes | None):
            return _media_hash(value, directories, seen)
        return {key: _canonical(item, directories, seen) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item, directories, seen) for item in value]
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _media_hash(stored: Mapping[str, Any], directories: Sequence[Path], seen: dict[bytes, str]) -> str:
    """``seen`` maps the digest of a file to what it was found to be: many questions are asked of one picture."""
    try:
        content = stored_content(stored, directories)
    except (MicroscopeError, TypeError):
        return "missing"
    key = hashlib.sha256(content).digest()
    if key not in seen:
        try:
            seen[key] = hashlib.sha256(pixels(as_rgb(open_picture(content))[0])).hexdigest()
        except MicroscopeError:
            seen[key] = key.hex()
    return seen[key]
