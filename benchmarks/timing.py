"""What the speed scripts have in common: interleaved runs, facts about the machine, and figures written as JSON."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "transformers",
    "scikit-learn",
    "scikit-dimension",
    "dadapy",
    "llm-microscope",
    "microscope-bench",
)


def interleaved(callables: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each callable, run in turn: A, B, A, B, ... so that what else runs on the machine meets all alike.

    On a GPU the queue is emptied before the clock is read.

    Args:
        callables: name → what is timed.
        repeats: rounds, at least 1.
    """
    seconds: dict[str, list[float]] = {name: [] for name in callables}
    for _ in range(repeats):
        for name, run in callables.items():
            synchronize()
            begin = time.perf_counter()
            run()
            synchronize()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def synchronize() -> None:
    """Waits for what a GPU still has to do; nothing where there is none."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine() -> dict[str, Any]:
    """What a figure depends on beside the code: processor, threads, versions, date. No name of a host, and no path."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "packages": versions,
        "date": datetime.now(UTC).date().isoformat(),
    }


def processor() -> str:
    """The model of the CPU, or its architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_json(path: str | Path, measured: Mapping[str, Any]) -> None:
    """Writes what was measured, with :func:`machine` beside it."""
    Path(path).write_text(json.dumps({"machine": machine(), **measured}, indent=2, allow_nan=False) + "\n")
