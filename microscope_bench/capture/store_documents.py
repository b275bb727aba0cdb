"""The JSON files of a token store, its manifest and the records of its parts, each of which says whose it is.

A record, and the file of the tensors beside it, carry the number of the part, the identity of the store and the
examples. A part that was copied over another, comes from another store, or was edited and signed again is found out by
one of them, and a finished store by its manifest, which has the checksum of every record. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct, ValidationError, convert

from microscope_bench.capture.example_record import ExampleRecord
from microscope_bench.errors import StoreError
from microscope_bench.system.disk import own_sha256, read_regular
from microscope_bench.system.field_types import Sha256

FORMAT = 1
LARGEST = 1 << 25
"""Bytes of a file; the record of a part of 16 examples has 10,000, the manifest of a million examples 5,000,000."""

Number = Annotated[int, Meta(ge=1, le=10**9)]


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """What ``manifest.json`` holds.

    Attributes:
        n_examples: of the run.
        part_examples: of a part.
        run: everything that decides what the states are.
        about: what a result needs to know of the capture; None until it has ended.
        parts: the checksums of the parts' records when it ended.
    """

    format: int
    n_examples: Number
    part_examples: Number
    run: dict[str, Any]
    about: dict[str, Any] | None
    parts: list[Sha256]
    sha256: Sha256


class PartRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """What the JSON file of a part holds.

    Attributes:
        store: :func:`store_identity`.
        part: its number.
        tensors_sha256: of the file of its tensors.
        examples: those that are there, in the order of the run.
    """

    store: Sha256
    part: int
    tensors_sha256: Sha256
    examples: Annotated[list[ExampleRecord], Meta(min_length=1)]
    sha256: Sha256


def read_manifest(store: Path) -> dict[str, Any]:
    """The manifest of the store in a directory, as :class:`Manifest` describes it; else a StoreError."""
    file = store / "manifest.json"
    try:
        manifest = _read(file)
        if manifest.get("format") != FORMAT:
            raise StoreError(
                f"{store} is a token store of format {manifest.get('format')!r:.80}, this version reads format "
                f"{FORMAT}. Delete it, or name another --store, and capture the run again"
            )
        _check_signature(manifest)
        convert(manifest, Manifest)
        n_parts = -(-manifest["n_examples"] // manifest["part_examples"])
        if manifest["about"] is not None and len(manifest["parts"]) != n_parts:
            raise ValueError(f"it lists {len(manifest['parts'])} of {n_parts} parts")
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"{store} is no token store: it has no manifest.json") from None
    except (OSError, ValueError, ValidationError) as error:
        raise StoreError(f"{file} is damaged ({_reason(error)}); delete the store and run again") from error
    return manifest


def store_identity(manifest: Mapping[str, Any]) -> str:
    """64 hex digits: what tells a store from any that holds other states, or holds them in other parts."""
    return own_sha256({name: manifest[name] for name in ("format", "n_examples", "part_examples", "run")})


def read_record(file: Path, store: str, part: int, most_examples: int) -> PartRecord:
    """The record of a part of the store of that identity; else a StoreError."""
    try:
        document = _read(file)
        _check_signature(document)
        record = convert(document, PartRecord)
        if (record.store, record.part) != (store, part):
            raise ValueError("it is that of another part, or of another store")
        if len(record.examples) > most_examples:
            raise ValueError(f"it describes {len(record.examples)} examples, the part has {most_examples}")
    except (OSError, ValueError, ValidationError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise StoreError(f"{file} cannot be read ({_reason(error)}); give the run's command again") from error
    return record


def count_examples(file: Path) -> int:
    """How many examples the record of a part says it has; 0 where it cannot be read."""
    try:
        return len(_read(file).get("examples", ()))
    except (OSError, ValueError, TypeError):
        return 0


def tensors_metadata(store: str, part: int, examples: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What the file of a part's tensors says of itself: whose they are, and of which examples, as records tell them."""
    return {"store": store, "part": str(part), "examples_sha256": own_sha256({"examples": list(examples)})}


def _read(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(read_regular(file, LARGEST))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError("it is no JSON object")
    return document


def _check_signature(document: Mapping[str, Any]) -> None:
    try:
        whole = document.get("sha256") == own_sha256(document)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not whole:
        raise ValueError("its checksum does not match")


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
