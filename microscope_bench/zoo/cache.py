"""Directories that this package builds itself and can always build again."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from microscope_bench.errors import MicroscopeError
from microscope_bench.system.disk import CACHE_VARIABLE

MANIFEST = "manifest.json"
"""File of a built directory that holds the sha256 of every other one."""


def build_once(target: Path, build: Callable[[Path], None]) -> Path:
    """Returns the directory ``target`` with intact content, built now if it is absent or damaged.

    ``build`` writes the content into an empty directory, which is then renamed, so that a half-written one is never
    seen; a lock lets several processes ask at once.
    """
    if is_intact(target):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if not is_intact(target):
                _build_and_rename(target, build)
    except OSError as error:
        raise MicroscopeError(
            f"{target} cannot be written ({error.strerror or error}); point {CACHE_VARIABLE} at a directory that can"
        ) from error
    return target


def is_intact(directory: Path) -> bool:
    """Whether a built directory holds exactly the files of its manifest, unchanged."""
    try:
        recorded = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        return bool(recorded == file_hashes(directory))
    except (OSError, ValueError):
        return False


def _build_and_rename(target: Path, build: Callable[[Path], None]) -> None:
    if target.exists() and any(target.iterdir()) and not (target / MANIFEST).exists():
        raise MicroscopeError(f"{target} holds files that were not built here; remove them, or name another directory")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
        fresh = Path(temporary) / "fresh"
        fresh.mkdir()
        build(fresh)
        (fresh / MANIFEST).write_text(json.dumps(file_hashes(fresh), indent=1) + "\n", encoding="utf-8")
        if target.exists():
            shutil.move(target, Path(temporary) / "damaged")
        fresh.rename(target)


def file_hashes(directory: Path) -> dict[str, str]:
    """Relative name → sha256 of every file below a directory but its manifest; empty for no directory."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / MANIFEST)
    return {p.relative_to(directory).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}
