"""``microscope-bench run``: measure a model on tasks."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from microscope_bench.cli.children import note_results
from microscope_bench.cli.options import (
    METRICS_HELP,
    add_measure_memory_option,
    add_model_options,
    add_split_option,
    at_least,
    limit,
    names,
    numbers,
    samples,
    seeds,
    share,
    silence_loading_bars,
    yes_or_no,
)
from microscope_bench.errors import MicroscopeError
from microscope_bench.protocol import DEFAULT_PROTOCOL
from microscope_bench.system.key_values import key_values
from microscope_bench.system.processes import launched

if TYPE_CHECKING:
    from microscope_bench.tasks.settings import TaskSettings

VERB = "run"
STORE_HOLDS_ONE = "--store holds one run; give one task, or leave --store out"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = subparsers.add_parser(
        VERB,
        help="measure a model on one task or several",
        description="Measures a model on tasks and writes one result file each. An interrupted run resumes when the "
        "same command is given again.",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="a YAML file of many runs, each a process of its own: options by their long names, and `runs:`, a list of "
        "what is different in each; options given here count more than the file's. See docs/cluster.md",
    )
    parser.add_argument("--only", type=numbers, metavar="N,...", help="of --config only these entries, from 1")
    add_options(parser)
    parser.set_defaults(func=run_or_sweep)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of one run."""
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="see `ls models`; or path/to/file.py:name for an adapter of yours",
    )
    add_model_options(parser)
    parser.add_argument(
        "--tasks",
        metavar="NAME,...",
        help="see `ls tasks`; or groups, tags, patterns, and paths to task YAMLs",
    )
    parser.add_argument(
        "--task_args",
        default="",
        metavar="KEY=VALUE,...",
        help="for the tasks: data_dir=DIR, revision=...; each gets those that it knows",
    )
    parser.add_argument("--include_path", metavar="DIR", help="directory with further task YAMLs")
    _add_prompt_options(parser)
    parser.add_argument("--protocol", default=DEFAULT_PROTOCOL, metavar="NAME", help="see `ls protocols` (%(default)s)")
    parser.add_argument("--metrics", metavar="NAME,...", help=METRICS_HELP)
    add_split_option(parser)
    parser.add_argument("--control", metavar="NAME", help="measure something deliberately changed; see `ls controls`")
    parser.add_argument(
        "--mainflow",
        action="store_true",
        help="capture the skip-free chain of blocks too, for stream `mainflow`; doubles the work and the store",
    )
    parser.add_argument(
        "--limit",
        type=limit,
        metavar="N",
        help="measure only the first N examples, below 1 that share of them (a deviation)",
    )
    parser.add_argument(
        "--tokens_per_example", type=at_least(1), metavar="N", help="keep N tokens of each modality (a deviation)"
    )
    parser.add_argument(
        "--seed",
        type=seeds,
        metavar="N",
        help="of the token selection and the folds (a deviation), and of few-shot examples; or lm-eval's four, of "
        "which the first and the last are these",
    )
    parser.add_argument(
        "--max_skipped", type=share, metavar="SHARE", help="share of examples that may be unmeasurable (a deviation)"
    )
    parser.add_argument(
        "--batch_size", type=at_least(1), default=8, metavar="N", help="examples per forward pass (%(default)s)"
    )
    add_measure_memory_option(parser)
    parser.add_argument("--output_path", default="results", metavar="DIR", help="where result files go (%(default)s)")
    parser.add_argument("--store", metavar="DIR", help="where the token store goes (default: inside --output_path)")
    parser.add_argument("--keep_store", "--keep-store", action="store_true", help="keep it, to `measure` it again")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def _add_prompt_options(parser: argparse.ArgumentParser) -> None:
    """What decides prompts and examples, under lm-eval's names."""
    parser.add_argument(
        "--num_fewshot", type=at_least(0), metavar="N", help="solved examples before each question (text only)"
    )
    parser.add_argument(
        "--apply_chat_template",
        type=yes_or_no,
        nargs="?",
        const=True,
        metavar="true|false",
        help="whether prompts go through the model's chat template (default: where it has one)",
    )
    parser.add_argument("--system_instruction", metavar="TEXT", help="stands before every prompt")
    parser.add_argument(
        "--samples",
        type=samples,
        metavar="JSON",
        help='rows to measure: {"task": [0, 1, 2]}, or a file of such JSON; excludes --limit',
    )


def run_or_sweep(args: argparse.Namespace) -> int:
    """One run, or those of a file."""
    if args.config is None:
        if args.only is not None:
            raise MicroscopeError("--only chooses among the runs of a file; give it with --config")
        return run(args)
    from microscope_bench.cli.sweep import sweep

    # what the file may not know of: where it is, and what stands before the verb
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--config")
    own.add_argument("--only")
    _, given = own.parse_known_args(args.arguments[args.arguments.index(args.verb) + 1 :])
    return sweep(args.config, given, args.only, add_options, check)


@dataclass(frozen=True)
class Asked:
    """What the options of a run say that argparse alone cannot read.

    Attributes:
        model_args: with the chat template's.
        task_args: as they are.
        tasks: their names.
        metrics: their names.
        settings: of the tasks.
    """

    model_args: dict[str, str]
    task_args: dict[str, str]
    tasks: list[str]
    metrics: list[str]
    settings: TaskSettings


def check(args: argparse.Namespace) -> Asked:
    """Looks at everything that can be wrong with a run's options before anything is loaded.

    Raises:
        MicroscopeError: naming the option.
    """
    from microscope_bench.controls import named_control
    from microscope_bench.metrics.registry import DEFAULT_METRICS, metric_names
    from microscope_bench.protocol import named_protocol
    from microscope_bench.run.inputs import task_settings, with_chat_template

    for option in ("model", "tasks"):
        if not getattr(args, option):
            raise MicroscopeError(f"--{option} is missing; see: microscope-bench ls {option.removesuffix('s')}s")
    tasks = names(args.tasks)
    if not tasks:
        raise MicroscopeError("--tasks names no task; see: microscope-bench ls tasks")
    if args.samples and args.limit is not None:
        raise MicroscopeError("--samples and --limit exclude each other, as in lm-eval; leave one of them out")
    if args.store is not None and len(tasks) > 1:
        raise MicroscopeError(STORE_HOLDS_ONE)
    named_protocol(args.protocol)
    if args.control is not None:
        named_control(args.control)
    return Asked(
        model_args=with_chat_template(key_values("--model_args", args.model_args), args.apply_chat_template),
        task_args=key_values("--task_args", args.task_args),
        tasks=tasks,
        metrics=metric_names(DEFAULT_METRICS if args.metrics is None else args.metrics),
        settings=task_settings(args.num_fewshot, args.system_instruction, args.samples, args.seed),
    )


def run(args: argparse.Namespace) -> int:
    """Measures the model on each task and prints a summary of each result."""
    asked = check(args)  # before torch is imported, so that a typing mistake is answered at once

    from microscope_bench.adapters.presets import load_model
    from microscope_bench.publish.terminal import summary_table, timing_line
    from microscope_bench.results.result_files import result_path
    from microscope_bench.run.evaluate import evaluate
    from microscope_bench.tasks import load_tasks

    speaks = launched().is_first
    if args.quiet or not speaks:
        silence_loading_bars()
    begin = time.perf_counter()
    loaded = load_tasks(asked.tasks, include_path=args.include_path, task_args=asked.task_args, settings=asked.settings)
    if args.store is not None and len(loaded) > 1:  # a group
        raise MicroscopeError(STORE_HOLDS_ONE)
    model = load_model(args.model, asked.model_args, args.device).tapped(args.tap)
    load_seconds = time.perf_counter() - begin
    written: list[Path] = []
    for task in loaded:
        result = evaluate(
            model,
            task,
            args.protocol,
            args.limit,
            metrics=asked.metrics,
            split_by=args.split_by,
            control=args.control,
            mainflow=args.mainflow,
            tap=args.tap,
            batch_size=args.batch_size,
            device=args.device,
            measure_memory=args.measure_memory,
            tokens_per_example=args.tokens_per_example,
            seed=args.seed,
            max_skipped=args.max_skipped,
            output_path=args.output_path,
            store=args.store,
            keep_store=args.keep_store,
            progress=not args.quiet,
            command=args.command,
            load_seconds=load_seconds,
        )
        if speaks:
            print(summary_table(result))
            print(timing_line(result))
            written.append(result_path(args.output_path, result))
            note_results(written)
    return 0
