"""Files and directories of results held against their baselines: which belongs to which, and what came of each."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from microscope_bench.errors import ResultError
from microscope_bench.publish.compare.comparison import (
    DRIFT,
    NOT_COMPARABLE,
    WITHIN,
    Comparison,
    check_names,
    compare_results,
)
from microscope_bench.publish.compare.identities import check_allowed
from microscope_bench.publish.compare.tolerances import DEFAULTS, Tolerances
from microscope_bench.results.result import FAILED, Result
from microscope_bench.results.result_files import find_results, read_result, safe_name


@dataclass(frozen=True)
class FilePair:
    """A result file and its baseline, either None where there is none."""

    name: str
    baseline: Path | None
    new: Path | None
    accept: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparisons:
    outcomes: tuple[tuple[FilePair, Comparison], ...]

    @property
    def status(self) -> int:
        """The worst of all; not comparable where there was nothing to compare."""
        return max((comparison.status for _, comparison in self.outcomes), default=NOT_COMPARABLE)

    @property
    def verdict(self) -> str:
        if len(self.outcomes) == 1:
            return self.outcomes[0][1].verdict
        found = Counter(comparison.status for _, comparison in self.outcomes)
        return (
            f"{len(self.outcomes)} results: {found[WITHIN]} within tolerance, {found[DRIFT]} drifted, "
            f"{found[NOT_COMPARABLE]} not comparable"
        )


def compare_paths(
    baseline: str | Path, new: str | Path, tolerances: Tolerances = DEFAULTS, allow: Iterable[str] = ()
) -> Comparisons:
    """Holds a file against a file, or a directory against a directory.

    ``allow`` names fields of ``identity``, such as ``model.dtype``, that may differ besides the weights.

    Raises:
        ResultError: a path that is not there or holds no result, or a file against a directory. What is wrong with one
            of several files stands in its comparison.
        UnknownNameError: ``allow`` names no such field, or ``tolerances`` what no result has.
    """
    allow = tuple(allow)
    pairs, loaded = _pairs(_local(baseline), _local(new))
    if not pairs:
        raise ResultError(f"neither {baseline} nor {new} holds result files; nothing was compared")
    check_allowed(allow)
    results = [result for result in loaded.values() if isinstance(result, Result)]
    if results:
        check_names(tolerances, results)
    outcomes = ((pair, _compare(pair, loaded, tolerances, allow)) for pair in pairs)
    return Comparisons(tuple((_acceptable(pair, loaded), comparison) for pair, comparison in outcomes))


def compare_to_file(
    result: Result,
    baseline: Path,
    tolerances: Tolerances = DEFAULTS,
    allow: Iterable[str] = (),
    accept: tuple[str, ...] = (),
) -> Comparisons:
    """Holds a result in memory against the file of its baseline; ``accept`` are the commands that replace that file."""
    old = read_result(baseline)
    check_names(tolerances, (old, result))
    pair = FilePair(baseline.name, baseline, baseline, accept if result.status != FAILED else ())
    return Comparisons(((pair, compare_results(old, result, tolerances, allow)),))


Loaded = Mapping[Path, Result | ResultError]


def _local(path: str | Path) -> Path:
    if "://" in str(path):
        raise ResultError(f"{path}: references to the hub or to git are not supported yet; {_GET_A_FILE}")
    if not os.path.exists(path):
        hint = f"; if it is meant as a git reference: not supported yet, {_GET_A_FILE}" if ":" in str(path) else ""
        raise ResultError(f"{path}: no such file or directory{hint}")
    return Path(path)


_GET_A_FILE = "get the file first, for instance `git show REVISION:PATH > baseline.json`, and name that"


def _pairs(baseline: Path, new: Path) -> tuple[list[FilePair], Loaded]:
    if baseline.is_dir() != new.is_dir():
        raise ResultError(f"{baseline} and {new}: one is a file, the other a directory; name two of a kind")
    if not baseline.is_dir():
        accept = shlex.join(["cp", "--", str(new), str(baseline)])
        return [FilePair(new.name, baseline, new, (accept,))], {path: _load(path) for path in (baseline, new)}
    ours = {path.relative_to(baseline).as_posix(): path for path in find_results(baseline)}
    theirs = {path.relative_to(new).as_posix(): path for path in find_results(new)}
    loaded = {path: _load(path) for path in [*ours.values(), *theirs.values()]}
    partners = {name: name for name in ours.keys() & theirs.keys()}
    partners |= _other_revisions(
        {name: loaded[path] for name, path in ours.items() if name not in partners},
        {name: loaded[path] for name, path in theirs.items() if name not in partners},
    )
    pairs = [
        FilePair(name, ours.get(name), theirs[name], _accept(baseline, new, name, name))
        for name in theirs.keys() - partners.values()
    ]
    for name, path in ours.items():
        partner = partners.get(name)
        if partner is None:
            pairs.append(FilePair(name, path, None, (shlex.join(["rm", "--", str(path)]),)))
        else:
            pairs.append(FilePair(partner, path, theirs[partner], _accept(baseline, new, name, partner)))
    return sorted(pairs, key=lambda pair: pair.name), loaded


def _other_revisions(
    ours: Mapping[str, Result | ResultError], theirs: Mapping[str, Result | ResultError]
) -> dict[str, str]:
    """Baseline → new result for files that differ in the directory of their model's revision alone.

    Another revision is what a comparison is about. Only where each side has one such file: otherwise it is not known
    which belongs to which.
    """
    sides: list[dict[str, list[str]]] = []
    for side in (ours, theirs):
        names: dict[str, list[str]] = {}
        for name, result in side.items():
            names.setdefault(_without_revision(name, result), []).append(name)
        sides.append(names)
    first, second = sides
    return {
        first[key][0]: second[key][0]
        for key in first.keys() & second.keys()
        if len(first[key]) == len(second[key]) == 1
    }


def _without_revision(name: str, result: Result | ResultError) -> str:
    folder, slash, file = name.rpartition("/")
    parent, _, revision = folder.rpartition("/")
    if isinstance(result, Result) and revision == safe_name(result.identity.model.revision):
        return f"{parent}{slash}*{slash}{file}"
    return name


def _accept(baseline: Path, new: Path, old_name: str, name: str) -> tuple[str, ...]:
    target = baseline / name
    commands = [] if target.parent.is_dir() else [["mkdir", "-p", "--", str(target.parent)]]
    commands.append(["cp", "--", str(new / name), str(target)])
    if old_name != name:
        commands.append(["rm", "--", str(baseline / old_name)])
    return tuple(map(shlex.join, commands))


def _acceptable(pair: FilePair, loaded: Loaded) -> FilePair:
    new = loaded[pair.new] if pair.new else None
    broken = isinstance(new, ResultError) or (new is not None and new.status == FAILED)
    return replace(pair, accept=()) if broken else pair


def _load(path: Path) -> Result | ResultError:
    try:
        return read_result(path)
    except ResultError as error:
        return error


def _compare(pair: FilePair, loaded: Loaded, tolerances: Tolerances, allow: tuple[str, ...]) -> Comparison:
    if pair.baseline is None:
        return Comparison(problem="there is no baseline for it")
    if pair.new is None:
        return Comparison(problem="the new results lack it")
    baseline, new = loaded[pair.baseline], loaded[pair.new]
    if isinstance(baseline, ResultError):
        return Comparison(problem=f"the baseline is not a valid result: {baseline}")
    if isinstance(new, ResultError):
        return Comparison(problem=f"the new file is not a valid result: {new}")
    return compare_results(baseline, new, tolerances, allow)
