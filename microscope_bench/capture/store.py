"""The token store: the selected hidden states of one run, on disk, in the model's own dtype.

A store is a directory::

    manifest.json                what is being captured: a run with another manifest may not write here
    lock                         held while a run writes
    parts/00000.safetensors      the states of examples 0 .. n-1: one tensor "boundary.<l>" (tokens, d) per boundary,
                                 "mainflow.<l>", l > 0, for the same tokens if asked for (mf_0 is boundary 0), and for
                                 each token its modality, example, position, number from the last, and keys of where it
                                 comes from
    parts/00000.json             what is known about those examples, and the checksum of the tensors
    ...

A part exists once its JSON exists. Both files are written beside their final name and renamed, so a run that is killed
at any moment leaves whole parts and nothing else that counts.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from microscope_bench.capture.records import ExampleRecord
from microscope_bench.errors import StoreError

FORMAT = 3


class TokenStore:
    """One run's store; see the module's docstring for what lies where.

    Args:
        path: the store's directory.

    Raises:
        StoreError: the directory holds no store, or one of another format.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            self.manifest: dict[str, Any] = json.loads((self.path / "manifest.json").read_text())
        except (FileNotFoundError, NotADirectoryError):
            raise StoreError(f"{self.path} is no token store: it has no manifest.json") from None
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{self.path}/manifest.json cannot be read ({error}); delete the store and run again"
            ) from error
        found = self.manifest.get("format") if isinstance(self.manifest, dict) else None
        if found != FORMAT:
            raise StoreError(
                f"{self.path} is a token store of format {found}, this version reads format {FORMAT}. Delete it, or "
                f"name another --store, and capture the run again"
            )
        if self.manifest.get("sha256") != _manifest_sha256(self.manifest):
            raise StoreError(
                f"{self.path}/manifest.json is damaged (its checksum does not match); capture the run again"
            )

    @classmethod
    def open_or_create(cls, path: Path, run: Mapping[str, Any], *, n_examples: int, part_examples: int) -> TokenStore:
        """The store at ``path``, created if there is none yet.

        Args:
            path: the store's directory.
            run: JSON-able; everything that decides what the states are. It must equal the one already there.
            n_examples: how many examples the run has.
            part_examples: how many examples make a part; an existing store keeps its own.

        Raises:
            StoreError: there is a store of another run; the message names the fields that differ.
        """
        if (path / "manifest.json").exists():
            store = cls(path)
            differing = sorted(_differences(store.manifest["run"], json.loads(json.dumps(run))))
            if differing:
                raise StoreError(
                    f"{path} holds the states of another run (different: {', '.join(differing[:6])}). "
                    f"Name another directory with --store, or delete this one"
                )
            return store
        manifest = {"format": FORMAT, "n_examples": n_examples, "part_examples": part_examples, "run": run}
        try:
            (path / "parts").mkdir(parents=True, exist_ok=True)
            _write_manifest(path, {**manifest, "about": None})
        except OSError as error:
            raise StoreError(f"no token store can be made at {path}: {error.strerror}; name another --store") from error
        return cls(path)

    def finish(self, about: Mapping[str, Any]) -> None:
        """Notes what a result needs to know of the capture (environment, timing); not compared on resume."""
        self.manifest["about"] = dict(about)
        _write_manifest(self.path, self.manifest)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Holds the store's lock.

        Raises:
            StoreError: another process is writing to this store.
        """
        with (self.path / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise StoreError(
                    f"another run is writing to {self.path}; wait for it, or name another --store"
                ) from None
            yield

    @property
    def mainflow(self) -> bool | str:
        """Whether stream ``mainflow`` is stored; False where it was not asked for, the reason where there is none."""
        stored: bool | str = self.manifest["run"].get("capture", {}).get("mainflow", False)
        return stored

    @property
    def n_parts(self) -> int:
        """How many parts the finished store has."""
        return -(-int(self.manifest["n_examples"]) // int(self.manifest["part_examples"]))

    def part_range(self, part: int) -> range:
        """Indices into the run's examples that belong to a part."""
        size = int(self.manifest["part_examples"])
        return range(part * size, min((part + 1) * size, int(self.manifest["n_examples"])))

    def missing_parts(self, progress: bool = False) -> list[int]:
        """Parts that are not there yet or whose checksum does not match; a damaged one is deleted."""
        missing = []
        # the bar shows only where there is much to read
        for part in tqdm(range(self.n_parts), desc="check store", unit="part", delay=2, disable=not progress):
            try:
                self._check_part(part)
            except StoreError:
                self.drop_part(part)
                missing.append(part)
        return missing

    def drop_part(self, part: int) -> None:
        """Deletes a part, so that it is captured again."""
        self._record_file(part).unlink(missing_ok=True)
        self._tensor_file(part).unlink(missing_ok=True)

    def check_complete(self) -> None:
        """Raises unless every part is there and whole.

        Raises:
            StoreError: naming the first part that is not.
        """
        for part in range(self.n_parts):
            self._check_part(part)

    def write_part(self, part: int, tensors: dict[str, Tensor], records: Sequence[ExampleRecord]) -> None:
        """Writes a part: first its tensors, then the record that makes it count.

        Args:
            part: its number.
            tensors: ``boundary.<l>`` (n, d) for every l, ``modality`` int8 (n,), ``example`` int64 (n,), an index into
                ``records``, and ``position`` int64 (n,).
            records: one for each example of :meth:`part_range`, skipped ones included.
        """
        target = self._tensor_file(part)
        temporary = target.with_suffix(".tmp")
        try:
            save_file(tensors, temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            digest = _sha256(temporary)
            temporary.replace(target)
            record = {"sha256": digest, "examples": [asdict(r) for r in records]}
            _write_atomically(self._record_file(part), json.dumps(record, allow_nan=False).encode())
        except (OSError, SafetensorError) as error:
            temporary.unlink(missing_ok=True)
            raise StoreError(
                f"part {part} cannot be written to {self.path}: {error}. What was captured before is kept: free some "
                f"space and give the same command again, or name a directory on a larger disk with --store"
            ) from error

    @cached_property
    def records(self) -> list[ExampleRecord]:
        """One for each example of the run, in the run's order."""
        return [record for part in range(self.n_parts) for record in self.part_records(part)]

    def part_records(self, part: int) -> list[ExampleRecord]:
        """One for each example of a part."""
        return [ExampleRecord(**fields) for fields in self._read_record(part)["examples"]]

    def tensor_file(self, part: int) -> Path:
        """Where the tensors of a part lie."""
        return self._tensor_file(part)

    def open_part(self, part: int) -> Any:
        """An open safetensors file; its tensors are mapped into memory and read from disk as they are touched."""
        try:
            return safe_open(self._tensor_file(part), framework="pt")
        except (OSError, SafetensorError) as error:
            raise StoreError(f"{self._tensor_file(part)} cannot be read: {error}") from error

    def delete(self) -> None:
        """Removes the store from disk."""
        shutil.rmtree(self.path)

    def _check_part(self, part: int) -> None:
        record = self._read_record(part)
        try:
            whole = _sha256(self._tensor_file(part)) == record["sha256"]
        except OSError:
            whole = False
        if not whole:
            raise StoreError(
                f"{self._tensor_file(part)} is missing or damaged (its checksum does not match); give the run's "
                f"command again to capture that part anew"
            )

    def _read_record(self, part: int) -> dict[str, Any]:
        file = self._record_file(part)
        try:
            record = json.loads(file.read_text())
            if not isinstance(record["sha256"], str) or len(record["examples"]) != len(self.part_range(part)):
                raise ValueError("it does not describe this part")
            return dict(record)
        except FileNotFoundError:
            raise StoreError(
                f"{self.path} is not complete: part {part} of {self.n_parts} is missing; give the run's command again"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{file} cannot be read ({error}); give the run's command again") from error

    def _tensor_file(self, part: int) -> Path:
        return self.path / "parts" / f"{part:05d}.safetensors"

    def _record_file(self, part: int) -> Path:
        return self.path / "parts" / f"{part:05d}.json"


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    signed = {**manifest, "sha256": _manifest_sha256(manifest)}
    _write_atomically(path / "manifest.json", json.dumps(signed, indent=1, allow_nan=False).encode())


def _manifest_sha256(manifest: Mapping[str, Any]) -> str:
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _write_atomically(target: Path, content: bytes) -> None:
    temporary = target.with_name(target.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(target)


def _differences(a: Any, b: Any, at: str = "") -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in {*a, *b}:
            yield from _differences(a.get(key), b.get(key), f"{at}.{key}" if at else str(key))
    elif a != b:
        yield at
