"""One token store for several processes: the first makes it and holds its lock, and each fills parts of its own."""

from __future__ import annotations

import json
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from microscope_bench.capture.store import TokenStore, writing
from microscope_bench.errors import StoreError
from microscope_bench.system.field_types import named_differences
from microscope_bench.system.processes import Processes, ProcessesError

PATIENCE_SECONDS = 90.0  # network file systems remember for a minute at most that a file was not there
SIGN = ".seen-by-all-"


def check_same_run(processes: Processes, run: Mapping[str, Any]) -> None:
    """Raises a ProcessesError that names the fields in which ``run``, JSON-able, differs between the processes."""
    everyone = processes.gather(json.dumps(run, sort_keys=True))
    for rank, other in enumerate(everyone):
        if differing := named_differences(json.loads(everyone[0]), json.loads(other)):
            raise ProcessesError(
                f"process {rank} is not measuring what process 0 is (different: {differing}). All need "
                f"the same command, files, package versions and kind of device"
            )


@contextmanager
def shared_store(
    processes: Processes, path: Path, run: Mapping[str, Any], *, n_examples: int, part_examples: int
) -> Iterator[TokenStore]:
    """The store of a run, opened in every process; its lock is held. See :meth:`TokenStore.open_or_create`."""
    if not processes.is_first:
        _await_sign(processes, path)
        processes.wait()
        yield TokenStore(path)
        return
    with writing(path):
        store = TokenStore.open_or_create(path, run, n_examples=n_examples, part_examples=part_examples)
        if processes.size > 1:
            _show_sign(processes, path)
        yield store


def _show_sign(processes: Processes, path: Path) -> None:
    for left_by_a_kill in path.glob(f"{SIGN}*"):
        left_by_a_kill.unlink()
    # a name that nothing on another machine can have by chance: a store of the same run may lie there too
    with NamedTemporaryFile(prefix=f"{SIGN}{uuid.uuid4().hex}", dir=path) as sign:
        processes.gather(Path(sign.name).name)
        processes.wait()


def _await_sign(processes: Processes, path: Path) -> None:
    name = processes.gather("")[0]
    if not _appears(path / name):
        raise StoreError(
            f"{path} on {socket.gethostname()} is not the token store that process 0 made: all processes need one "
            f"directory on a file system that they share. Name it with --store, or --output_path"
        )


def await_parts(processes: Processes, store: TokenStore) -> None:
    """Returns once every process has filled its parts and this one sees all of them."""
    processes.wait()
    if processes.size > 1:
        for part in range(store.n_parts):
            if not _appears(store.record_file(part)):
                raise StoreError(
                    f"part {part} of {store.path} was written but does not show on {socket.gethostname()}; give the "
                    f"same command again, and if that does not help name a directory on another disk with --store"
                )


def _appears(file: Path) -> bool:
    end = time.monotonic() + PATIENCE_SECONDS
    while not file.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
        list(file.parent.glob("*"))  # reading a directory makes a network file system look again
    return True
