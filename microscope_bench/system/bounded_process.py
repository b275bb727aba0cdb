"""Runs a program that may not end, or may want all memory, in a process of its own with bounds on both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SECONDS, BYTES = 2, 1 << 30
_LATEST = 60  # of a machine that is busy: the limit is of the processor's time
_BEGINNING = """
import json, sys
given = json.load(sys.stdin)
sys.path[:] = given.pop("sys.path")
{imports}
from microscope_bench.system.bounded_process import limit_this_process
limit_this_process({bytes}, {seconds})
try:
{program}
except MemoryError:
    sys.exit({memory})
"""
_MEMORY = 77


def limit_this_process(more_bytes: int, more_seconds: int | None = None) -> None:
    """Bounds how much memory (on Linux, which keeps such a limit) and processor time a process takes from now on."""
    import resource

    bounds = []
    if more_seconds is not None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        bounds.append((resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + more_seconds))
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        bounds.append((resource.RLIMIT_AS, pages * resource.getpagesize() + more_bytes))
    for kind, most in bounds:
        hardest = resource.getrlimit(kind)[1]
        most = most if hardest == resource.RLIM_INFINITY else min(most, hardest)
        resource.setrlimit(kind, (most, most))


def used_up(program: str, given: Mapping[str, Any], imports: str = "") -> str | None:
    """What a program uses up, in words, or None where it ends within :data:`SECONDS` and :data:`BYTES` more.

    Args:
        program: Python that finds ``given`` and, where it raises something else than a MemoryError, has ended.
        given: what it is given; goes through JSON.
        imports: what is imported before the limits hold.
    """
    indented = "\n".join(f"    {line}" for line in program.splitlines())
    code = _BEGINNING.format(imports=imports, seconds=SECONDS, bytes=BYTES, memory=_MEMORY, program=indented)
    content = json.dumps({**given, "sys.path": sys.path})
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        command = [sys.executable, "-c", code]
        ended = subprocess.run(command, input=content.encode(), timeout=_LATEST, env=environment, check=False, **quiet)
    except subprocess.TimeoutExpired:
        return f"more than {_LATEST} seconds"
    if ended.returncode == _MEMORY:
        return f"more than {BYTES >> 20} MiB of memory"
    # killed at the limit of time, or broken by a limit of memory where nothing catches it
    return f"more than {SECONDS} seconds, or {BYTES >> 20} MiB of memory" if ended.returncode < 0 else None
