"""Which token stores lie in a results directory. Imports no torch."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from microscope_bench.capture.store_documents import count_examples, read_manifest
from microscope_bench.errors import StoreError
from microscope_bench.system.disk import is_locked

STORES = ".stores"
"""Where, in a results directory, the stores of its runs are: those under way, interrupted, failed, or kept."""


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
    found = map(_listing, _entries(Path(results) / STORES))
    return sorted((listing for listing in found if listing is not None), key=lambda listing: listing.written)


def _listing(path: Path) -> StoreListing | None:
    """What is told of one store; None where nothing is there, such as that of a run that ends meanwhile."""
    stats = []
    for file in (path, *_entries(path), *_entries(path / "parts")):
        with suppress(OSError):
            stats.append(file.lstat())
    if len(stats) < 2:
        return None
    identity: Any = {}
    n_examples = 0
    with suppress(StoreError):
        manifest = read_manifest(path)
        identity, n_examples = manifest["run"].get("identity", {}), manifest["n_examples"]
    return StoreListing(
        path=path,
        model=_name(identity, "model"),
        task=_name(identity, "task"),
        captured=sum(count_examples(file) for file in _entries(path / "parts") if file.suffix == ".json"),
        n_examples=n_examples,
        n_bytes=sum(stat.st_size for stat in stats),
        written=datetime.fromtimestamp(max(stat.st_mtime for stat in stats), UTC),
        in_use=is_locked(path),
    )


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def _name(identity: Any, of: str) -> str:
    try:
        return str(identity[of]["name"])
    except (KeyError, TypeError):
        return ""
