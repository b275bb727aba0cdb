"""The rows of a leaderboard from result files; those of many files are read in several processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import parent_process
from pathlib import Path
from threading import Thread

from microscope_bench.errors import ResultError
from microscope_bench.publish.leaderboard.board import ResultRow, row_of
from microscope_bench.results.result_files import read_result, refuse_broken

MANY = 100
"""Files for which a further process is worth its start: they take a second."""

MOST_PROCESSES = 8
"""The process that makes the page of the rows waits for no more than these."""


def rows_of_files(paths: Sequence[Path], page_folder: Path) -> Iterator[ResultRow]:
    """The row of each result file, in their order, at its path relative to the page's folder.

    Raises:
        ResultError: some of the files cannot be used; raised behind the last one, with the message of each.
    """
    read, n_processes = partial(_row, page_folder), min(_cores(), len(paths) // MANY, MOST_PROCESSES)
    with ExitStack() as stack:
        found: Iterable[ResultRow | str] = map(read, paths)
        if n_processes > 1:
            pool = stack.enter_context(ProcessPoolExecutor(n_processes, initializer=_end_with_the_parent))
            found = pool.map(read, paths, chunksize=16)
        broken = []
        for row in found:
            if isinstance(row, str):
                broken.append(row)
            else:
                yield row
    refuse_broken(broken)


def _row(page_folder: Path, path: Path) -> ResultRow | str:
    """The row of a file, or why it cannot be used."""
    try:
        return row_of(Path(os.path.relpath(path, page_folder)).as_posix(), read_result(path))
    except ResultError as error:
        return str(error)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _end_with_the_parent() -> None:
    """Leaves signals to the parent, and ends once it is gone: a killed one tells nobody."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    Thread(target=_wait_for_the_parent, daemon=True).start()


def _wait_for_the_parent() -> None:
    if (parent := parent_process()) is not None:
        parent.join()
    os._exit(1)
