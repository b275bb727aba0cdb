"""``microscope-bench run``: measure models on tasks."""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from microscope_bench.cli.options import add_config_options, check_device, config_of, names, show
from microscope_bench.config import RunConfig
from microscope_bench.errors import AdapterError, MicroscopeError
from microscope_bench.system.processes import launched

if TYPE_CHECKING:
    from microscope_bench.adapters.base import Adapter
    from microscope_bench.run.resolve import Stopwatch
    from microscope_bench.tasks import Task

T = TypeVar("T")
OF_LM_EVAL = ("log_samples", "gen_kwargs", "predict_only", "write_out", "use_cache", "cache_requests", "max_batch_size")
"""Options of lm-eval that ``run`` has no use for."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describes the verb and its options."""
    parser.description = (
        "Measures each model on each task and writes one result file each. An interrupted run resumes when "
        "the same command is given again. Of several runs one that fails is told at the end, and the others are done."
    )
    model = "see `ls models`; or path/to/file.py:name for an adapter of yours"
    parser.add_argument("--model", required=True, type=names, metavar="NAME,...", help=model)
    tasks = "see `ls tasks`; or groups, tags, patterns, and paths to task YAMLs"
    parser.add_argument("--tasks", required=True, type=names, metavar="NAME,...", help=tasks)
    add_config_options(parser, [field.name for field in fields(RunConfig)])
    again = "measure what has its result below output_path too; else that result is shown"
    parser.add_argument("--again", action="store_true", help=again)
    for option in OF_LM_EVAL:
        parser.add_argument(f"--{option}", nargs="?", action=_PointsToLmEval, help=argparse.SUPPRESS)


class _PointsToLmEval(argparse.Action):
    """Ends the command with the name of the one that has this option."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        parser.error(
            f"{option} is about the answers that a model gives, and `run` asks for none: it is an option of "
            f"microscope-lm-eval, which measures the same geometry along the way (docs/lm_eval.md)"
        )


def run(args: argparse.Namespace) -> int:
    """Measures, prints a summary of each result, and says at the end what failed."""
    for option in ("model", "tasks"):
        if not getattr(args, option):
            raise MicroscopeError(f"--{option} names none; see: microscope-bench ls {option.removesuffix('s')}s")
    config = config_of(args)  # before torch is imported, so that a typing mistake is answered at once
    _check_store(config, len(args.model) * len(args.tasks))

    from microscope_bench.adapters.presets import check_model
    from microscope_bench.results.result_files import check_writable
    from microscope_bench.run.task_settings import task_settings
    from microscope_bench.tasks.expansion import TaskNames
    from microscope_bench.tasks.task_loading import load_specs

    for name in args.model:
        check_model(name, config.model_args)
    check_device(config)
    begin = time.perf_counter()
    specs = TaskNames(config.include_path).expand(args.tasks)
    attempts = _Attempts(len(args.model) * len(specs), args.debug)
    _check_store(config, attempts.n_runs)  # a name may have been that of a group
    if launched().is_first:
        check_writable(args.output_path)
    tasks = load_specs(specs, config.task_args, task_settings(config))
    tasks_seconds = time.perf_counter() - begin
    # imports torch, which a misspelt name need not wait for
    from microscope_bench.run.resolve import Stopwatch, load_adapter_for

    if not (config.progress and launched().is_first):
        _silence_loading_bars()
    statuses = [0]
    for name in args.model:
        begin = time.perf_counter()
        adapter = attempts.attempt(name, partial(load_adapter_for, name, config))
        load_seconds = tasks_seconds + time.perf_counter() - begin
        if adapter is not None:
            on = {f"{name} on {task.name}": task for task in tasks}
            # before the first of them is measured, which may take hours
            fitting = [what for what, task in on.items() if attempts.attempt(what, partial(_fits, adapter, task))]
            for what in fitting:
                how: Any = {"stopwatch": Stopwatch(load=load_seconds), "again": args.again}
                measure = partial(_measure, name, adapter, on[what], config, **how)
                statuses.append(attempts.attempt(what, measure) or 0)
    return attempts.status() or max(statuses)


def _fits(adapter: Adapter, task: Task) -> bool:
    if adapter.needs_image and not task.has_images:
        raise AdapterError(
            f"{adapter.info.name} takes no prompt without a picture, and {task.name} has none; choose another task"
        )
    return True


def _check_store(config: RunConfig, n_runs: int) -> None:
    if config.store is not None and n_runs > 1:
        raise MicroscopeError("--store holds one run; give one model and one task, or leave --store out")


class _Attempts:
    """Goes on past what fails, where there are other runs to do."""

    def __init__(self, n_runs: int, debug: bool) -> None:
        self.n_runs = n_runs
        self._debug = debug
        self._failed: list[str] = []

    def attempt(self, what: str, do: Callable[[], T]) -> T | None:
        """What ``do`` gives, or None, noted, where it fails."""
        try:
            return do()
        except Exception as error:
            # processes that share runs end together: those that are left would wait for this one
            if self.n_runs == 1 or launched().size > 1:
                raise
            if self._debug or not isinstance(error, MicroscopeError):
                traceback.print_exc()
            said = " ".join([str(error) or type(error).__name__, *getattr(error, "__notes__", ())])
            self._failed.append(f"{what}: {said}")
            print(f"microscope-bench: {self._failed[-1]}", file=sys.stderr)
            return None

    def status(self) -> int:
        """The exit status; says what failed, if anything."""
        if self._failed:
            done = "The other runs are done; the same command tries these again:"
            print(f"microscope-bench: {len(self._failed)} failed. {done}", *self._failed, sep="\n  ", file=sys.stderr)
        return 2 if self._failed else 0


def _measure(name: str, adapter: Adapter, task: Task, config: RunConfig, *, stopwatch: Stopwatch, again: bool) -> int:
    """Measures, unless the result is there, and prints; the exit status of this run."""
    from microscope_bench.run.earlier_result import earlier_result
    from microscope_bench.run.pipeline import run_resolved
    from microscope_bench.run.resolve import resolve_loaded

    resolved = resolve_loaded(adapter, task, config, stopwatch)
    there = None if again else launched().from_first(lambda: earlier_result(resolved))
    if there is None:
        return show(run_resolved(replace(resolved, model_name=name)), config)
    path, result = there
    logging.getLogger("microscope_bench").info("the result of this run is there: %s. --again measures it anew", path)
    return show(result, config)


def _silence_loading_bars() -> None:
    """Turns off the progress bars of transformers and of the hub."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
