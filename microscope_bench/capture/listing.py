"""Which token stores lie in a results directory. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Raw, Struct

from microscope_bench.system.disk import is_locked, read_regular

STORES = ".stores"
"""Where, in a results directory, the stores of its runs are: those under way, interrupted, failed, or kept."""


LARGEST_FILE = 100_000_000
"""Bytes of a manifest, or of the record of a part, that is looked into."""


class _Named(Struct, frozen=True):
    name: str = ""


class _Identity(Struct, frozen=True):
    model: _Named = _Named()
    task: _Named = _Named()


class _Run(Struct, frozen=True):
    identity: _Identity = _Identity()


class _Manifest(Struct, frozen=True):
    run: _Run = _Run()
    n_examples: int = 0


class _Part(Struct, frozen=True):
    examples: list[Raw] = []


_Document = TypeVar("_Document", _Manifest, _Part)


@dataclass(frozen=True)
class StoreListing:
    """What can be told of a store without reading its states; ``model`` and ``task`` are "" where no manifest tells."""

    path: Path
    model: str
    task: str
    captured: int
    n_examples: int
    n_bytes: int
    written: datetime
    in_use: bool


def list_stores(results: str | Path) -> list[StoreListing]:
    """The stores in a results directory, the oldest first."""
    folder = Path(results) / STORES
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        try:
            found.append(_listing(path))
        except OSError:  # of a run that ends meanwhile; no store
            continue
    return sorted(found, key=lambda listing: listing.written)


def _listing(path: Path) -> StoreListing:
    parts = list((path / "parts").iterdir()) if (path / "parts").is_dir() else []
    stats = [file.lstat() for file in (path, *path.iterdir(), *parts)]
    manifest = _read(path / "manifest.json", _Manifest)
    identity = manifest.run.identity
    return StoreListing(
        path=path,
        model=identity.model.name,
        task=identity.task.name,
        captured=sum(len(_read(file, _Part).examples) for file in parts if file.suffix == ".json"),
        n_examples=manifest.n_examples,
        n_bytes=sum(stat.st_size for stat in stats),
        written=datetime.fromtimestamp(max(stat.st_mtime for stat in stats), UTC),
        in_use=is_locked(path),
    )


def _read(file: Path, kind: type[_Document]) -> _Document:
    """What is told of in a file, or nothing of it where the file is no such document."""
    try:
        return msgspec.json.decode(read_regular(file, LARGEST_FILE), type=kind)
    except (OSError, ValueError, RecursionError):
        return kind()
