"""Attention knockout of one model on one task: what flows along which edge, by centre block."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from microscope_bench.adapters.evaluation_mode import evaluation_mode, random_states_kept
from microscope_bench.capture.encoded_ahead import Encoded, Encoding
from microscope_bench.capture.example_record import ExampleRecord
from microscope_bench.capture.failing_examples import of_examples
from microscope_bench.capture.fingerprints import probe_inputs
from microscope_bench.capture.loop import Capture
from microscope_bench.causal.block_proof import prepared
from microscope_bench.causal.edges import Edge
from microscope_bench.causal.knockout import Asked, Knockout, knockout, windows
from microscope_bench.config import OF_FLOW, RunConfig
from microscope_bench.controls import Run, with_control
from microscope_bench.errors import BatchError, MicroscopeError
from microscope_bench.protocol import FLOW_PROTOCOL, named_protocol
from microscope_bench.results.result import COMPLETE, SCHEMA_VERSION, Result
from microscope_bench.results.result_files import check_writable, save_result
from microscope_bench.run.command_line import command_line
from microscope_bench.run.flow_scores import KNOCKOUT, Counted, scores_of
from microscope_bench.run.pipeline import environment_of
from microscope_bench.run.resolve import (
    PROBE_EXAMPLES,
    Resolved,
    Stopwatch,
    identity_of,
    limit_of,
    load_adapter_for,
    load_task_for,
)
from microscope_bench.run.result_building import accuracy_of, failed_result, inputs_of
from microscope_bench.system import signals
from microscope_bench.system.memory import free_memory, out_of_memory
from microscope_bench.system.processes import launched

if TYPE_CHECKING:
    from torch import nn

    from microscope_bench.adapters.base import Adapter
    from microscope_bench.example import ExampleSource
    from microscope_bench.tasks import Task

LOG = logging.getLogger("microscope_bench")


@dataclass(frozen=True)
class Flow:
    """What is cut; None stands for the protocol's own.

    Attributes:
        edges: ``keys->queries``, see :data:`microscope_bench.causal.edges.KEYS`.
        window: odd number of blocks that are cut around each centre.
        counted: "right": the examples whose most likely first token is the right choice; "all" of them.
    """

    edges: Sequence[str] | None = None
    window: int | None = None
    counted: str | None = None

    def __post_init__(self) -> None:
        for name in self.edges or ():  # before a model is loaded
            Edge.read(name)


def flow(
    model: str | Adapter | nn.Module,
    task: str | Task,
    asked: Flow | None = None,
    config: RunConfig | None = None,
    *,
    processor: Any = None,
    **options: Any,
) -> Result:
    """Measures what flows where in one model on one task, by attention knockout.

    For each edge and each centre block, the keys are hidden from the queries in the blocks around it, and the
    probability of the model's own first answer token is read again.

    Args:
        model: as :func:`microscope_bench.evaluate` takes it.
        task: likewise.
        asked: edges, window and which examples count, where they are not the protocol's.
        config: what else is asked for; of its fields, those of :data:`~microscope_bench.config.OF_FLOW`.
        processor: that of a model in memory.
        options: fields of ``asked`` or of the config, in place of theirs: ``window=3``, ``limit=100``, ...

    Returns:
        The result; it is also written if there is an ``output_path``. Nothing is resumed: an interrupted call begins
        anew.

    Raises:
        MicroscopeError: anything a user can act on.
    """
    of_flow = {field.name: options.pop(field.name) for field in fields(Flow) if field.name in options}
    config = replace(config or RunConfig(), **options)
    _check_config(config)
    asked = replace(asked or Flow(), **of_flow)
    if config.output_path is not None:
        check_writable(config.output_path)
    with random_states_kept():
        stopwatch = Stopwatch()
        with stopwatch.stage("load"):
            loaded = load_task_for(task, config)
            adapter = load_adapter_for(model, config, processor)
        resolved = resolve_flow(adapter, loaded, config, asked, stopwatch)
        return run_flow(replace(resolved, model_name=model if isinstance(model, str) else None))


def resolve_flow(adapter: Adapter, task: Task, config: RunConfig, asked: Flow, stopwatch: Stopwatch) -> Resolved:
    """A knockout before its first pass, of a model and a task that are loaded; what cannot be is refused here."""
    if launched().size > 1:
        raise MicroscopeError("attention knockout runs in one process; start it without torchrun or accelerate launch")
    protocol = named_protocol(FLOW_PROTOCOL).with_changes(
        edges=None if asked.edges is None else tuple(dict.fromkeys(Edge.read(name).name for name in asked.edges)),
        window=asked.window,
        counted=asked.counted,
        limit=limit_of(config.limit, task),
        max_skipped=config.max_skipped,
        seed=None if config.seed is None else config.seed.python,
    )
    _check_edges(protocol.edges, task)
    windows(adapter.info.n_layers, protocol.window or 0)
    rows = range(min(len(task), protocol.limit or len(task)))
    source: ExampleSource = task
    if config.control is not None:
        with stopwatch.stage("load"):
            changed = with_control(config.control, Run(adapter, task, len(rows), protocol.seed))
        adapter, source = changed.adapter, changed.source
    with stopwatch.stage("capture"), evaluation_mode(adapter):
        probed = probe_inputs(adapter, source, rows[:PROBE_EXAMPLES])
    identity = identity_of(adapter, source, protocol, rows, probed.prompt_sha256, {KNOCKOUT: 1})
    return Resolved(config, adapter, source, probed, identity, {}, stopwatch)


def run_flow(resolved: Resolved) -> Result:
    """Answers every example, cuts the edges in those that count, and writes the result."""
    config, identity = resolved.config, resolved.identity
    options = {name: value for name, value in identity.protocol.deviations().items() if name in _FLOW_OPTIONS}
    told = {name: ",".join(value) if isinstance(value, tuple) else str(value) for name, value in options.items()}
    model = resolved.model_name or identity.model.name
    command = command_line("microscope-bench flow", config, model=model, tasks=identity.task.name, **told)
    here = environment_of(resolved.adapter, command)
    try:
        records, counted = _measured(resolved)
        scores, folds = scores_of(identity, records, counted)
    except Exception as error:
        if config.output_path is not None:
            LOG.info("the error is noted in %s", save_result(config.output_path, failed_result(resolved, here, error)))
        raise
    result = Result(
        schema_version=SCHEMA_VERSION,
        status=COMPLETE,
        error=None,
        signature=identity.signature(here.package_version),
        identity=identity,
        inputs=inputs_of(
            records,
            chat_template_sha256=resolved.adapter.processing.chat_template_sha256,
            media_sha256=resolved.probed.media_sha256,
            folds=folds,
            copies={},
        ),
        environment=here,
        timing=resolved.stopwatch.record(),
        accuracy=accuracy_of(records),
        sinks=(),
        scores=scores,
    )
    if config.output_path is not None:
        LOG.info("wrote %s", save_result(config.output_path, result))
    return result


_FLOW_OPTIONS = tuple(field.name for field in fields(Flow))


def _check_config(config: RunConfig) -> None:
    plain = RunConfig()
    for field in fields(config):
        if field.name not in (*OF_FLOW, "protocol") and getattr(config, field.name) != getattr(plain, field.name):
            raise MicroscopeError(f"{field.name} means nothing in attention knockout; leave it out")


def _check_edges(edges: Sequence[str], task: Task) -> None:
    if not edges:
        raise MicroscopeError("no edge is named; leave --edges out for those of the protocol")
    media = [name for name in edges if Edge.read(name).media]
    if media and not (task.has_images or task.has_audio):
        raise MicroscopeError(
            f"{task.name} has no pictures, and {', '.join(media)} cannot be cut without; choose a task with pictures "
            f"(shapesqa, scienceqa_img), or --edges question->last"
        )


def _measured(resolved: Resolved) -> tuple[list[ExampleRecord], Counted]:
    """A record of every example, and the knockout of those that count, in order of the ids."""
    adapter, source, protocol, config = resolved.adapter, resolved.source, resolved.protocol, resolved.config
    asked = Asked([Edge.read(name) for name in protocol.edges], protocol.window or 0, protocol.seed)
    rows = range(resolved.n_examples)
    loop = Capture(adapter, source, protocol, config.batch_size)
    hidden = not config.progress
    with evaluation_mode(adapter):
        with (
            resolved.stopwatch.stage("capture"),
            tqdm(total=len(rows), desc="answers", unit="example", disable=hidden) as bar,
        ):
            encoding = Encoding(adapter, source)
            asked = _prepared(adapter, encoding, rows, min(2, loop.batch_size), asked)
            records = loop.answers(rows, bar.update)
        which = [row for row in rows if _may_count(records[row], protocol.counted)]
        counted = Counted()
        with (
            resolved.stopwatch.stage("measure"),
            tqdm(total=len(which), desc="knockout", unit="example", disable=hidden) as bar,
        ):
            size = loop.batch_size
            while which:
                signals.check()
                chunk = which[:size]
                try:
                    ready = encoding.encoded(chunk)
                    counted.add(ready, _cut(adapter, ready, asked), protocol.counted)
                except Exception as error:
                    if len(chunk) == 1 or not (out_of_memory(error) or isinstance(error, BatchError)):
                        raise
                    size = len(chunk) // 2
                    free_memory()
                    LOG.warning("%d examples do not go together; going on with %d", len(chunk), size)
                    continue
                which = which[len(chunk) :]
                bar.update(len(chunk))
    records.sort(key=lambda record: (len(record.id), record.id))
    return records, counted


def _prepared(adapter: Adapter, encoding: Encoding, rows: Sequence[int], size: int, asked: Asked) -> Asked:
    """What is asked for, once ``size`` examples that can be encoded have proved that the model allows it."""
    for start in range(0, len(rows), size):
        ready = encoding.encoded(rows[start : start + size])
        if ready.batch is not None:
            with of_examples(ready.batch.ids, "in the model"):
                return prepared(adapter, ready.batch, asked)
    return asked


def _cut(adapter: Adapter, ready: Encoded, asked: Asked) -> Knockout:
    assert ready.batch is not None  # each of them has been encoded and answered before
    choices = [ids if isinstance(ids := ready.choices.get(row), list) else () for row in range(len(ready.examples))]
    with of_examples(ready.batch.ids, "in the model"):
        return knockout(adapter, ready.batch, asked, choices)


def _may_count(record: ExampleRecord, counted: str | None) -> bool:
    """Whether an example can count; of a task without choices nobody knows what is right, and every one does."""
    if record.skipped is not None:
        return False
    if counted == "right" and record.unscored is not None:
        raise MicroscopeError(
            f"example {record.id}: whether its answer is right cannot be told ({record.unscored}). To count every "
            f"example whatever it answers: --counted all"
        )
    return counted == "all" or bool(record.right) or record.choice_logprobs is None
