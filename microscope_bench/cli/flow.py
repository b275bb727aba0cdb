"""``microscope-bench flow``: what flows where, by attention knockout."""

from __future__ import annotations

import argparse
import logging
from typing import TYPE_CHECKING, Any

from microscope_bench.cli.options import add_config_options, config_of, names
from microscope_bench.config import OF_FLOW
from microscope_bench.errors import MicroscopeError
from microscope_bench.protocol import FLOW_PROTOCOL, PROTOCOLS

if TYPE_CHECKING:
    from microscope_bench.results.result import Result

LOG = logging.getLogger("microscope_bench")
_PLAIN = PROTOCOLS[FLOW_PROTOCOL]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describes the verb and its options."""
    parser.description = (
        "Hides the keys of an edge (image->question: the picture) from its queries (the question) in a window of "
        "blocks around each block in turn, and tells by how many percent the probability of the model's own first "
        "answer token changes. Nulls: edges none->question, random->question; --control untrained, shuffled_image. "
        "An interrupted run begins anew."
    )
    parser.add_argument("--model", required=True, type=names, metavar="NAME,...", help="see `ls models`")
    parser.add_argument("--tasks", required=True, type=names, metavar="NAME,...", help="see `ls tasks`")
    said = "what is cut, keys->queries (default: %(default)s)"
    parser.add_argument("--edges", type=names, metavar="KEYS->QUERIES,...", default=",".join(_PLAIN.edges), help=said)
    said = "odd number of blocks that are cut around each (default: %(default)s)"
    parser.add_argument("--window", type=int, metavar="N", default=_PLAIN.window, help=said)
    said = "count the examples whose first token is the right choice, or all of them (default: %(default)s)"
    parser.add_argument("--counted", choices=["right", "all"], default=_PLAIN.counted, help=said)
    add_config_options(parser, OF_FLOW)
    parser.add_argument("--again", action="store_true", help="measure what has its result below output_path too")


def run(args: argparse.Namespace) -> int:
    """Measures each model on each task and prints where each edge matters most."""
    for option in ("model", "tasks"):
        if not getattr(args, option):
            raise MicroscopeError(f"--{option} names none; see: microscope-bench ls {option.removesuffix('s')}s")
    config = config_of(args)

    from microscope_bench.adapters.presets import check_model
    from microscope_bench.results.result_files import check_writable
    from microscope_bench.run.task_settings import task_settings
    from microscope_bench.tasks.expansion import TaskNames
    from microscope_bench.tasks.task_loading import load_specs

    for name in args.model:
        check_model(name, config.model_args)
    specs = TaskNames(config.include_path).expand(args.tasks)
    check_writable(args.output_path)
    tasks = load_specs(specs, config.task_args, task_settings(config))

    from dataclasses import replace

    from microscope_bench.run.earlier_result import earlier_result
    from microscope_bench.run.flow import Flow, resolve_flow, run_flow
    from microscope_bench.run.resolve import Stopwatch, load_adapter_for

    asked = Flow(args.edges, args.window, args.counted)
    for name in args.model:
        stopwatch = Stopwatch()
        with stopwatch.stage("load"):
            adapter = load_adapter_for(name, config)
        for task in tasks:
            resolved = resolve_flow(adapter, task, config, asked, Stopwatch(**stopwatch.seconds))
            there = None if args.again else earlier_result(resolved)
            result = there[1] if there else run_flow(replace(resolved, model_name=name))
            if there:
                LOG.info("the result of this run is there: %s. --again measures it anew", there[0])
            if config.progress:
                print(table(result))
    return 0


def table(result: Result) -> str:
    """For each edge the centre block at which its cut changes the answer the most."""
    from tabulate import tabulate

    from microscope_bench.publish.summary import plus_minus, shown_name
    from microscope_bench.system.printable import printable_lines

    rows: list[list[Any]] = []
    reasons: dict[str, None] = {}
    for edge in result.identity.protocol.edges:
        scores = [score for score in result.scores if score.estimator == edge]
        there = [score for score in scores if score.value is not None]
        if not there:
            reasons.update(dict.fromkeys(f"{edge}: {score.reason}" for score in scores))
            continue
        most = max(there, key=lambda score: abs(score.value or 0.0))
        change = plus_minus(most.value or 0.0, most.stderr or 0.0)
        errors = f"{abs(most.value or 0.0) / most.stderr:.1f}" if most.stderr else "—"
        rows.append([edge, change, most.layer + 1, errors, most.n_examples])
    identity = result.identity
    title = f"{shown_name(result)} on {identity.task.name}, {identity.protocol.label}"
    head = ["edge", "change of p, %", "at block", "in std. errors", "examples"]
    lines = [title, tabulate(rows, head, "simple"), *(f"no value: {reason}" for reason in reasons), result.signature]
    return printable_lines("\n".join(lines))
