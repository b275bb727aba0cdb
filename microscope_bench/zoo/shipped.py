"""The checkpoints of the zoo by name: trained ones from the package, their untrained twins built on first use."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from microscope_bench.adapters.presets import TWIN_SUFFIX, ZOO_PREFIX
from microscope_bench.errors import AdapterError
from microscope_bench.registry import unknown_name
from microscope_bench.zoo import FUSIONS, SEED
from microscope_bench.zoo.cache import build_once, cache_directory

WEIGHTS = Path(__file__).parent / "weights"
CHECKSUMS = "checksums.json"
"""File of :data:`WEIGHTS`: model → file → sha256. It lies beside the checkpoints: it is not part of them."""

TWIN_FORMAT = 1
"""Part of the cache directory's name; raise it whenever the files of an untrained twin change."""


def shipped_model(name: str) -> Path:
    """The directory of a trained checkpoint, its files checked against their recorded hashes.

    Args:
        name: ``zoo-<fusion>``.

    Raises:
        UnknownNameError: no such model, with the names there are.
        AdapterError: a file is damaged, missing or too many; the message names it.
    """
    if fusion_of(name) is None or name.endswith(TWIN_SUFFIX):
        raise unknown_name("model of the zoo", name, [ZOO_PREFIX + fusion for fusion in FUSIONS])
    recorded: dict[str, dict[str, str]] = json.loads((WEIGHTS / CHECKSUMS).read_text(encoding="utf-8"))
    directory = WEIGHTS / name
    found, expected = file_hashes(directory), recorded.get(name, {})
    for problem, files in (
        ("is missing", sorted(expected.keys() - found.keys())),
        ("does not belong there", sorted(found.keys() - expected.keys())),
        ("is damaged", sorted(file for file in found.keys() & expected.keys() if found[file] != expected[file])),
    ):
        if files:
            sums = (
                "" if problem != "is damaged" else f" (sha256 {found[files[0]][:16]}…, not {expected[files[0]][:16]}…)"
            )
            raise AdapterError(
                f"{name}: {directory / files[0]} {problem}{sums}. Install the package again, or train the model again: "
                f"python -m microscope_bench.zoo.train --fusion {fusion_of(name)}"
            )
    return directory


def untrained_checkpoint(name: str, seed: int = SEED) -> Path:
    """The directory of a checkpoint with the weights that training begins with, built once in this user's cache.

    Args:
        name: ``zoo-<fusion>-untrained``.
        seed: of the weights.

    Raises:
        UnknownNameError: no such model, with the names there are.
        MicroscopeError: the cache cannot be written.
    """
    fusion = fusion_of(name)
    if fusion is None or not name.endswith(TWIN_SUFFIX):
        raise unknown_name("untrained twin", name, [f"{ZOO_PREFIX}{known}{TWIN_SUFFIX}" for known in FUSIONS])

    def build(directory: Path) -> None:
        from microscope_bench.zoo.formats import find_format

        known = find_format(fusion)
        known.write(known.untrained(seed), directory, trained=False)

    return build_once(cache_directory() / "zoo" / f"{name}-seed{seed}-{TWIN_FORMAT}", build)


def fusion_of(name: str) -> str | None:
    """The fusion of a model of the zoo, trained or not; None for any other name."""
    fusion = name.removeprefix(ZOO_PREFIX).removesuffix(TWIN_SUFFIX)
    return fusion if name.startswith(ZOO_PREFIX) and fusion in FUSIONS else None


def file_hashes(directory: Path) -> dict[str, str]:
    """sha256 of every file below a directory by its relative name; empty where there is no such directory."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def record(directory: Path, **models: Path) -> None:
    """Writes the checksums of the given checkpoints into ``directory``, beside those that are there already."""
    path = directory / CHECKSUMS
    recorded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    recorded.update({name: file_hashes(model) for name, model in models.items()})
    path.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n", encoding="utf-8")
