"""The checkpoints of the zoo by name: trained ones from the package, their untrained twins built on first use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from filelock import FileLock

from microscope_bench.adapters.presets import ZOO_PREFIX
from microscope_bench.errors import AdapterError, first_line, unknown_name
from microscope_bench.identity import UNTRAINED
from microscope_bench.system.disk import cache_directory
from microscope_bench.zoo import FUSIONS, SEED
from microscope_bench.zoo.cache import build_once, file_hashes

WEIGHTS = Path(__file__).parent / "weights"
CHECKSUMS = "checksums.json"  # model → file → sha256

TWIN_FORMAT = 2
"""Part of the cache directory's name; raise it whenever the files of an untrained twin change."""


def shipped_model(name: str) -> Path:
    """The directory of the trained checkpoint ``zoo-<fusion>``, its files checked against their recorded hashes."""
    if fusion_of(name) is None or name.endswith(UNTRAINED):
        raise unknown_name("model of the zoo", name, [ZOO_PREFIX + fusion for fusion in FUSIONS])
    again = "Install the package again; in a clone: git checkout -- microscope_bench/zoo/weights"
    directory, checksums = WEIGHTS / name, WEIGHTS / CHECKSUMS
    try:
        recorded = json.loads(checksums.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(f"{name}: {checksums} cannot be read ({first_line(error)}). {again}") from error
    expected = recorded.get(name) if isinstance(recorded, dict) else None
    if not isinstance(expected, dict):
        raise AdapterError(f"{name}: {checksums} has no entry for it. {again}")
    if not directory.is_dir():
        raise AdapterError(f"{name}: there is no {directory}. {again}")
    # hidden files are the file manager's, not the model's
    found = {file: digest for file, digest in file_hashes(directory).items() if not Path(file).name.startswith(".")}
    if missing := sorted(expected.keys() - found.keys()):
        raise AdapterError(f"{name}: {directory / missing[0]} is missing. {again}")
    if foreign := sorted(found.keys() - expected.keys()):
        raise AdapterError(f"{name}: {directory / foreign[0]} does not belong there; remove it")
    if damaged := sorted(file for file in found if found[file] != expected[file]):
        file = damaged[0]
        raise AdapterError(
            f"{name}: {directory / file} is damaged (sha256 {found[file][:16]}…, not {expected[file][:16]}…). {again}"
        )
    return directory


def untrained_checkpoint(name: str) -> Path:
    """The directory of ``zoo-<fusion>-untrained``, a checkpoint before training, built once in this user's cache."""
    fusion = fusion_of(name)
    if fusion is None or not name.endswith(UNTRAINED):
        raise unknown_name("untrained twin", name, [f"{ZOO_PREFIX}{known}{UNTRAINED}" for known in FUSIONS])

    def build(directory: Path) -> None:
        from microscope_bench.zoo.formats import find_format

        known = find_format(fusion)
        known.write(known.untrained(SEED), directory, trained=False)

    return build_once(cache_directory() / "zoo" / f"{name}-seed{SEED}-{TWIN_FORMAT}", build)


def fusion_of(name: str) -> str | None:
    """The fusion of a model of the zoo, trained or not; None for any other name."""
    fusion = name.removeprefix(ZOO_PREFIX).removesuffix(UNTRAINED)
    return fusion if name.startswith(ZOO_PREFIX) and fusion in FUSIONS else None


def record(checkpoint: Path) -> None:
    """Writes the hashes of a checkpoint into the checksums beside it; several processes may do so at once."""
    path = checkpoint.parent / CHECKSUMS
    with FileLock(path.with_name(f".{CHECKSUMS}.lock")):
        recorded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        recorded[checkpoint.name] = file_hashes(checkpoint)
        temporary = path.with_name(f".{CHECKSUMS}.part")
        temporary.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        temporary.replace(path)
