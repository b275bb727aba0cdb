"""Reads everything in a results directory all the time while runs are killed in it, and tells what was not whole."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from microscope_bench.errors import ResultError
from microscope_bench.results.result import load_result
from microscope_bench.results.result_files import find_results

PAUSE = 0.01


@contextmanager
def watching(root: Path, report: Path) -> Iterator[dict[str, Any]]:
    """Watches inside the context, from another process.

    Args:
        root: the directory.
        report: a file, outside of it, for what the process has to say.

    Yields:
        A mapping that holds, afterwards, ``looks`` (at the whole directory), ``files`` (readings of a JSON file, those
        of token stores included), ``results`` (readings of a result) and ``broken`` (what was not whole).
    """
    found: dict[str, Any] = {}
    ready, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            os.close(writer)
            _watch(root, report, ready)
            status = 0
        finally:
            os._exit(status)
    os.close(ready)
    try:
        yield found
    finally:
        os.close(writer)  # the end of the pipe tells it to stop
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            raise RuntimeError("the watcher failed")
        found.update(json.loads(report.read_text()))


def _watch(root: Path, report: Path, stop: int) -> None:
    os.set_blocking(stop, False)
    counts: dict[str, Any] = {"looks": 0, "files": 0, "results": 0, "broken": []}
    while True:
        counts["looks"] += 1
        for path in _listed(root):
            content = _content(path)
            if content is not None:
                counts["files"] += 1
                try:
                    json.loads(content)
                except ValueError as error:
                    counts["broken"].append(f"{path.name}: {error}")
        for folder in root.iterdir():
            for path in find_results(folder):
                counts["results"] += 1
                try:
                    load_result(path)
                except ResultError as error:
                    if path.exists():
                        counts["broken"].append(str(error))
        try:
            if os.read(stop, 1) == b"":
                break
        except BlockingIOError:
            time.sleep(PAUSE)
    report.write_text(json.dumps(counts))


def _listed(root: Path) -> list[Path]:
    while True:
        try:
            return list(root.rglob("*.json"))
        except FileNotFoundError:  # of a directory that was deleted while it was read
            continue


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:  # deleted since it was listed
        return None
