"""How long `measure` takes beside another checkout of this repository, on the same run in a token store of each.

    python benchmarks/measure_against.py STORE --checkout DIR --checkout_store STORE
    python benchmarks/measure_against.py STORE --checkout DIR --checkout_store STORE --slice 5 --json FILE

Each checkout has captured its own store, since their formats may differ. The two commands run in turns of some seconds,
while the other is stopped, so that what else runs on the machine meets both alike; then the slower one runs alone. One
thread each, default metrics, on the CPU.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.timing import write_json

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Spent:
    """What a command took: seconds in which it was not stopped, seconds of the processor, and its peak memory."""

    seconds: float = 0.0
    processor_seconds: float = 0.0
    peak_bytes: int = 0


@dataclass(frozen=True)
class Command:
    """What is run, and the environment variables that it has beside those that are there."""

    arguments: Sequence[str]
    environment: Mapping[str, str]

    def start(self) -> subprocess.Popen[bytes]:
        """Starts it and stops it at once."""
        process = subprocess.Popen(self.arguments, env={**os.environ, **self.environment}, stdout=subprocess.DEVNULL)
        process.send_signal(signal.SIGSTOP)
        return process


def in_turns(commands: Mapping[str, Command], turn: float) -> dict[str, Spent]:
    """Runs every command for ``turn`` seconds, then the next one, until all have ended.

    Raises:
        subprocess.CalledProcessError: one of them failed; the others are ended.
    """
    spent = {name: Spent() for name in commands}
    running = {name: command.start() for name, command in commands.items()}
    try:
        while running:
            for name, process in list(running.items()):
                begin = time.perf_counter()
                process.send_signal(signal.SIGCONT)
                ended = _wait(process, turn)
                spent[name].seconds += time.perf_counter() - begin
                if ended is None:
                    process.send_signal(signal.SIGSTOP)
                    continue
                del running[name]
                status, usage = ended
                process.returncode = os.waitstatus_to_exitcode(status)
                if process.returncode:
                    raise subprocess.CalledProcessError(process.returncode, process.args)
                spent[name].processor_seconds = usage.ru_utime + usage.ru_stime
                spent[name].peak_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    return spent


def _wait(process: subprocess.Popen[bytes], seconds: float) -> tuple[int, Any] | None:
    """Status and resources of a process that ends within that time; None where it does not."""
    until = time.perf_counter() + seconds
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            return status, usage
        if time.perf_counter() >= until:
            return None
        time.sleep(min(0.02, seconds))


def measuring(checkout: Path, store: Path, output: Path) -> Command:
    """``microscope-bench measure`` of one checkout."""
    arguments = [sys.executable, "-m", "microscope_bench", "measure", str(store), "--quiet", "--device", "cpu"]
    return Command(
        [*arguments, "--output_path", str(output)], {"PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"}
    )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="kept by this checkout's `run --keep_store`")
    parser.add_argument("--checkout", type=Path, required=True, help="root of the other checkout")
    parser.add_argument("--checkout_store", type=Path, required=True, help="kept by the other one's")
    parser.add_argument("--slice", type=float, default=20.0, help="seconds of a turn")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        here = measuring(ROOT, args.store.resolve(), Path(directory) / "here")
        other = measuring(args.checkout, args.checkout_store.resolve(), Path(directory) / "other")
        spent = in_turns({"here": here, "other": other}, args.slice)
    rows = [
        (name, *(f"{n:.1f}" for n in (s.seconds, s.processor_seconds, s.peak_bytes / 1e9))) for name, s in spent.items()
    ]
    print(tabulate(rows, ["checkout", "seconds", "processor, s", "peak, GB"], disable_numparse=True))
    print(f"{spent['other'].seconds / spent['here'].seconds:.2f} times as fast as the other checkout")
    if args.json:
        write_json(args.json, {name: asdict(each) for name, each in spent.items()})


if __name__ == "__main__":
    main()
