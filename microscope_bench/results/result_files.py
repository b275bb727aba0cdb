"""Where result files lie: ``<root>/<org>__<model>/<revision>/<task>.json``, of a control ``<task>~<control>.json``,
of a tap ``<task>~<tap>.json``, of attention knockout ``<task>~flow.json``.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from microscope_bench.errors import ResultError
from microscope_bench.identity import Identity
from microscope_bench.results.document import unwritable
from microscope_bench.results.plausibility import implausible
from microscope_bench.results.result import FAILED, Result, load_result
from microscope_bench.system.disk import locked, remove_leftovers
from microscope_bench.system.printable import printable

LOG = logging.getLogger("microscope_bench")
_LONGEST_NAME = 100
_FAILED_NOTE = "~failed.json"
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")


def safe_name(text: str) -> str:
    """A name that every file system takes as one path component: ``org/model`` becomes ``org__model``."""
    name = re.sub(r"[^A-Za-z0-9._+=-]", "_", text.replace("/", "__"))[:_LONGEST_NAME].rstrip(".")
    name = re.sub(r"^\.+", "_", name)
    return f"_{name}" if not name or _RESERVED.fullmatch(name) else name


def result_path(root: str | Path, result: Result) -> Path:
    """The path a result is to be saved at.

    That of a control has the control's name in place of the bare task's, so it never takes the model's own place.
    A result replaces an earlier one of the same identity, and a failed one. It never replaces a complete result of
    another identity (another protocol, limit, dtype, ...), nor a file that cannot be read: it then goes to
    ``<task>~<first 8 digits of its identity hash>.json`` beside it. A failed result never replaces a complete one; it
    then goes to ``<task>~failed.json``.
    """
    identity = result.identity
    folder = Path(root) / safe_name(identity.model.repo) / safe_name(identity.model.revision)
    task, digest = safe_name(identity.task.name), result.identity_hash
    if identity.protocol.window is not None:
        task = f"{task}~flow"
    if "tap" in identity.model.options:
        task = f"{task}~{safe_name(identity.model.options['tap'])}"
    if identity.model.control:
        task = f"{task}~{safe_name(identity.model.control)}"
    if result.status == FAILED:
        plain = folder / f"{task}.json"
        return plain if _is_free(plain) else folder / f"{task}{_FAILED_NOTE}"
    paths = [folder / f"{name}.json" for name in (task, f"{task}~{digest[:8]}", f"{task}~{digest}")]
    again = (path for path in paths if _holds_identity(path, digest))
    return next(again, None) or next((path for path in paths if _is_free(path)), paths[-1])


def result_of_identity(root: str | Path, identity: Identity) -> tuple[Path, Result] | None:
    """The complete result of that identity below ``root``, at the place where :func:`save_result` writes it."""
    folder = Path(root) / safe_name(identity.model.repo) / safe_name(identity.model.revision)
    for path in sorted(folder.glob("*.json")):
        there = _existing(path)
        if there is not None and there.status != FAILED and there.identity == identity:
            return path, there
    return None


def find_results(root: str | Path) -> list[Path]:
    """Every result file below a directory, sorted by path; hidden files and directories are left out."""
    top = Path(root)
    if os.path.isfile(top):
        raise ResultError(f"{root} is a file; name the directory that holds the results")
    if not os.path.isdir(top):
        raise ResultError(
            f"{root} is not a directory; `microscope-bench run --output_path {root}` fills one with results"
        )
    found = []
    for folder, subfolders, names in os.walk(top):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [Path(folder, name) for name in names if name.endswith(".json") and not name.startswith(".")]
    return sorted(found, key=lambda path: path.relative_to(top).as_posix())


def read_result(path: str | Path) -> Result:
    """As ``load_result``, with a warning of a result that ``validate`` refuses: for whatever is made of files."""
    result = load_result(path)
    if found := implausible(result):
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        LOG.warning("%s: validate refuses this result: %s%s", printable(path), printable(found[0]), more)
    return result


def each_result(paths: Iterable[Path]) -> Iterator[tuple[Path, Result]]:
    """Each path with the result there, read by :func:`read_result` when it is asked for.

    Raises:
        ResultError: some of the files cannot be used; raised behind the last one, with the message of each.
    """
    broken = []
    for path in paths:
        try:
            result = read_result(path)
        except ResultError as error:
            broken.append(str(error))
            continue
        yield path, result
    refuse_broken(broken)


def refuse_broken(reasons: Sequence[str]) -> None:
    """Raises a ResultError with the reasons why files cannot be used, if there are any."""
    if reasons:
        raise ResultError("\n".join([f"{len(reasons)} of the result files cannot be used:", *reasons]))


def check_writable(root: str | Path) -> None:
    """Raises a ResultError unless results can be written below ``root``; call it before a run, not after it."""
    if os.path.isfile(root):
        raise ResultError(f"{root} is a file, and --output_path names the directory that results go below")
    path = Path(root).absolute()
    with _refusing(Path(root)), ExitStack() as probes:
        there = next(one for one in (path, *path.parents) if os.path.exists(one))
        if there != path:  # the run makes it; until then a temporary one tells whether it can be made and locked
            path = Path(probes.enter_context(tempfile.TemporaryDirectory(dir=there)), path.relative_to(there))
        probes.enter_context(locked(path, wait=True))
        probes.enter_context(tempfile.TemporaryFile(dir=path)).write(b"?")


def save_result(root: str | Path, result: Result) -> Path:
    """Writes a result to its place below ``root``, and clears away what a kill left of one beside it.

    Two runs that end at once, of two models or of one model under two limits, do it one after the other, so that none
    takes the place that the other has just taken.
    """
    with _refusing(Path(root)), locked(Path(root), wait=True):
        path = result_path(root, result)
        remove_leftovers(path.parent, r".+\.json")
        result.save(path)
        if result.status != FAILED:
            _forget_failures(path.parent, result)
    return path


def _forget_failures(folder: Path, result: Result) -> None:
    """Deletes the notes of failures of the very run that has now succeeded."""
    for file in folder.glob(f"*{_FAILED_NOTE}"):
        with suppress(ResultError):
            old = load_result(file)
            if old.status == FAILED and old.identity == result.identity:
                file.unlink(missing_ok=True)


@contextmanager
def _refusing(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise unwritable(f"below {root}", error, "another directory with --output_path") from error


def _is_free(path: Path) -> bool:
    """Whether nothing worth keeping lies there: no file, or the result of a failed run."""
    return not path.exists() or ((there := _existing(path)) is not None and there.status == FAILED)


def _holds_identity(path: Path, digest: str) -> bool:
    there = _existing(path)
    return there is not None and there.identity_hash == digest


def _existing(path: Path) -> Result | None:
    try:
        return load_result(path)
    except ResultError:
        return None
