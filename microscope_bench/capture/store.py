"""The token store: the selected hidden states of one run, on disk, in the model's own dtype.

A store is a directory::

    manifest.json                what is being captured: a run with another manifest may not write here
    .microscope-bench.lock       there while a run writes
    parts/00000.safetensors      the states of examples 0 .. n-1: one tensor "boundary.<l>" (tokens, d) per boundary,
                                 "mainflow.<l>", l > 0, for the same tokens if asked for (mf_0 is boundary 0), and for
                                 each token its modality, example, position, number from the last, and keys of where it
                                 comes from
    parts/00000.json             what is known about those examples, and the checksum of the tensors
    ...

A part exists once its JSON exists. Both files are written beside their final name and renamed, so a run that is killed
at any moment leaves whole parts and nothing else that counts. A part of which the first examples alone are there is
begun: a run that was told to stop leaves one, and the next run goes on with it. Manifest and JSON hold their own
checksum, the JSON that of its tensors too; all of them say whose they are (``store_documents.py``).
"""

from __future__ import annotations

import errno
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from microscope_bench.capture.example_record import ExampleRecord
from microscope_bench.capture.mainflow import Mainflow
from microscope_bench.capture.part_check import check_tensors
from microscope_bench.capture.store_documents import (
    FORMAT,
    PartRecord,
    read_manifest,
    read_record,
    store_identity,
    tensors_metadata,
)
from microscope_bench.errors import StoreError
from microscope_bench.system.disk import file_sha256, locked, remove_leftovers, replacing, signed, write_whole
from microscope_bench.system.field_types import named_differences

LOG = logging.getLogger("microscope_bench")
_PART_FILES = r"\d{5,}\.(json|safetensors)"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Holds the lock of the store at ``path``; taken before the store is opened or made."""
    with ExitStack() as held:
        held.callback(_remove_if_empty, path)  # after the lock, whose file lies in it
        try:
            held.enter_context(locked(path))
        except BlockingIOError:
            raise StoreError(f"another run is writing to {path}; wait for it, or name another --store") from None
        except OSError as error:
            raise _not_made(path, error) from error
        yield


class TokenStore:
    """One run's store in the directory ``path``; see the module's docstring for what lies where."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        if (self.path / "parts").is_symlink():
            raise StoreError(f"{self.path / 'parts'} is a symbolic link; name the store that it leads to")
        self.identity = store_identity(self.manifest)

    @classmethod
    def open_or_create(cls, path: Path, run: Mapping[str, Any], *, n_examples: int, part_examples: int) -> TokenStore:
        """The store at ``path``, created if there is none yet; one that is there keeps its own ``part_examples``.

        ``run`` is JSON-able and holds everything that decides what the states are; a store of another run is refused.
        """
        parts = path / "parts"
        try:
            parts.mkdir(parents=True, exist_ok=True)
            if parts.is_symlink():  # what is deleted in it would be somebody else's
                raise FileExistsError(errno.EEXIST, "parts is a symbolic link")
            if not (path / "manifest.json").exists():
                cls._make(path, parts, {"n_examples": n_examples, "part_examples": part_examples, "run": run})
        except OSError as error:
            _remove_if_empty(parts)
            raise _not_made(path, error) from error
        store = cls(path)
        asked = {**json.loads(json.dumps(run)), "n_examples": n_examples}
        if differing := named_differences({**store.manifest["run"], "n_examples": store.manifest["n_examples"]}, asked):
            raise StoreError(
                f"{path} holds the states of another run (different: {differing}). "
                f"Name another directory with --store, or delete this one"
            )
        return store

    @staticmethod
    def _make(path: Path, parts: Path, what: Mapping[str, Any]) -> None:
        if any(parts.iterdir()):
            raise StoreError(
                f"{parts} holds files, but {path} has no manifest.json: it is no token store, or was damaged. Name "
                f"another directory with --store, or remove {parts}"
            )
        write_whole(path / "manifest.json", signed({"format": FORMAT, **what, "about": None, "parts": []}))

    def finish(self, about: Mapping[str, Any]) -> None:
        """Notes what a result needs to know of the capture (environment, timing), and which parts it ended with.

        A run that goes on with the store does not compare the first, and captures a part again that is not the second.
        """
        self.manifest["about"] = dict(about)
        self.manifest["parts"] = [self._read_record(part).sha256 for part in range(self.n_parts)]
        try:
            write_whole(self.path / "manifest.json", signed(self.manifest))
        except OSError as error:
            raise self._full("its manifest", error) from error

    @property
    def mainflow(self) -> Mainflow | None:
        """Whether stream ``mainflow`` is stored; None where it was not asked for."""
        stored = self.manifest["run"].get("mainflow")
        return None if stored is None else Mainflow(**stored)

    @property
    def has_mainflow(self) -> bool:
        return self.mainflow is not None and self.mainflow.exists

    @property
    def n_parts(self) -> int:
        return -(-int(self.manifest["n_examples"]) // int(self.manifest["part_examples"]))

    def part_range(self, part: int) -> range:
        size = int(self.manifest["part_examples"])
        return range(part * size, min((part + 1) * size, int(self.manifest["n_examples"])))

    def missing_parts(self, progress: bool = False) -> list[int]:
        """Parts that are not there, damaged, or only begun; a damaged one is deleted, and so is what a kill left."""
        self._remove_leftovers()
        missing = []
        # the bar shows only where there is much to read
        for part in tqdm(range(self.n_parts), desc="check store", unit="part", delay=2, disable=not progress):
            try:
                whole = self._check_part(part) == len(self.part_range(part))
            except StoreError as error:
                if self.record_file(part).exists():
                    LOG.warning("part %d is captured again: %s", part, error)
                self.drop_part(part)
                whole = False
            if not whole:
                missing.append(part)
        return missing

    def drop_part(self, part: int) -> None:
        for file in (self.record_file(part), self.tensor_file(part)):
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                raise StoreError(f"{file} cannot be removed ({error.strerror}); remove it yourself") from error

    def check_complete(self) -> None:
        """Raises a StoreError that names the first part that is not there, or not whole."""
        for part in range(self.n_parts):
            n, wanted = self._check_part(part), len(self.part_range(part))
            if n < wanted:
                raise StoreError(
                    f"{self.path} is not complete: of part {part} of {self.n_parts}, {n} of {wanted} examples are "
                    f"there; give the run's command again"
                )

    def write_part(self, part: int, tensors: dict[str, Tensor], records: Sequence[ExampleRecord]) -> None:
        """Writes a part: first its tensors, then the record that makes it count.

        A part that was begun is replaced. Between the two steps it is the new tensors with the old record: a kill there
        costs the examples that were begun, no more, since their checksum no longer matches.
        """
        examples = [asdict(record) for record in records]
        try:
            with replacing(self.tensor_file(part)) as temporary:
                save_file(tensors, temporary, tensors_metadata(self.identity, part, examples))
                digest = file_sha256(temporary)
            record = {"store": self.identity, "part": part, "tensors_sha256": digest, "examples": examples}
            write_whole(self.record_file(part), signed(record))
        except (OSError, SafetensorError) as error:
            raise self._full(f"part {part}", error) from error

    def begun_records(self, part: int) -> list[ExampleRecord]:
        return self.part_records(part) if self.record_file(part).exists() else []

    def begun_tensors(self, part: int) -> dict[str, Tensor]:
        """The tensors of a part of which something is there; call it after :meth:`missing_parts`, which checks them."""
        return load_file(self.tensor_file(part))

    @cached_property
    def records(self) -> list[ExampleRecord]:
        """One for each example of the run, in the run's order."""
        return [record for part in range(self.n_parts) for record in self.part_records(part)]

    def part_records(self, part: int) -> list[ExampleRecord]:
        return self._read_record(part).examples

    def tensor_file(self, part: int) -> Path:
        return self.path / "parts" / f"{part:05d}.safetensors"

    def delete(self) -> None:
        """Removes the store from disk, and nothing else that lies in its directory; its lock is held.

        The manifest goes last: what a kill leaves of it is a store with missing parts.
        """
        for file in list((self.path / "parts").iterdir()):
            if re.fullmatch(_PART_FILES, file.name):
                file.unlink()
        self._remove_leftovers()
        (self.path / "manifest.json").unlink()
        _remove_if_empty(self.path / "parts")

    def _remove_leftovers(self) -> None:
        remove_leftovers(self.path, re.escape("manifest.json"))
        remove_leftovers(self.path / "parts", _PART_FILES)
        for file in (self.path / "parts").glob(".tmp??????"):  # safetensors writes to such a file, and renames it
            file.unlink()

    def _check_part(self, part: int) -> int:
        record, file = self._read_record(part), self.tensor_file(part)
        ended_with = self.manifest["parts"]
        examples = [asdict(example) for example in record.examples]
        try:
            check_tensors(file, tensors_metadata(self.identity, part, examples), record.examples)
            if file_sha256(file) != record.tensors_sha256:
                raise ValueError("its checksum does not match")
            if ended_with and ended_with[part] != record.sha256:
                raise ValueError("it is not what the capture ended with")
        except (OSError, ValueError, SafetensorError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise StoreError(
                f"{file} is missing or damaged ({why}); give the run's command again to capture that part anew"
            ) from error
        return len(record.examples)

    def _read_record(self, part: int) -> PartRecord:
        try:
            return read_record(self.record_file(part), self.identity, part, len(self.part_range(part)))
        except FileNotFoundError:
            raise StoreError(
                f"{self.path} is not complete: part {part} of {self.n_parts} is missing; give the run's command again"
            ) from None

    def _full(self, what: str, error: Exception) -> StoreError:
        return StoreError(
            f"{what} cannot be written to {self.path}: {error}. What was captured before is kept: free some space and "
            f"give the same command again, or name a directory on a larger disk with --store"
        )

    def record_file(self, part: int) -> Path:
        return self.path / "parts" / f"{part:05d}.json"


def _not_made(path: Path, error: OSError) -> StoreError:
    of = f" ({error.filename})" if error.filename else ""
    return StoreError(f"no token store can be made at {path}: {error.strerror}{of}; name another --store")


def _remove_if_empty(directory: Path) -> None:
    with suppress(OSError, ValueError):  # no path at all, with a NUL in it
        directory.rmdir()
