"""From a task's fields and arguments to its rows: where the data lie, pinned, and the split that is asked for."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from traceback import walk_tb
from typing import Any

from microscope_bench.errors import MicroscopeError, TaskError, UnknownNameError, field_error, said, unknown_name
from microscope_bench.identity import DatasetInfo
from microscope_bench.system.disk import user_path
from microscope_bench.tasks.data_sets import (
    LOCAL_HINT,
    cache_directories,
    hash_rows,
    is_hub_repository,
    leaves,
    open_splits,
    pin_repository,
)
from microscope_bench.tasks.task_files import CODE

REPOSITORY_ARGUMENTS = ["dataset_path", "dataset_name", "revision", "data_dir"]
SAME_SPLIT = {"val": "validation", "validation": "val", "valid": "validation"}

_NO_ROWS = ("corresponds to no data", "Please pass `features` or at least one example")
"""What datasets says of empty files, and of a generator without rows."""


@dataclass(frozen=True)
class Split:
    rows: Any
    dataset: DatasetInfo
    all_splits: Mapping[str, Any]
    directories: Sequence[Path]  # of a local data set


def known_arguments(config: Mapping[str, Any]) -> list[str] | None:
    """The arguments a task takes; None where it takes any, for a function of ``**kwargs`` alone does not say which."""
    custom = config.get("custom_dataset")
    named = REPOSITORY_ARGUMENTS if custom is None else list(_parameters(custom))
    return [*named, "split"] if named else None


def load_split(config: dict[str, Any], path: Path, task_args: Mapping[str, Any]) -> Split:
    """Opens a task's data set, pinned; the task takes all of ``task_args`` (:func:`known_arguments`)."""
    asked = task_args.get("split")
    split_field = next((name for name in ("test_split", "validation_split") if config.get(name)), None)
    if not (asked or split_field):
        raise field_error(path, "test_split", "missing, and so is validation_split")
    wanted = asked or config[str(split_field)]
    custom = config.get("custom_dataset")
    if custom is None:
        field = "dataset_path"
        arguments = _repository_arguments(config, task_args)
    else:
        field = "custom_dataset"
        arguments = function_arguments(custom, config, task_args)
    generated = config["metadata"].get("generated")
    repository, commit = arguments.get("dataset_path"), None
    no_hub = generated or arguments.get("data_dir")
    if isinstance(repository, str) and not no_hub and is_hub_repository(repository):
        commit, opened = pin_repository(repository, arguments.get("revision"))
        arguments |= opened
    try:
        from microscope_bench.tasks.picture_columns import with_picture_columns

        if custom is None:
            options = {k: v for k, v in arguments.items() if k not in ("dataset_path", "dataset_name")}
            splits = open_splits(arguments["dataset_path"], arguments.get("dataset_name"), options)
        else:
            splits = custom(**arguments)
        try:
            split = split_name(splits, wanted)
        except UnknownNameError as error:
            raise error if asked else field_error(path, str(split_field), error) from error
        if not hasattr(splits[split], "features"):
            kind = type(splits[split]).__name__
            raise TypeError(f"split {split!r} must be a datasets.Dataset, not {kind}: datasets.Dataset.from_list(rows)")
        directories = local_directories(arguments) or (cache_directories() if commit else [])
        rows = with_picture_columns(splits[split], config.get("doc_to_image"), directories)
        n_rows = len(rows)
    except MicroscopeError:
        raise
    except Exception as error:  # of datasets, of the network, or of the task's own function
        reason = _reason(error)
        if custom is None and arguments.get("data_files") and isinstance(error, FileNotFoundError):
            field = "dataset_kwargs.data_files"
        if any(words in f"{error} {reason}" for words in _NO_ROWS):
            raise field_error(path, field, f"split {wanted!r} has no rows") from error
        raise field_error(path, field, f"{reason}{f'. Or {LOCAL_HINT}' if commit else ''}") from error
    if n_rows == 0:
        raise field_error(path, field, f"split {split!r} has no rows")
    if commit is not None:
        dataset = DatasetInfo(str(repository), arguments.get("dataset_name"), commit, split)
    elif generated:
        dataset = DatasetInfo("generated", None, generated_revision(generated, arguments, path), split)
    else:
        dataset = DatasetInfo("local", None, hash_rows(rows, directories), split)
    return Split(rows, dataset, splits, directories)


def local_directories(arguments: Mapping[str, Any]) -> list[Path]:
    """The directories that a data set is opened from, by what ``load_dataset`` or a task's function is given.

    With the caches, into which archives are unpacked and links of a copy of a hub repository lead; none: no local data.
    """
    named = [str(arguments[key]) for key in ("data_dir", "dataset_path") if arguments.get(key)]
    found = [user_path(name) for name in named]
    found += [Path(re.split(r"[*?\[]", file)[0] + "_").parent for file in leaves(arguments.get("data_files"))]
    local = [directory for directory in dict.fromkeys(found) if os.path.isdir(directory)]
    return local and [*local, *cache_directories()]


def _reason(error: BaseException) -> str:
    """What a loader of data says, or what lies behind it: datasets reports that an error occurred, and no more."""
    from datasets.table import CastError

    while type(error).__module__.startswith("datasets") and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, CastError):
        return f"all files of a split must have the columns of its first, but {error.details()}"
    if script := re.search(r"Dataset scripts are no longer supported, but found (\S+)", str(error)):
        return (
            f"there is a loading script ({script[1]}) and no file of data beside it; scripts are never run. Convert "
            f"the data to Parquet, or take the copy that the hub has made: --task_args revision=refs/convert/parquet"
        )
    where = ""
    for frame, line in walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__")).startswith(CODE):
            where = f"in line {line} of {Path(frame.f_code.co_filename).name}"
    return said(error, where)


def generated_revision(template: str, arguments: Mapping[str, Any], path: Path) -> str:
    try:
        return template.format_map(arguments)
    except (KeyError, ValueError, AttributeError, IndexError) as error:
        raise field_error(path, "metadata.generated", f"{template!r} cannot be filled in: {said(error)}") from error


def _repository_arguments(config: Mapping[str, Any], task_args: Mapping[str, Any]) -> dict[str, Any]:
    given = {key: value for key, value in task_args.items() if key != "split"}
    fields = {key: config.get(key) for key in ("dataset_path", "dataset_name")}
    arguments = {**(config.get("dataset_kwargs") or {}), **fields, **given}
    if "data_dir" in given and not os.path.isdir(user_path(given["data_dir"])):
        raise TaskError(f"task argument data_dir of {config['task']}: {given['data_dir']} is not a directory")
    if "data_dir" in given and is_hub_repository(arguments["dataset_path"]):
        arguments |= {"dataset_path": given["data_dir"], "data_dir": None, "revision": None}  # a copy of the repository
    return arguments


def function_arguments(
    function: Callable[..., Any], config: Mapping[str, Any], task_args: Mapping[str, Any]
) -> dict[str, Any]:
    """What ``custom_dataset`` is called with: as lm-eval does, metadata and dataset_kwargs; then the task arguments."""
    named = _parameters(function)
    arguments = {name: default for name, default in named.items() if default is not inspect.Parameter.empty}
    arguments |= {**config["metadata"], **(config.get("dataset_kwargs") or {})}
    for name, value in task_args.items():
        if name == "split" and "split" not in named:
            continue
        try:
            arguments[name] = int(value) if type(arguments.get(name)) is int else value
        except ValueError:
            raise TaskError(f"task argument {name} of {config['task']} must be a whole number, not {value!r}") from None
    return arguments


def _parameters(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def split_name(splits: Any, wanted: str) -> str:
    """The name that a data set has for a split: ``val`` and ``validation`` are the same."""
    if not isinstance(splits, Mapping):
        raise TypeError(f"must give split name → Dataset, gives {type(splits).__name__}")
    if wanted in splits:
        return wanted
    other = SAME_SPLIT.get(wanted)
    if other in splits:
        return str(other)
    raise unknown_name("split", wanted, list(splits), f"The data set has: {', '.join(splits)}")
