"""From a task's name to a loaded task: find its file, check it, pin and open its data, hand both to lm-eval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from microscope_bench.errors import TaskError, field_error, said, unknown_name
from microscope_bench.tasks.choices import refuse_templates_in_lists
from microscope_bench.tasks.expansion import TaskNames, TaskSpec
from microscope_bench.tasks.fewshot import FewshotDraws, fewshot_pool, fewshot_split, number_of_shots
from microscope_bench.tasks.lm_eval_layer import build_task, task_fields
from microscope_bench.tasks.settings import TaskSettings, measured_rows, seeded
from microscope_bench.tasks.splits import Split, known_arguments, load_split
from microscope_bench.tasks.task import Task
from microscope_bench.tasks.task_files import FunctionReference, IncludePath, read_task_file, resolve_functions

FIELD_KINDS: Sequence[tuple[tuple[type, ...], str, Sequence[str]]] = (
    ((str,), "a name", ("dataset_path", "test_split", "validation_split", "training_split", "fewshot_split")),
    ((str,), "a name", ("output_type", "metadata.id_column", "metadata.generated")),
    ((str, int, float), "text or a number", ("dataset_name", "metadata.version", "description")),
    ((dict,), "a mapping", ("dataset_kwargs", "fewshot_config")),
    ((int,), "a whole number", ("num_fewshot",)),
)
"""What the fields of a task file are that are read here; the others are lm-eval's to refuse."""


def load_task(
    name_or_path: str | Path,
    *,
    include_path: IncludePath = None,
    task_args: Mapping[str, Any] | None = None,
    settings: TaskSettings | None = None,
) -> Task:
    """Loads a task and pins its data; no picture is opened yet.

    Args:
        name_or_path: a task's name, or the path of a task YAML. A name is looked for in ``include_path``, then among
            the tasks of this package, and only then among lm-eval's own (which takes several seconds).
        include_path: one or several directories with further task files. Loading one of their tasks runs the Python
            functions that it names.
        task_args: what the task lets one choose: ``data_dir`` (a local copy), ``dataset_path``, ``revision``,
            ``split``, or the parameters of its ``custom_dataset`` function.
        settings: few-shot examples, system instruction, rows and seeds, as lm-eval's options of these names.

    Raises:
        UnknownNameError: no such task or task argument; the message holds the nearest names.
        TaskError: the task file is broken (the message names file and field), its data cannot be had, a setting does
            not go with it, or the name stands for several tasks.
    """
    specs = TaskNames(include_path).expand([str(name_or_path)])
    if len(specs) != 1:
        listed = ", ".join(spec.name for spec in specs[:8])
        raise TaskError(
            f"{str(name_or_path)!r} stands for {len(specs)} tasks; name one of them, or load all with load_tasks: "
            f"{listed}{', ...' * (len(specs) > 8)}"
        )
    (task,) = load_specs(specs, task_args or {}, settings or TaskSettings())
    return task


def load_tasks(
    names: Sequence[str],
    *,
    include_path: IncludePath = None,
    task_args: Mapping[str, Any] | None = None,
    settings: TaskSettings | None = None,
) -> list[Task]:
    """Loads several tasks; names may be of groups and tags too, or patterns. Each task gets the arguments it knows."""
    return load_specs(TaskNames(include_path).expand(names), task_args or {}, settings or TaskSettings())


def load_specs(specs: Sequence[TaskSpec], task_args: Mapping[str, Any], settings: TaskSettings) -> list[Task]:
    """Loads the tasks that names were expanded to; each gets the arguments it knows."""
    names = [spec.name for spec in specs]
    for task in settings.samples:
        if task not in names:
            raise unknown_name("task in samples", task, names, "A task that samples does not name is measured whole.")
    configs = [_config(spec) for spec in specs]
    known = [known_arguments(config) for config in configs]
    for argument in task_args:
        if all(accepted is not None and argument not in accepted for accepted in known):
            every = sorted({a for accepted in known for a in accepted or ()})
            raise unknown_name("task argument", argument, every, f"(task {', '.join(names)})")
    return [
        _load(spec, config, {k: v for k, v in task_args.items() if accepted is None or k in accepted}, settings)
        for spec, config, accepted in zip(specs, configs, known, strict=True)
    ]


def _config(spec: TaskSpec) -> dict[str, Any]:
    """A task's fields, those of its group among them, functions resolved."""
    own = {"task": spec.name} if spec.inline else read_task_file(spec.path)
    return resolve_functions(_checked(own | dict(spec.changes), spec.path), spec.path)


def _load(spec: TaskSpec, config: dict[str, Any], task_args: dict[str, Any], settings: TaskSettings) -> Task:
    path = spec.path
    shots = number_of_shots(config, settings.num_fewshot, path)
    with seeded(settings.seeds):  # some tasks shuffle choices while they process their rows
        split = load_split(config, path, task_args)
        every_row = _processed(split, config, path)
        pool = fewshot_pool(config, split, every_row, path) if shots else None
    measured = measured_rows(every_row, spec.name, config["metadata"], shots, settings, path)
    with seeded(settings.seeds):
        renderer = build_task(config, measured.rows, path, num_fewshot=shots, pool=pool)
    if shots:
        renderer.set_fewshot_seed(settings.seeds.fewshot)
        renderer.sampler = _draws(renderer.sampler, measured.rows, config, task_args, shots, path)
    return Task(
        config["task"],
        measured.version,
        split.dataset,
        measured.ids,
        measured.rows,
        renderer,
        settings,
        split.directories,
    )


def _draws(
    sampler: Any, rows: Any, config: Mapping[str, Any], task_args: Mapping[str, Any], shots: int, path: Path
) -> FewshotDraws:
    # lm-eval's comparison, None with None too; a split that was asked for takes the place of test_split
    exclude = fewshot_split(config) == (task_args.get("split") or config.get("test_split"))
    draws = FewshotDraws(sampler, rows, exclude_row=exclude)
    try:
        draws.sample(shots)
    except Exception as error:  # lm-eval's samplers assert, Python's raises ValueError
        raise TaskError(
            f"{path}: {shots} few-shot examples cannot be drawn: {said(error)}. Ask for fewer with --num_fewshot"
        ) from error
    return draws


def _checked(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """The configuration, if its fields are known and enough to make examples of."""
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
    if not isinstance(config.get("custom_dataset"), FunctionReference | None):
        raise field_error(path, "custom_dataset", "must be a function of your own: !function utils.load")
    refuse_templates_in_lists(config, path)
    metadata = config["metadata"] if isinstance(config.get("metadata"), dict) else {}
    named = {**config, **{f"metadata.{name}": value for name, value in metadata.items()}}
    for kinds, what, of_kind in FIELD_KINDS:
        for field in of_kind:
            if named.get(field) is not None and (not isinstance(named[field], kinds) or named[field] is True):
                raise field_error(path, field, f"must be {what}, not {named[field]!r:.80}")
    return config | {"metadata": metadata}


def _processed(split: Split, config: Mapping[str, Any], path: Path) -> Any:
    from microscope_bench.tasks.picture_columns import with_picture_columns

    process, rows = config.get("process_docs"), split.rows
    try:
        if process is not None:  # a function that maps the rows makes their picture columns anew
            rows = with_picture_columns(process(rows), config.get("doc_to_image"), split.directories)
        features, n_rows = rows.features, len(rows)
    except Exception as error:  # the task's own function
        raise field_error(path, "process_docs", said(error)) from error
    if n_rows == 0 or not features:
        raise field_error(path, "process_docs", "leaves no rows")
    return rows
