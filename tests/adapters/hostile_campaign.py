"""Runs the command line on hostile checkpoints, each in a process of its own whose time and memory are measured.

``python -m tests.adapters.hostile_campaign checkpoints|pickles FIRST LAST DIRECTORY`` prints one line of JSON for each.
DIRECTORY holds the valid checkpoints by family.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from tests.adapters import hostile_checkpoints, hostile_pickles

PATIENCE = 90
"""Seconds after which a process is ended, however busy the machine is."""
MEMORY = 6 << 30


def prepare(what: str, seed: int, valid: Path, directory: Path) -> tuple[str, list[str]]:
    """Makes the hostile checkpoint of a seed; returns what was done to it, and the model to load."""
    rng = random.Random(seed)
    if what == "checkpoints":
        change = hostile_checkpoints.CHANGES[seed % len(hostile_checkpoints.CHANGES)]
        family = rng.choice(hostile_checkpoints.FAMILIES)
        shutil.copytree(valid / family, directory)
        change(directory, rng)
        return f"{change.__name__} of {family}", ["hf", f"pretrained={directory}"]
    shutil.copytree(valid / "omnifusion", directory)
    file = directory / rng.choice(("projection.pt", "projection.pt", "special_embeddings.pt"))
    hostile_pickles.spoil(file, rng, f"touch {directory}/RAN")
    return file.name, ["omnifusion", f"pretrained={directory}"]


def outcome(arguments: list[str], log: Path) -> dict[str, Any]:
    """What the command line does in a process of its own: status, seconds of CPU, MB at its peak, and what it says."""
    child = os.fork()
    if not child:
        status = 99
        try:
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 1), os.dup2(descriptor, 2)
            from microscope_bench.cli.main import main

            status = main(arguments)
            sys.stdout.flush()
        finally:
            os._exit(status)
    end = time.monotonic() + PATIENCE
    while True:
        ended, status, used = os.wait4(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            end += PATIENCE
        time.sleep(0.02)
    return {
        "status": os.waitstatus_to_exitcode(status),
        "seconds": round(used.ru_utime + used.ru_stime, 1),
        "megabytes": used.ru_maxrss // 1024,
        "said": log.read_text(errors="replace")[-3000:],
    }


def main() -> None:
    what, first, last, valid = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    warnings.simplefilter("ignore")
    import lm_eval  # noqa: F401

    from microscope_bench.adapters import hf  # noqa: F401
    from microscope_bench.adapters.omnifusion import adapter  # noqa: F401
    from microscope_bench.run import pipeline  # noqa: F401

    for seed in range(first, last):
        directory, results = valid / f"hostile-{seed}", valid / f"results-{seed}"
        done, (model, args) = prepare(what, seed, valid, directory)
        check = ["check", model, "--model_args", args, "--device", "cpu"]
        run = ["run", "--model", model, "--model_args", args, "--device", "cpu", "--tasks", "shapesqa"]
        run += ["--limit", "8", "--output_path", str(results)]
        for arguments in (check, run):
            found = outcome(arguments, valid / f"log-{seed}")
            ran = (directory / "RAN").exists()
            print(json.dumps({"seed": seed, "verb": arguments[0], "done": done, "ran": ran, **found}), flush=True)
        shutil.rmtree(directory), shutil.rmtree(results, ignore_errors=True)


if __name__ == "__main__":
    main()
