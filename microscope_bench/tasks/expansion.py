"""From the names a user gives to task files: groups, tags and patterns become the tasks behind them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from microscope_bench.errors import TaskError, field_error, unknown_name
from microscope_bench.tasks.bounded_yaml import DEEPEST
from microscope_bench.tasks.lm_eval_layer import group_fields, lm_eval_names
from microscope_bench.tasks.task_files import IncludePath, read_task_file, scan

MOST_TASKS = 50_000
"""Behind one name, repeated ones included; lm-eval has some 14,000 in all."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskSpec:
    """One task to load; ``changes``, which a group sets, win over the file at ``path``.

    An ``inline`` task is written out inside a group: ``changes`` is all of it, and ``path`` the group's file.
    """

    name: str
    path: Path
    changes: Mapping[str, Any] = field(default_factory=dict)
    inline: bool = False


class TaskNames:
    """All names that can be given: of files in ``include_path``, then of this package, then of lm-eval.

    lm-eval's index takes seconds to build, and is built only for a name that the others do not know, or a pattern.
    """

    def __init__(self, include_path: IncludePath = None) -> None:
        self._files = scan(include_path)
        self._known = {listing.name: listing for listing in reversed(self._files.tasks)}
        self._ours = {*self._known, *self._files.groups, *self._files.tags}
        self._read = cache(read_task_file)

    def expand(self, names: Sequence[str]) -> list[TaskSpec]:
        """The tasks behind names, paths of YAML files, groups, tags and patterns (``mmlu_*``), each once."""
        found: dict[str, TaskSpec] = {}
        for name in names:
            specs = list(islice(self._named(name, {}, ()), MOST_TASKS + 1))
            if len(specs) > MOST_TASKS:
                raise TaskError(f"{name} stands for more than {MOST_TASKS:,} tasks; name its groups one by one")
            if len(specs) != 1 or (specs[0].name != name and not _is_file(name)):
                log.info("%s: %d tasks: %s", name, len(specs), ", ".join(spec.name for spec in specs))
            for spec in specs:
                if found.setdefault(spec.name, spec) != spec:
                    raise TaskError(
                        f"task {spec.name} is asked for twice with different settings, once as {name}; a result could "
                        f"not say which it is. Measure them in two runs"
                    )
        return list(found.values())

    def _named(self, name: str, changes: Mapping[str, Any], within: tuple[str, ...]) -> Iterator[TaskSpec]:
        if name in within:
            raise TaskError(f"group {name} holds itself: {' > '.join((*within, name))[:500]}")
        if len(within) > DEEPEST:
            raise TaskError(f"groups lie in each other more than {DEEPEST} deep: {' > '.join(within)[:500]}")
        if _is_file(name):
            yield from self._file(Path(name), changes, within)
        elif any(mark in name for mark in "*?["):
            matching = sorted(known for known in self._all() if fnmatchcase(known, name))
            if not matching:
                raise TaskError(f"no task, group or tag has a name like {name}; see: microscope-bench ls tasks --all")
            tasks = {known for known in matching if known in self._known or known in lm_eval_names().tasks}
            for known in matching:
                for spec in self._named(known, changes, (*within, name)):
                    # what fits the pattern itself is not asked for a second time by a group that fits it too
                    if known in tasks or spec.name not in tasks:
                        yield spec
        elif name in self._known:
            listing = self._known[name]
            if listing.error:
                raise TaskError(listing.error)
            yield TaskSpec(name, listing.path, changes)
        elif name in self._files.groups:
            yield from self._file(self._files.groups[name], changes, within)
        elif name in self._files.tags:
            for member in sorted(self._files.tags[name]):
                yield from self._named(member, changes, (*within, name))
        elif name in (theirs := lm_eval_names()).tasks:
            yield TaskSpec(name, Path(theirs.tasks[name]), changes)
        elif name in theirs.groups:
            yield from self._file(Path(theirs.groups[name]), changes, within)
        elif name in theirs.tags:
            for member in theirs.tags[name]:
                yield from self._named(member, changes, (*within, name))
        else:
            broken = [str(listing.path) for listing in self._files.tasks if listing.error]
            hint = f"Task files that cannot be read: {', '.join(broken)}. " if broken else ""
            raise unknown_name("task", name, self._all(), hint + "List the tasks with: microscope-bench ls tasks")

    def _all(self) -> list[str]:
        theirs = lm_eval_names()
        return sorted({*self._ours, *theirs.tasks, *theirs.groups, *theirs.tags})

    def _file(self, path: Path, changes: Mapping[str, Any], within: tuple[str, ...]) -> Iterator[TaskSpec]:
        config = self._read(path)
        if "group" in config:
            yield from self._group(config["group"], config, path, changes, within)
        else:
            yield TaskSpec(str(config["task"]), path, changes)

    def _group(
        self, name: str, config: Mapping[str, Any], path: Path, changes: Mapping[str, Any], within: tuple[str, ...]
    ) -> Iterator[TaskSpec]:
        if name in within:
            raise TaskError(f"{path}: group {name} holds itself: {' > '.join((*within, name))[:500]}")
        members = config.get("task")
        if not isinstance(members, list) or not members:
            raise field_error(path, "task", f"must list the members of group {name}")
        structural = group_fields()
        inherited = {key: value for key, value in config.items() if key not in structural} | dict(changes)
        below = (*within, name)
        for member in members:
            if isinstance(member, str):
                yield from self._named(member, inherited, below)
            elif isinstance(member, dict) and isinstance(member.get("group"), str):
                named = member["group"]
                own = {key: value for key, value in member.items() if key != "group"}
                if "task" in member:  # written out here rather than named
                    yield from self._group(named, member, path, inherited, below)
                else:
                    yield from self._named(named, inherited | own, below)
            elif isinstance(member, dict) and isinstance(member.get("task"), str):
                named = member["task"]
                own = inherited | {key: value for key, value in member.items() if key != "task"}
                if named in self._ours or named in self._all():
                    yield from self._named(named, own, below)
                else:
                    yield TaskSpec(f"{name}::{named}", path, own, inline=True)
            else:
                raise field_error(path, "task", f"{member!r} is neither a name nor a mapping with task or group")


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))
