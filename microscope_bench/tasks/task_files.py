"""Task files on disk: which there are, and what one says."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from microscope_bench.errors import TaskError, field_error, said
from microscope_bench.system.disk import user_path
from microscope_bench.system.local_code import FreshLoader
from microscope_bench.tasks.bounded_yaml import DEEPEST, BeyondBounds, BoundedLoader, load_bounded, read_text
from microscope_bench.tasks.lm_eval_layer import LmEvalNames, lm_eval_directory, lm_eval_names

IncludePath = str | Path | Sequence[str | Path] | None

CODE = "microscope_bench_task_file"
"""What the module names of Python files beside task files begin with."""


@dataclass(frozen=True)
class TaskListing:
    """One task file; a broken one has an ``error``, and for a name what it seems to be called."""

    name: str
    description: str
    path: Path
    error: str | None = None
    citation: str = ""


@dataclass(frozen=True)
class TaskFiles:
    tasks: list[TaskListing]
    groups: dict[str, Path]
    tags: dict[str, list[str]]


@dataclass(frozen=True)
class FunctionReference:
    """A ``!function module.name`` of a task file in ``directory`` that has not been imported yet."""

    spec: str
    directory: Path


def builtin_task_dir() -> Path:
    """The directory of the tasks that come with this package, in a wheel or in a checkout."""
    package = Path(__file__).resolve().parent.parent
    shipped = package / "_tasks"
    return shipped if shipped.is_dir() else package.parent / "tasks"


def include_directories(include_path: IncludePath) -> list[Path]:
    given = [include_path] if isinstance(include_path, str | Path) else list(include_path or ())
    directories = [user_path(directory) for directory in given]
    for directory in directories:
        if not os.path.isdir(directory):
            raise TaskError(f"include_path {directory} is not a directory; it must hold task YAML files")
    return directories


def list_tasks(include_path: IncludePath = None, *, everything: bool = False) -> list[TaskListing]:
    """The tasks that can be named, broken files among them; sorted by name within each directory."""
    listings = scan(include_path).tasks
    if everything:
        own = {listing.name for listing in listings}
        listings += [
            TaskListing(n, "", Path(path)) for n, path in sorted(lm_eval_names().tasks.items()) if n not in own
        ]
    return listings


def list_groups(include_path: IncludePath = None, *, everything: bool = False) -> list[TaskListing]:
    """The groups, then the tags, that can be named; what each is stands in place of a description."""
    found = scan(include_path)
    theirs = lm_eval_names() if everything else LmEvalNames({}, {}, {})
    groups = {name: Path(path) for name, path in theirs.groups.items()} | found.groups
    tags = theirs.tags | found.tags
    listed = [TaskListing(name, "group", groups[name]) for name in sorted(groups)]
    return [*listed, *(TaskListing(name, f"tag of {len(tags[name])} tasks", Path()) for name in sorted(tags))]


def scan(include_path: IncludePath = None) -> TaskFiles:
    """Every task, group and tag of ``include_path`` and of this package."""
    tasks: list[TaskListing] = []
    groups: dict[str, Path] = {}
    tags: dict[str, list[str]] = {}
    for root in [*include_directories(include_path), builtin_task_dir()]:
        own = TaskFiles([], {}, {})
        _scan_into(own, root)
        tasks += sorted(own.tasks, key=lambda found: found.name)
        groups = own.groups | groups
        tags = own.tags | tags
    return TaskFiles(tasks, groups, tags)


def refuse_beyond_bounds(directory: str | Path) -> None:
    """Raises a TaskError for a file from which lm-eval, which reads all of a directory, would not come back."""
    for path in sorted(user_path(directory).rglob("*.yaml")):
        try:
            _read_yaml(path, (), {})
        except TaskError as error:
            behind = error.__cause__
            if isinstance(behind, BeyondBounds | OSError) and not isinstance(behind, FileNotFoundError):
                raise


def _scan_into(found: TaskFiles, root: Path) -> None:
    for path in sorted(root.rglob("*.yaml")):
        if {"__pycache__", ".ipynb_checkpoints"} & set(path.parts):
            continue
        is_part = path.name.startswith("_")
        try:
            config = read_task_file(path)
        except TaskError as error:
            if not is_part:
                found.tasks.append(TaskListing(_presumed_name(path), "", path, error=str(error)))
            continue
        if "group" in config:
            found.groups.setdefault(config["group"], path)
        if "group" in config or is_part:
            continue
        metadata = config.get("metadata")
        description, citation = (
            " ".join(text.split())
            if isinstance(metadata, dict) and isinstance(text := metadata.get(field), str)
            else ""
            for field in ("description", "citation")
        )
        found.tasks.append(TaskListing(config["task"], description, path, citation=citation))
        tagged = config.get("tag") or []
        for tag in tagged if isinstance(tagged, list) else [tagged]:
            if isinstance(tag, str):
                found.tags.setdefault(tag, []).append(config["task"])


def _presumed_name(path: Path) -> str:
    try:
        text = read_text(path)
    except (OSError, ValueError):  # a link to nothing, a directory, a pipe
        return path.stem
    found = re.search(r"^task:\s*['\"]?([\w./-]+)", text, re.MULTILINE)
    return found.group(1) if found else path.stem


def read_task_file(path: Path) -> dict[str, Any]:
    """A task file with its includes merged in; functions stay :class:`FunctionReference`."""
    config = _read_yaml(path, (), {})
    if not isinstance(config.get("group") if "group" in config else config.get("task"), str):
        raise field_error(path, "task", "missing, or not a name; every task file needs `task: its_name`")
    return config


def _read_yaml(path: Path, including: tuple[Path, ...], read: dict[Path, dict[str, Any]]) -> dict[str, Any]:
    """One YAML file with its includes; a later include wins, the file's own keys win over all (as in lm-eval).

    A file of ``read`` is not read again, so that files that include each other many times take no longer than once.
    """
    where = f"{including[-1]}: field include: {path}" if including else str(path)
    try:
        # not resolve(), which raises for a link to itself
        path = Path(os.path.realpath(user_path(path)))
        if path in including or len(including) == DEEPEST:
            raise field_error(including[-1], "include", f"{path} includes itself, or more than {DEEPEST} follow it")
        if path in read:
            return read[path]
        text = read_text(path)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL, a text that is no UTF-8
        raise TaskError(f"{where} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        config = load_bounded(text, _loader(path.parent))
    except Exception as error:  # PyYAML lets through what its constructors raise: ValueError for an impossible date
        raise TaskError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise TaskError(f"{path}: a task file is a YAML mapping of fields, this is {type(config).__name__}")
    includes = config.pop("include", [])
    merged: dict[str, Any] = {}
    for include in includes if isinstance(includes, list) else [includes]:
        if not isinstance(include, str):
            raise field_error(path, "include", f"must be a file name, not {include!r:.80}")
        merged |= _read_yaml(path.parent / include, (*including, path), read)
    read[path] = merged | config
    return read[path]


def _loader(directory: Path) -> type[BoundedLoader]:
    class Loader(BoundedLoader):
        """Safe YAML and, as its only addition, lm-eval's ``!function`` tag."""

        keys_repeat = directory.is_relative_to(lm_eval_directory())  # as they do in some files of lm-eval

    def function_reference(loader: yaml.SafeLoader, node: yaml.Node) -> FunctionReference:
        if not isinstance(node, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(
                None, None, "!function must be followed by module.name", node.start_mark
            )
        return FunctionReference(str(loader.construct_scalar(node)), directory)

    Loader.add_constructor("!function", function_reference)
    return Loader


def resolve_functions(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """The same configuration with every ``!function`` imported. This runs the Python files beside the task file."""
    modules: dict[Path, ModuleType] = {}

    def resolve(value: Any, field: str) -> Any:
        if isinstance(value, FunctionReference):
            try:
                return _import_function(value, modules)
            except (Exception, SystemExit) as error:  # the user's own code runs here and may raise anything
                raise field_error(path, field, f"!function {value.spec}: {said(error)}") from error
        if isinstance(value, dict):
            return {key: resolve(item, f"{field}.{key}") for key, item in value.items()}
        if isinstance(value, list):
            return [resolve(item, f"{field}[{index}]") for index, item in enumerate(value)]
        return value

    return {field: resolve(value, field) for field, value in config.items()}


def _import_function(reference: FunctionReference, modules: dict[Path, ModuleType]) -> Any:
    """A function of ``module.py`` beside the task file or, where there is none, of an installed module."""
    module_name, _, name = reference.spec.rpartition(".")
    if not module_name:
        raise ValueError("must be module.name")
    file = (reference.directory / f"{module_name.replace('.', '/')}.py").resolve()
    if not file.is_file():
        return getattr(importlib.import_module(module_name), name)
    if file not in modules:
        name_here = f"{CODE}:{file.with_suffix('')}"
        spec = importlib.util.spec_from_file_location(name_here, file, loader=FreshLoader(name_here, str(file)))
        assert spec is not None and spec.loader is not None  # as for every .py file
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses and pickling look their module up here
        spec.loader.exec_module(module)
        modules[file] = module
    return getattr(modules[file], name)
