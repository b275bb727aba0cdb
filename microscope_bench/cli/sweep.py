"""``microscope-bench run --config FILE``: many runs from one file, each a process of its own."""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml
from tabulate import tabulate

from microscope_bench import __version__
from microscope_bench.cli.children import Ended, run_child, signal_of
from microscope_bench.errors import MicroscopeError, ResultError
from microscope_bench.results.document import write_atomically
from microscope_bench.results.result import load_result
from microscope_bench.system.lazy_registry import unknown_name
from microscope_bench.system.processes import launched

RUNS, PROCESSES = "runs", "processes"
"""Keys of a sweep file that are no options of ``run``."""

DONE, FAILED, BEFORE, NOT_DONE = "done", "failed", "done before", "not done"
DIRECTORY = ".sweep"
"""Below ``--output_path``: which runs of sweeps are done, and what they wrote."""


@dataclass(frozen=True)
class Entry:
    """One run of a sweep.

    Attributes:
        number: from 1, as in the file.
        options: option → its value, those of the command line included.
        arguments: the same as arguments of ``microscope-bench run``.
        processes: how many processes share it.
    """

    number: int
    options: argparse.Namespace
    arguments: tuple[str, ...]
    processes: int

    @property
    def note(self) -> Path:
        """The file that says that it is done: its name changes with every argument, and with the package's version."""
        digest = hashlib.sha256(json.dumps([__version__, *self.arguments]).encode()).hexdigest()[:16]
        return Path(self.options.output_path) / DIRECTORY / f"{digest}.json"


def sweep(
    file: str,
    arguments: Sequence[str],
    only: Sequence[int] | None,
    add_options: Callable[[argparse.ArgumentParser], None],
    check: Callable[[argparse.Namespace], object],
) -> int:
    """Runs what a file lists, goes on past runs that fail, and tells at the end what became of each.

    Args:
        file: the YAML file.
        arguments: options of ``run`` from the command line, which count more than the file's.
        only: numbers of the entries to run; None means all.
        add_options: adds the options of ``run`` to a parser.
        check: raises for options that cannot be followed.

    Returns:
        0, or 2 where a run failed, or 128 + the number of the signal that stopped the sweep.

    Raises:
        MicroscopeError: the file is not as it should be; nothing has run then.
    """
    if launched().size > 1:
        raise MicroscopeError(
            f"--config starts its runs by itself and is not launched by torchrun; write `{PROCESSES}: N` into {file}"
        )
    entries = read_entries(file, arguments, add_options, check)
    if only is not None and not set(only) <= {entry.number for entry in entries}:
        raise MicroscopeError(f"--only {','.join(map(str, only))}: {file} has entries 1 to {len(entries)}")
    chosen = [entry for entry in entries if only is None or entry.number in only]
    rows: list[tuple[Entry, str, str]] = []
    stopped = 0
    try:
        for entry in chosen:
            rows.append((entry, *_run_entry(entry, len(entries))))
    except KeyboardInterrupt as stop:  # the child has ended
        stopped = signal_of(stop)
    rows += [(entry, NOT_DONE, "") for entry in chosen[len(rows) :]]
    table = [(e.number, e.options.model, e.options.tasks, status, what) for e, status, what in rows]
    print(tabulate(table, ["run", "model", "tasks", "status", "result, or why there is none"]))
    if stopped:
        print(f"microscope-bench: {signal.Signals(stopped).name} stopped the sweep; the same command goes on with it")
        return 128 + stopped
    return 2 if any(status == FAILED for _, status, _ in rows) else 0


def read_entries(
    file: str,
    arguments: Sequence[str],
    add_options: Callable[[argparse.ArgumentParser], None],
    check: Callable[[argparse.Namespace], object],
) -> list[Entry]:
    """The runs that a file lists, every option of each checked; see :func:`sweep`."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    add_options(parser)
    defaults = vars(parser.parse_args([]))
    unset = argparse.Namespace(**dict.fromkeys(defaults, argparse.SUPPRESS))
    overridden = {key for key, value in vars(parser.parse_args(arguments, unset)).items() if value != argparse.SUPPRESS}
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise MicroscopeError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise MicroscopeError(f"{file} cannot be read as YAML: {error}") from error
    if not isinstance(content, dict) or not isinstance(runs := content.pop(RUNS, None), list) or not runs:
        raise MicroscopeError(f"{file} needs `{RUNS}:`, a list of mappings from options of `run` to their values")
    _known(f"{file}", content, {*defaults, RUNS, PROCESSES})
    entries = []
    for number, own in enumerate(runs, start=1):
        where = f"{file}, entry {number} of {RUNS}"
        if not isinstance(own, dict):
            raise MicroscopeError(f"{where} is {own!r}, not a mapping from options of `run` to their values")
        _known(where, own, {*defaults, PROCESSES})
        merged = {key: value for key, value in {**content, **own}.items() if key not in overridden}
        processes = merged.pop(PROCESSES, 1)
        if not isinstance(processes, int) or isinstance(processes, bool) or processes < 1:
            raise MicroscopeError(f"{where}: {PROCESSES} must be a whole number of at least 1, not {processes!r}")
        try:
            written = [piece for key, value in merged.items() for piece in _option(key, value, defaults[key])]
            given = (*written, *arguments)
            options = parser.parse_args(given)
            check(options)
        except MicroscopeError as error:
            raise MicroscopeError(f"{where}: {error}") from error
        entries.append(Entry(number, options, given, processes))
    return entries


def _known(where: str, given: Mapping[Any, object], known: set[str]) -> None:
    for key in given:
        if key not in known:
            raise MicroscopeError(f"{where}: {unknown_name('option', str(key), sorted(known))}")


def _option(name: str, value: Any, default: object) -> list[str]:
    """A key of the file and its value as the command line has them."""
    if value is None:
        return []
    if default is False:  # a flag
        if not isinstance(value, bool):
            raise MicroscopeError(f"{name} is a flag: true or false, not {value!r}")
        return [f"--{name}"] if value else []
    if isinstance(value, dict):
        if name == "samples":
            return [f"--{name}={json.dumps(value)}"]
        value = [f"{key}={_text(one)}" for key, one in value.items() if one is not None]
    if isinstance(value, list):
        value = ",".join(map(_text, value))
    return [f"--{name}={_text(value)}"]


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _run_entry(entry: Entry, of: int) -> tuple[str, str]:
    """Status of a run, and its results or what went wrong."""
    found = _results_noted(entry.note)
    name = f"run {entry.number} of {of}: {entry.options.model} on {entry.options.tasks}"
    if found is not None:
        print(f"{name}: done before", file=sys.stderr)
        return BEFORE, ", ".join(found)
    print(name, file=sys.stderr)
    try:
        ended = run_child(entry.arguments, entry.processes)
    except (OSError, ValueError) as error:  # no room for a process or its files; another run may need less
        ended = Ended(2, f"it could not be started, or not be followed: {error}", ())
    if ended.status != 0:
        print(f"{name}: failed: {ended.reason}", file=sys.stderr)
        return FAILED, ended.reason
    try:
        write_atomically(entry.note, json.dumps({"arguments": entry.arguments, "results": ended.results}, indent=1))
    except ResultError as error:
        print(f"{name}: done, but the same command will do it again: {error}", file=sys.stderr)
    return DONE, ", ".join(ended.results)


def _results_noted(note: Path) -> list[str] | None:
    """The results of a run that is done, where all of them are still there."""
    try:
        results = [str(path) for path in json.loads(note.read_text(encoding="utf-8"))["results"]]
        whole = all(load_result(path).status == "complete" for path in results)
    except (OSError, ValueError, KeyError, TypeError, ResultError):
        return None
    return results if whole else None


class _Parser(argparse.ArgumentParser):
    """Raises where argparse would end the program."""

    def error(self, message: str) -> NoReturn:
        raise MicroscopeError(message)
