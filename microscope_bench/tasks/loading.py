"""From a task's name to a loaded task: find its file, check it, pin and open its data, hand both to lm-eval."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from microscope_bench.errors import MicroscopeError, TaskError
from microscope_bench.registry import unknown_name
from microscope_bench.tasks.data_sets import (
    LOCAL_HINT,
    DatasetIdentity,
    hash_rows,
    is_hub_repository,
    open_splits,
    pin_repository,
)
from microscope_bench.tasks.lm_eval_layer import build_task, describe, find_lm_eval_task, task_fields
from microscope_bench.tasks.task import Task
from microscope_bench.tasks.task_files import IncludePath, field_error, list_tasks, read_task_file, resolve_functions

log = logging.getLogger(__name__)

REPOSITORY_ARGUMENTS = ["dataset_path", "dataset_name", "revision", "data_dir"]
SAME_SPLIT = {"val": "validation", "validation": "val", "valid": "validation"}


def load_task(
    name_or_path: str | Path,
    *,
    include_path: IncludePath = None,
    task_args: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Task:
    """Loads a task and pins its data; no picture is opened yet.

    Args:
        name_or_path: a task's name, or the path of a task YAML. A name is looked for in ``include_path``, then among
            the tasks of this package, and only then among lm-eval's own (which takes several seconds).
        include_path: one or several directories with further task files. Loading one of their tasks runs the Python
            functions that it names.
        task_args: what the task lets one choose: ``data_dir`` (a local copy), ``dataset_path``, ``revision``,
            ``split``, or the parameters of its ``custom_dataset`` function.
        seed: of lm-eval's few-shot sampler, for completeness: prompts have no few-shot examples. Generated data sets
            have their own seed among ``task_args``.

    Raises:
        UnknownNameError: no such task or task argument; the message holds the nearest names.
        TaskError: the task file is broken (the message names file and field), or its data cannot be had.
    """
    path = _find_file(str(name_or_path), include_path)
    config = resolve_functions(_checked(read_task_file(path), path), path)
    metadata = config["metadata"]
    split_rows, identity = _load_split(config, path, dict(task_args or {}))
    rows = _processed(split_rows, config, path)
    ids = _ids(rows, metadata.get("id_column"), path)
    renderer = build_task(config, rows, path)
    if renderer.multiple_input:
        raise field_error(
            path, "doc_to_text", "gives one context per choice; a task measured here has one prompt a row"
        )
    renderer.set_fewshot_seed(seed)
    return Task(
        name=config["task"],
        version=str(metadata.get("version", "unversioned")),
        dataset=identity,
        ids=ids,
        has_images=config.get("doc_to_image") is not None,
        has_audio=config.get("doc_to_audio") is not None,
        description=" ".join(str(metadata.get("description", "")).split()),
        licence=str(metadata.get("licence", "")),
        citation=str(metadata.get("citation", "")).strip(),
        rows=rows,
        renderer=renderer,
    )


def load_tasks(
    names: Sequence[str], *, include_path: IncludePath = None, task_args: Mapping[str, Any] | None = None
) -> list[Task]:
    """Loads several tasks; each gets those of the arguments that it knows.

    Raises:
        UnknownNameError: no such task, or an argument that none of them knows.
        TaskError: see :func:`load_task`.
    """
    given = dict(task_args or {})
    known = {name: _known_arguments(name, include_path) for name in names}
    for argument in given:
        if all(accepted is not None and argument not in accepted for accepted in known.values()):
            every = sorted({a for accepted in known.values() for a in accepted or ()})
            raise unknown_name("task argument", argument, every, f"(task {', '.join(names)})")
    return [
        load_task(
            name,
            include_path=include_path,
            task_args={k: v for k, v in given.items() if accepted is None or k in accepted},
        )
        for name, accepted in known.items()
    ]


def _known_arguments(name: str, include_path: IncludePath) -> list[str] | None:
    """The arguments a task takes, or None where it takes any."""
    path = _find_file(name, include_path)
    custom = resolve_functions(_checked(read_task_file(path), path), path).get("custom_dataset")
    named = REPOSITORY_ARGUMENTS if custom is None else list(_parameters(custom))
    return [*named, "split"] if named else None


def _find_file(name: str, include_path: IncludePath) -> Path:
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    listings = list_tasks(include_path)
    named = [listing for listing in listings if listing.name == name]
    if named:
        first = named[0]
        if first.error:
            raise TaskError(first.error)
        return first.path
    broken = [str(listing.path) for listing in listings if listing.error]
    hint = f"Task files that cannot be read: {', '.join(broken)}. " if broken else ""
    hint += "List the tasks with: microscope-bench ls tasks"
    return find_lm_eval_task(name, [listing.name for listing in listings], hint)


def _checked(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """The configuration, if its fields are known and enough to make examples of."""
    if "group" in config:
        members = [str(m.get("task") if isinstance(m, dict) else m) for m in config.get("task") or []]
        raise TaskError(f"{path} is a group of tasks; name one of its tasks: {', '.join(members)}")
    if "class" in config:
        raise field_error(path, "class", "a task that is a Python class loads its own data, which cannot be pinned")
    known = task_fields()
    for field in config:
        if field not in known:
            raise TaskError(f"{path}: {unknown_name('field', str(field), known)}")
    needed = ["doc_to_text", "doc_to_target"]
    needed += ["doc_to_choice"] if config.get("output_type") == "multiple_choice" else []
    needed += ["dataset_path"] if config.get("custom_dataset") is None else []
    for field in needed:
        if config.get(field) is None:
            raise field_error(path, field, "missing")
    if config.get("num_fewshot"):
        log.warning("%s: asks for %s few-shot examples; measured with none", path, config["num_fewshot"])
    metadata = config.get("metadata")
    return config | {"metadata": metadata if isinstance(metadata, dict) else {}}


def _load_split(config: dict[str, Any], path: Path, task_args: dict[str, Any]) -> tuple[Any, DatasetIdentity]:
    """The rows to evaluate, as they lie in the data set, and which data set that is."""
    wanted = task_args.get("split") or config.get("test_split") or config.get("validation_split")
    if wanted is None:
        raise field_error(path, "test_split", "missing, and so is validation_split")
    custom = config.get("custom_dataset")
    if custom is None:
        field = "dataset_path"
        arguments = _repository_arguments(config, task_args)
    else:
        field = "custom_dataset"
        arguments = _function_arguments(custom, config, task_args, path)
    generated = config["metadata"].get("generated")
    repository, pin = arguments.get("dataset_path"), None
    if (
        isinstance(repository, str)
        and not arguments.get("data_dir")
        and not generated
        and is_hub_repository(repository)
    ):
        pin = pin_repository(repository, arguments.get("revision"))
        arguments |= {"dataset_path": pin.source, "revision": pin.revision}
    try:
        if custom is None:
            options = {k: v for k, v in arguments.items() if k not in ("dataset_path", "dataset_name")}
            splits = open_splits(arguments["dataset_path"], arguments.get("dataset_name"), options)
        else:
            splits = custom(**arguments)
        split = _split_name(splits, wanted)
        rows = splits[split]
        n_rows = len(rows)
    except MicroscopeError:
        raise
    except Exception as error:  # of datasets, of the network, or of the task's own function
        raise field_error(path, field, f"{describe(error)}{f'. Or {LOCAL_HINT}' if pin else ''}") from error
    if n_rows == 0:
        raise field_error(path, field, f"split {split!r} has no rows")
    if pin is not None:
        return rows, DatasetIdentity(str(repository), arguments.get("dataset_name"), pin.sha, split)
    if generated:
        return rows, DatasetIdentity("generated", None, _generated_revision(generated, arguments, path), split)
    return rows, DatasetIdentity("local", None, hash_rows(rows), split)


def _generated_revision(template: str, arguments: Mapping[str, Any], path: Path) -> str:
    try:
        return template.format_map(arguments)
    except (KeyError, ValueError, AttributeError, IndexError) as error:
        raise field_error(path, "metadata.generated", f"{template!r} cannot be filled in: {describe(error)}") from error


def _repository_arguments(config: Mapping[str, Any], task_args: Mapping[str, Any]) -> dict[str, Any]:
    """What ``load_dataset`` is called with: the file's fields, then the task arguments."""
    _refuse_unknown(task_args, [*REPOSITORY_ARGUMENTS, "split"], config["task"])
    given = {key: value for key, value in task_args.items() if key != "split"}
    fields = {key: config.get(key) for key in ("dataset_path", "dataset_name")}
    arguments = {**(config.get("dataset_kwargs") or {}), **fields, **given}
    if "data_dir" in given and not Path(given["data_dir"]).expanduser().is_dir():
        raise TaskError(f"task argument data_dir of {config['task']}: {given['data_dir']} is not a directory")
    if "data_dir" in given and is_hub_repository(arguments["dataset_path"]):
        arguments |= {"dataset_path": given["data_dir"], "data_dir": None, "revision": None}  # a copy of the repository
    return arguments


def _function_arguments(
    function: Callable[..., Any], config: Mapping[str, Any], task_args: Mapping[str, Any], path: Path
) -> dict[str, Any]:
    """What ``custom_dataset`` is called with: as lm-eval does, metadata and dataset_kwargs; then the task arguments."""
    named = _parameters(function)
    if named:  # a function of **kwargs alone does not say what it takes
        _refuse_unknown(task_args, [*named, "split"], config["task"])
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
    """The named parameters of a function with their defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def _refuse_unknown(task_args: Mapping[str, Any], known: list[str], task: str) -> None:
    for name in task_args:
        if name not in known:
            raise unknown_name("task argument", name, known, f"(task {task})")


def _split_name(splits: Any, wanted: str) -> str:
    if not isinstance(splits, Mapping):
        raise TypeError(f"must give split name → Dataset, gives {type(splits).__name__}")
    if wanted in splits:
        return wanted
    other = SAME_SPLIT.get(wanted)
    if other in splits:
        return str(other)
    raise unknown_name("split", wanted, list(splits))


def _processed(rows: Any, config: Mapping[str, Any], path: Path) -> Any:
    process = config.get("process_docs")
    try:
        rows = process(rows) if process is not None else rows
        features, n_rows = rows.features, len(rows)
    except Exception as error:  # the task's own function
        raise field_error(path, "process_docs", describe(error)) from error
    if n_rows == 0 or not features:
        raise field_error(path, "process_docs", "leaves no rows")
    return rows


def _ids(rows: Any, column: str | None, path: Path) -> list[str]:
    """The ids that the task file names a column for, else the rows' numbers."""
    if column is None:
        return [str(index) for index in range(len(rows))]
    if column not in rows.column_names:
        raise field_error(path, "metadata.id_column", f"{unknown_name('column', column, rows.column_names)}")
    # without its format: reading a whole column must not draw or decode the rows' pictures
    ids = [str(value) for value in rows.select_columns([column]).with_format(None)[column]]
    if len(set(ids)) < len(ids):
        twice = next(value for index, value in enumerate(ids) if value in ids[:index])
        raise field_error(path, "metadata.id_column", f"ids must be unique, but {column} holds {twice!r} twice")
    return ids
