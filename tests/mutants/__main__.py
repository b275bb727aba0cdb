"""``python -m tests.mutants``: puts each fault of faults.toml into a copy of the package; do the tests see it?

python -m tests.mutants [--only PATTERN] [--list]

A fault is one line that gives a wrong number, loses a datum or reaches a wrong verdict; none is a crash. The working
tree stays as it is. The tests, but for heavy ones, first run on the unchanged copy, where all of them must pass. Exit
status 1: fewer than nine in ten faults were caught, a test failed without any fault, or the list is stale: the old text
of a fault does not stand exactly once in its file, or pytest could not run its tests.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FAULTS = Path(__file__).with_name("faults.toml")
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", ".hypothesis", ".*_cache", "__pycache__", "build", "dist", "shared")
CAUGHT, MISSED, STALE = "caught", "MISSED", "STALE"
NINE_IN_TEN = 0.9
SECONDS = 900
"""A fault may make a loop endless: tests that have not ended by then have seen it."""


@dataclass(frozen=True)
class Fault:
    """One line of the package, changed.

    Attributes:
        file: path from the root of the repository.
        old: text that stands in the file exactly once.
        new: what takes its place.
        tests: what pytest is given, files or single tests.
        why: what the fault does.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    why: str

    def __str__(self) -> str:
        return f"{self.file.removeprefix('microscope_bench/')}: {self.why}"


def read_faults(path: Path = FAULTS) -> list[Fault]:
    """The faults in the order of the file."""
    rows = tomllib.loads(path.read_text(encoding="utf-8"))["fault"]
    return [Fault(**{**row, "tests": tuple(row["tests"])}) for row in rows]


def is_stale(fault: Fault, root: Path = ROOT) -> bool:
    """Whether the old text does not stand exactly once in the file, or the fault changes nothing."""
    file = root / fault.file
    return not file.is_file() or file.read_text(encoding="utf-8").count(fault.old) != 1 or fault.old == fault.new


def run_tests(root: Path, tests: tuple[str, ...]) -> tuple[int | None, str]:
    """The exit status of pytest in a copy of the repository, None where it did not end in time, and what it said."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not heavy", *tests]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    try:
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return None, f"not done after {SECONDS} s"
    return done.returncode, done.stdout + done.stderr


def verdict(fault: Fault, root: Path) -> str:
    """Whether the tests see a fault that is put into a copy of the repository, which is then as it was."""
    if is_stale(fault, root):
        return STALE
    file = root / fault.file
    sound = file.read_text(encoding="utf-8")
    compiled = Path(cache_from_source(str(file)))
    try:
        file.write_text(sound.replace(fault.old, fault.new), encoding="utf-8")
        compiled.unlink(missing_ok=True)  # it is told by size and second, which may be the same
        status, _ = run_tests(root, fault.tests)
    finally:
        file.write_text(sound, encoding="utf-8")
        compiled.unlink(missing_ok=True)
    # of pytest's statuses 1 is a test that failed; 2 and above, that it could not run them
    return {0: MISSED, 1: CAUGHT, None: CAUGHT}.get(status, STALE)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("--only", metavar="PATTERN", default="", help="faults with this in their file or description")
    parser.add_argument("--list", action="store_true", help="name the faults, and whether the list is stale")
    args = parser.parse_args()
    faults = [fault for fault in read_faults() if args.only in str(fault) or args.only in fault.file]
    if args.list:
        print("\n".join(f"{'STALE  ' if is_stale(fault) else ''}{fault}" for fault in faults))
        return int(any(map(is_stale, faults)) or not faults)
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="microscope-bench-mutants-") as temporary:
        copy = Path(temporary) / "copy"
        shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
        tests = tuple(dict.fromkeys(test for fault in faults for test in fault.tests))
        status, said = run_tests(copy, tests) if faults else (0, "")
        if status != 0:
            print(f"{said[-4000:]}\nwithout any fault these do not pass: {' '.join(tests)}")
            return 1
        for fault in faults:
            start = time.monotonic()
            outcome = verdict(fault, copy)
            found[outcome] += 1
            print(f"{outcome:7s} {time.monotonic() - start:4.0f} s  {fault}", flush=True)
    print(f"{found[CAUGHT]} of {len(faults)} faults caught, {found[MISSED]} missed, {found[STALE]} stale")
    return int(found[CAUGHT] < NINE_IN_TEN * len(faults) or found[STALE] > 0 or not faults)


if __name__ == "__main__":
    sys.exit(main())
