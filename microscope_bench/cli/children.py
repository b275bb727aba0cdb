"""A run of a sweep as a process of its own: what it says is passed on, how it ended is found out."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from microscope_bench.system.processes import LOST, VARIABLES
from microscope_bench.system.signals import Stopped

RESULTS_VARIABLE = "MICROSCOPE_BENCH_RESULTS_FILE"
"""Environment variable: the file into which ``run`` writes the paths of its results, for the sweep that started it."""

TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        status: its exit status; negative: the signal that killed it.
        reason: why it failed, in one line.
        results: paths of the results it wrote.
    """

    status: int
    reason: str
    results: tuple[str, ...]


def run_child(arguments: Sequence[str], processes: int) -> Ended:
    """Runs ``microscope-bench run`` with these arguments and waits for it.

    An interrupt is passed on: the run ends as it does when it is interrupted itself, and then this raises.

    Args:
        arguments: options of ``run``.
        processes: how many processes share the run; from two on they are under torchrun.

    Raises:
        KeyboardInterrupt: the interrupt, when the run has ended.
    """
    command = [sys.executable, "-m", "microscope_bench", "run", *arguments]
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command[1:2] = [*launcher, "-m"]
        # torchrun would give each process one core, however many there are
        environment.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // processes)))
    with tempfile.TemporaryDirectory(prefix="microscope-bench-") as directory:
        results_file = Path(directory) / "results.json"
        environment[RESULTS_VARIABLE] = str(results_file)
        # a group of its own: Ctrl-C reaches it once, through us
        child = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, process_group=0)
        stopped: KeyboardInterrupt | None = None
        while True:
            try:
                tail = _passed_on(child)
                status = child.wait()
                break
            except KeyboardInterrupt as stop:
                stopped = stop
                child.send_signal(signal_of(stop))
        if stopped is not None:
            raise stopped
        results = json.loads(results_file.read_text(encoding="utf-8")) if results_file.exists() else []
    return Ended(status, _reason(status, tail), tuple(results))


def signal_of(stop: KeyboardInterrupt) -> int:
    """The number of the signal behind an interrupt."""
    return stop.number if isinstance(stop, Stopped) else int(signal.SIGINT)


def note_results(paths: Sequence[Path]) -> None:
    """Tells the sweep that started this run, if one did, what has been written."""
    if file := os.environ.get(RESULTS_VARIABLE):
        Path(file).write_text(json.dumps([str(path) for path in paths]), encoding="utf-8")


def _passed_on(child: subprocess.Popen[bytes]) -> str:
    """Passes what the child says on as it comes, progress bars included; returns the last of it."""
    tail = b""
    assert child.stderr is not None
    while said := os.read(child.stderr.fileno(), TAIL_BYTES):
        with suppress(OSError):  # nobody reads what we say any more: no reason to leave the run alone
            sys.stderr.buffer.write(said)
            sys.stderr.buffer.flush()
        tail = (tail + said)[-TAIL_BYTES:]
    return tail.decode(errors="replace")


def _reason(status: int, tail: str) -> str:
    r"""One line that says why a run failed.

    >>> _reason(2, "wrote x\nmicroscope-bench: unknown task 'a'\nMore\n")
    "unknown task 'a'"
    >>> _reason(-9, "")
    'killed by SIGKILL'
    """
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    lines = [line.strip() for line in re.split(r"[\r\n]+", tail) if line.strip()]
    for before, line in reversed(list(zip(["", *lines], lines, strict=False))):
        ours = re.match(r"microscope-bench(?: \(process .*?\))?: (.*)", line)
        if ours and not ours[1].startswith(LOST):
            return before if ours[1].startswith("unexpected error") else ours[1]
    killed = re.findall(r"Signal \d+ \((SIG\w+)\)", tail)  # as torchrun tells it
    return f"a process was killed by {killed[0]}" if killed else f"exit status {status}"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
