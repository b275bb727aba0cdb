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
checksum, the JSON that of its tensors too.
"""

from __future__ import annotations

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
from microscope_bench.errors import StoreError
from microscope_bench.system.disk import (
    file_sha256,
    locked,
    own_sha256,
    remove_leftovers,
    replacing,
    signed,
    write_whole,
)
from microscope_bench.system.field_types import named_differences

LOG = logging.getLogger("microscope_bench")
FORMAT = 1
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
            raise StoreError(f"no token store can be made at {path}: {error.strerror}; name another --store") from error
        yield


class TokenStore:
    """One run's store in the directory ``path``; see the module's docstring for what lies where."""

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
        if self.manifest.get("sha256") != own_sha256(self.manifest):
            raise StoreError(
                f"{self.path}/manifest.json is damaged (its checksum does not match); delete the store and run again"
            )

    @classmethod
    def open_or_create(cls, path: Path, run: Mapping[str, Any], *, n_examples: int, part_examples: int) -> TokenStore:
        """The store at ``path``, created if there is none yet; one that is there keeps its own ``part_examples``.

        ``run`` is JSON-able and holds everything that decides what the states are; a store of another run is refused.
        """
        if (path / "manifest.json").exists():
            store = cls(path)
            if differing := named_differences(store.manifest["run"], json.loads(json.dumps(run))):
                raise StoreError(
                    f"{path} holds the states of another run (different: {differing}). "
                    f"Name another directory with --store, or delete this one"
                )
            (path / "parts").mkdir(exist_ok=True)
            return store
        parts = path / "parts"
        if parts.is_dir() and any(parts.iterdir()):
            raise StoreError(
                f"{parts} holds files, but {path} has no manifest.json: it is no token store, or was damaged. Name "
                f"another directory with --store, or remove {parts}"
            )
        manifest = {"format": FORMAT, "n_examples": n_examples, "part_examples": part_examples, "run": run}
        try:
            parts.mkdir(parents=True, exist_ok=True)
            write_whole(path / "manifest.json", signed({**manifest, "about": None}))
        except OSError as error:
            raise StoreError(f"no token store can be made at {path}: {error.strerror}; name another --store") from error
        return cls(path)

    def finish(self, about: Mapping[str, Any]) -> None:
        """Notes what a result needs to know of the capture (environment, timing); not compared on resume."""
        self.manifest["about"] = dict(about)
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
        self.record_file(part).unlink(missing_ok=True)
        self.tensor_file(part).unlink(missing_ok=True)

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
        try:
            with replacing(self.tensor_file(part)) as temporary:
                save_file(tensors, temporary)
                digest = file_sha256(temporary)
            record = {"tensors_sha256": digest, "examples": [asdict(r) for r in records]}
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
        return [ExampleRecord(**fields) for fields in self._read_record(part)["examples"]]

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
        record = self._read_record(part)
        try:
            whole = file_sha256(self.tensor_file(part)) == record["tensors_sha256"]
        except OSError:
            whole = False
        if not whole:
            raise StoreError(
                f"{self.tensor_file(part)} is missing or damaged (its checksum does not match); give the run's "
                f"command again to capture that part anew"
            )
        return len(record["examples"])

    def _read_record(self, part: int) -> dict[str, Any]:
        file = self.record_file(part)
        try:
            record = json.loads(file.read_text())
            if record["sha256"] != own_sha256(record):
                raise ValueError("its checksum does not match")
            if not 0 < len(record["examples"]) <= len(self.part_range(part)):
                raise ValueError("it does not describe this part")
            return dict(record)
        except FileNotFoundError:
            raise StoreError(
                f"{self.path} is not complete: part {part} of {self.n_parts} is missing; give the run's command again"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise StoreError(f"{file} cannot be read ({error}); give the run's command again") from error

    def _full(self, what: str, error: Exception) -> StoreError:
        return StoreError(
            f"{what} cannot be written to {self.path}: {error}. What was captured before is kept: free some space and "
            f"give the same command again, or name a directory on a larger disk with --store"
        )

    def record_file(self, part: int) -> Path:
        return self.path / "parts" / f"{part:05d}.json"


def _remove_if_empty(directory: Path) -> None:
    with suppress(OSError):
        directory.rmdir()
