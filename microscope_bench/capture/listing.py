"""Which token stores lie in a results directory. Imports no torch."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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
    folder = Path(results) / STORES
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        with suppress(FileNotFoundError, NotADirectoryError):  # of a run that ends meanwhile; no store
            found.append(_listing(path))
    return sorted(found, key=lambda listing: listing.written)


def _listing(path: Path) -> StoreListing:
    stats = [file.stat() for file in (path, *path.iterdir(), *(path / "parts").iterdir())]
    manifest = _json(path / "manifest.json")
    identity = manifest.get("run", {}).get("identity", {})
    return StoreListing(
        path=path,
        model=str(identity.get("model", {}).get("name", "")),
        task=str(identity.get("task", {}).get("name", "")),
        captured=sum(len(_json(file).get("examples", ())) for file in (path / "parts").glob("*.json")),
        n_examples=int(manifest.get("n_examples", 0)),
        n_bytes=sum(stat.st_size for stat in stats),
        written=datetime.fromtimestamp(max(stat.st_mtime for stat in stats), UTC),
        in_use=is_locked(path),
    )


def _json(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
