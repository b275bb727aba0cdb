"""A real run in a process of its own that tells what it is doing, and can be killed at an exact place of it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from microscope_bench.capture import loop, store
from microscope_bench.cli.main import main
from microscope_bench.run import pipeline
from microscope_bench.system import disk

Report = Callable[[str], None]


@dataclass(frozen=True)
class Kill:
    """Where a run is to be killed.

    Attributes:
        at: an event, such as "before rename of tensors", or the beginning of a phase.
        delay: seconds after it; None for exactly there, by the process itself.
    """

    at: str
    delay: float | None = None


@dataclass
class Life:
    """What is known of one run.

    Attributes:
        events: (seconds on a clock, what) in order.
        status: exit status; -9 where it was killed.
    """

    events: list[tuple[float, str]] = field(default_factory=list)
    status: int = 0

    @property
    def killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.status == -signal.SIGKILL

    @property
    def captured(self) -> int:
        """Examples that went through the model."""
        return sum(int(what.split()[1]) for _, what in self.events if what.startswith("pass "))

    def seconds(self, begin: str, end: str) -> float:
        """From the first event of one name to the first of another."""
        first = {what: when for when, what in reversed(self.events)}
        return first[end] - first[begin]

    def place(self) -> str:
        """Where it ended: its phase, and its last step where that is one of writing."""
        names = [what for _, what in self.events]
        phase = next((what for what in reversed(names) if what in ("capture", "measure", "end of measure")), "load")
        phase = {"end of measure": "write"}.get(phase, phase)
        last = names[-1] if names else ""
        return f"{phase}: {last}" if " of " in last and last != "end of measure" else phase


def run(command: Sequence[str], kill: Kill | None = None) -> Life:
    """Runs ``microscope-bench`` with a command line in a forked process, and kills it where it is told to."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        status = 70
        try:
            watch(lambda what: _tell(writer, what), kill.at if kill is not None and kill.delay is None else None)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            if "--quiet" in command:
                os.dup2(null, 2)
            status = main(command)
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(writer)
    life, text, deadline = Life(), "", None
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([reader], [], [], left)[0]:
            os.kill(pid, signal.SIGKILL)
            deadline = None
        elif chunk := os.read(reader, 65536):
            *lines, text = (text + chunk.decode()).split("\n")
            life.events += [(float(when), what) for when, _, what in (line.partition(" ") for line in lines)]
            if deadline is None and kill is not None and kill.delay is not None:
                begun = next((when for when, what in life.events if what == kill.at), None)
                deadline = None if begun is None else begun + kill.delay
        else:
            break
    os.close(reader)
    life.status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return life


def watch(report: Report, stop_at: str | None) -> None:
    """Wraps what a run does in this process, so that it reports each step, and kills itself at one of them.

    Args:
        report: gets the name of each step, before or after it.
        stop_at: the step, at its first time; None for none.
    """
    seen: Counter[str] = Counter()

    def mark(what: str) -> None:
        seen[what] += 1
        report(what)
        if what == stop_at and seen[what] == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(owner: Any, name: str, called: str, kind: Callable[..., str | None]) -> None:
        original = getattr(owner, name)

        def wrapped(*args: Any, **options: Any) -> Any:
            of = kind(*args)
            if of:
                mark(f"before {called} of {of}")
            result = original(*args, **options)
            if of:
                mark(f"after {called} of {of}")
            return result

        setattr(owner, name, wrapped)

    write_bytes, save_file = Path.write_bytes, store.save_file

    def write_in_halves(path: Path, content: bytes) -> int:
        write_bytes(path, content[: len(content) // 2])
        mark(f"half of {kind_of(path)}")
        return write_bytes(path, content)

    def save_in_halves(tensors: Any, path: Path, metadata: dict[str, str]) -> None:
        save_file(tensors, path, metadata)
        write_in_halves(path, path.read_bytes())

    capture_part, run_pass, measure = loop.Capture._capture_part, loop.run_pass, pipeline.measure_tokens

    def capture_and_tell(*args: Any) -> Any:
        mark("capture")
        return capture_part(*args)

    def pass_and_tell(adapter: Any, batch: Any, *args: Any, **options: Any) -> Any:
        mark(f"pass {len(batch.ids)}")
        return run_pass(adapter, batch, *args, **options)

    def measure_and_tell(*args: Any, **options: Any) -> Any:
        mark("measure")
        result = measure(*args, **options)
        mark("end of measure")
        return result

    loop.Capture._capture_part, loop.run_pass = capture_and_tell, pass_and_tell
    pipeline.measure_tokens = measure_and_tell
    Path.write_bytes, store.save_file = write_in_halves, save_in_halves
    around(Path, "replace", "rename", lambda path, target: kind_of(path))
    around(Path, "unlink", "delete", lambda path, **_: None if path.suffix == ".tmp" else kind_of(path))
    around(disk, "_sync", "sync", lambda path: kind_of(path))


def kind_of(path: Path) -> str | None:
    """What a file, or its temporary form, is."""
    if path.is_dir() or path.name == disk.LOCK:
        return "lock" if path.name == disk.LOCK else None
    if ".safetensors" in path.name:
        return "tensors"
    if "manifest" in path.name:
        return "manifest"
    return "record" if path.parent.name == "parts" else "result"


def _tell(descriptor: int, what: str) -> None:
    with contextlib.suppress(OSError):
        os.write(descriptor, f"{time.monotonic():.6f} {what}\n".encode())
