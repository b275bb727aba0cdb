"""Ties everything together: a model, a task and a protocol become a Result."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from microscope_bench.capture.disk_space import check_space
from microscope_bench.capture.fingerprints import probe_inputs, run_identity
from microscope_bench.capture.listing import STORES
from microscope_bench.capture.loop import Capture
from microscope_bench.capture.sharing import await_parts, check_same_run, shared_store
from microscope_bench.capture.store import TokenStore
from microscope_bench.controls import Run, named_control, with_control
from microscope_bench.errors import MicroscopeError
from microscope_bench.measure.correctness import check_split
from microscope_bench.metrics.registry import DEFAULT_METRICS, metric_names
from microscope_bench.protocol import DEFAULT_PROTOCOL, Protocol, named_protocol
from microscope_bench.results.provenance import environment
from microscope_bench.results.result import Result
from microscope_bench.results.result_files import check_writable, save_result
from microscope_bench.run.inputs import Seed, protocol_seed, resolve_limit, resolve_model, resolve_task, task_settings
from microscope_bench.run.measure_store import measured
from microscope_bench.run.result_building import Timing, assemble_failure
from microscope_bench.system.devices import device_name
from microscope_bench.system.key_values import key_values, memory_size
from microscope_bench.system.processes import Processes, ProcessesError, launched

if TYPE_CHECKING:
    from microscope_bench.adapters.base import Adapter
    from microscope_bench.tasks import Task

LOG = logging.getLogger("microscope_bench")
PART_EXAMPLES = 16
"""Examples that an interruption can lose at most, unless the batch is larger."""
PROBE_EXAMPLES = 8
"""Examples encoded before a run, to tell whether a store found on disk is of the same inputs."""


def evaluate(
    model: str | Adapter,
    task: str | Task,
    protocol: str | Protocol = DEFAULT_PROTOCOL,
    limit: float | None = None,
    *,
    model_args: str | Mapping[str, object] | None = None,
    task_args: str | Mapping[str, object] | None = None,
    include_path: str | Path | None = None,
    num_fewshot: int | None = None,
    apply_chat_template: bool | None = None,
    system_instruction: str | None = None,
    samples: Mapping[str, Sequence[int]] | None = None,
    metrics: str | Sequence[str] = DEFAULT_METRICS,
    split_by: str | None = None,
    control: str | None = None,
    tap: str = "language",
    mainflow: bool = False,
    batch_size: int = 8,
    device: str | None = None,
    measure_memory: str | int | None = None,
    tokens_per_example: int | None = None,
    seed: Seed = None,
    max_skipped: float | None = None,
    output_path: str | Path | None = None,
    store: str | Path | None = None,
    keep_store: bool = False,
    progress: bool = True,
    command: Sequence[str] = (),
    load_seconds: float = 0.0,
) -> Result:
    """Measures one model on one task.

    An interrupted call resumes when it is made again with the same arguments and the same ``output_path`` or ``store``.
    Called by several processes (``torchrun``, ``accelerate launch``) with the same arguments it is one run, which they
    share: the first writes the result, and all of them return it.

    Args:
        model: a name (``microscope-bench ls models``), ``path/to/file.py:name``, or a loaded adapter.
        task: a name (``microscope-bench ls tasks``), a path to a task YAML, or a loaded task.
        protocol: a protocol's name, or a Protocol.
        limit: measure only the first examples of the split, below 1 that share of them; a deviation from the protocol.
        model_args: ``pretrained``, ``revision``, ``dtype``, ...; the adapter says which. A mapping or "key=value,...".
        task_args: ``data_dir``, ``revision``, ...; the task says which. A mapping or "key=value,...".
        include_path: directory with further task YAMLs.
        num_fewshot: solved examples before each question (text only); None leaves it to the task.
        apply_chat_template: whether prompts go through the model's chat template; None means where it has one.
        system_instruction: stands before every prompt, as a system turn where there is a chat template.
        samples: task name → rows to measure instead of the whole split; excludes ``limit``.
        metrics: names (``microscope-bench ls metrics``), or "all".
        split_by: "correct" also scores the examples answered rightly and those answered wrongly apart, as many of each.
        control: measure something deliberately changed (``microscope-bench ls controls``); the result says so, and a
            model or task that is given loaded stays as it is.
        tap: where the residual stream is watched: "language", "vision" (the tower's blocks) or "projector".
        mainflow: capture stream ``mainflow`` too, the skip-free chain; doubles the work of the decoder and the store.
        batch_size: examples per forward pass; changes speed and memory, not the protocol.
        device: "cpu", "cuda", ...; None means a GPU where there is one.
        measure_memory: of the device, such as "8GB" or a number of bytes; None means half of what is free on a GPU, and
            no bound elsewhere. Scores are the same whatever it is.
        tokens_per_example: another number than the protocol's; a deviation.
        seed: another seed than the protocol's, a deviation, and of few-shot examples; or lm-eval's four, of which the
            first is the protocol's and the last that of few-shot examples.
        max_skipped: another share of skipped examples than the protocol allows; a deviation.
        output_path: the results directory to write the result into; None writes none.
        store: directory of the token store; default: inside ``output_path``, or a temporary directory.
        keep_store: keep the token store after a result was made, to measure it again.
        progress: show progress bars on standard error.
        command: the command line to note in the result.
        load_seconds: what it took to load a model or task that is given loaded, to note in the result.

    Returns:
        The result; it is also written if there is an ``output_path``.

    Raises:
        MicroscopeError: anything a user can act on; see its subclasses.
    """
    settings = (named_protocol(protocol) if isinstance(protocol, str) else protocol).with_changes(
        tokens_per_example=tokens_per_example, seed=protocol_seed(seed), max_skipped=max_skipped
    )
    asked = task_settings(num_fewshot, system_instruction, samples, seed)
    metrics = metric_names(metrics)
    room = memory_size("measure_memory", measure_memory)
    check_split(split_by)
    if control is not None:
        named_control(control)
    if batch_size < 1:
        raise MicroscopeError(f"batch_size must be at least 1, not {batch_size}")
    processes = launched()
    if output_path is not None and processes.is_first:
        check_writable(Path(output_path))
    progress = progress and processes.is_first
    if processes.size > 1:
        LOG.info("%d processes share this run", processes.size)
    timing = Timing()
    timing.seconds["load"] = load_seconds
    with timing.stage("load"):
        # the task first: it is the cheaper of the two to get wrong
        loaded_task = resolve_task(task, include_path, key_values("task_args", task_args), asked)
        settings = settings.with_changes(limit=resolve_limit(limit, loaded_task))
        adapter = resolve_model(model, key_values("model_args", model_args), device, apply_chat_template).tapped(tap)
    if adapter.info.n_layers == 0 and set(metrics) == {"linearity"}:
        raise MicroscopeError("the projector is one boundary and linearity maps one to the next; choose other metrics")
    n_examples = min(len(loaded_task), settings.limit or len(loaded_task))
    with timing.stage("load"):
        controlled = with_control(control, Run(adapter, loaded_task, n_examples, settings.seed))
    adapter, source = controlled.adapter, controlled.source
    capture = Capture(adapter, source, settings, batch_size)
    with timing.stage("capture"):
        probe = probe_inputs(adapter, source, min(PROBE_EXAMPLES, n_examples))
        chain = capture.find_mainflow() if mainflow else None
    if mainflow and "linearity" not in metrics:
        LOG.warning("stream mainflow is captured, but only metric linearity measures it: --metrics linearity,...")
    if chain is not None and not chain.exists:
        LOG.warning("stream mainflow is left out: %s", chain.missing_because)
    run = run_identity(adapter, source, settings, probe, chain)
    check_same_run(processes, {"run": run, "protocol": settings.as_dict(), "metrics": metrics, "split_by": split_by})
    with (
        _store_directory(store, output_path, run, processes) as directory,
        shared_store(
            processes,
            directory,
            run,
            n_examples=n_examples,
            part_examples=-(-max(PART_EXAMPLES, batch_size) // batch_size) * batch_size,
        ) as token_store,
    ):
        # not before: directories are told by their last part, and only one that exists is known for a directory
        where = environment(
            device=device_name(adapter.device),
            processor=adapter.info.processor,
            image_processor=adapter.info.image_processor,
            command=list(command) or ["evaluate"],
        )
        try:
            with timing.stage("capture"):
                _fill(token_store, capture, progress, processes)
            about = {
                "protocol": settings.as_dict(),
                "media_sha256": probe.media_sha256,
                "environment": asdict(where),
                "capture_seconds": timing.seconds["capture"],
            }
            if processes.is_first:
                token_store.finish(about)
            result = measured(
                token_store, settings, metrics, split_by, where, timing, device, output_path, progress, processes, room
            )
        except Exception as error:
            if (store is not None or output_path is not None) and processes.is_first:
                LOG.info("what was captured stays in %s", directory)
            if output_path is not None and not isinstance(error, ProcessesError):
                _leave_error(
                    Path(output_path), assemble_failure(run, settings, metrics, where, timing, error, split_by)
                )
            raise
        if keep_store:
            LOG.info("kept the token store %s", directory)
        elif processes.is_first:
            token_store.delete()  # while the lock is held: a run that waits for it must not find half of it
    return result


@contextmanager
def _store_directory(
    store: str | Path | None, output_path: str | Path | None, run: Mapping[str, Any], processes: Processes
) -> Iterator[Path]:
    if store is not None:
        yield Path(store)
    elif output_path is not None:
        key = hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:16]
        yield Path(output_path) / STORES / key
        if processes.is_first:
            with suppress(OSError):
                (Path(output_path) / STORES).rmdir()  # where this was the last one
    elif processes.is_first:
        with tempfile.TemporaryDirectory(prefix="microscope-bench-") as temporary:
            yield processes.from_first(lambda: Path(temporary) / "store")
    else:
        yield processes.from_first(Path)


def _fill(store: TokenStore, capture: Capture, progress: bool, processes: Processes) -> None:
    """Captures what is missing."""
    n_examples = int(store.manifest["n_examples"])
    begun = processes.from_first(lambda: store.missing_parts(progress))
    mine = capture.outdated_parts(store, range(store.n_parts)[processes.rank :: processes.size])
    outdated = [part for found in processes.gather(mine) for part in found]

    def prepared() -> tuple[list[int], int]:
        for part in outdated:
            store.drop_part(part)
        if outdated:
            LOG.info("the task was edited since: %d of %d parts are captured again", len(outdated), store.n_parts)
        missing = sorted({*begun, *outdated})
        to_do = sum(len(store.part_range(part)) - len(store.begun_records(part)) for part in missing)
        if to_do:
            check_space(store.path, capture.adapter, capture.protocol, to_do, mainflow=store.has_mainflow)
        return missing, to_do

    # by one for all: a part must not be dropped that another process has just written
    missing, to_do = processes.from_first(prepared)
    if to_do < n_examples:
        LOG.info("resuming: %d of %d examples were captured before", n_examples - to_do, n_examples)
    bar = tqdm(total=n_examples, initial=n_examples - to_do, desc="capture", unit="example", disable=not progress)
    count = processes.counter()
    with bar:
        capture.fill(store, missing, lambda n: bar.update(n_examples - to_do + count(n) - bar.n), processes)
        await_parts(processes, store)
        bar.update(n_examples - bar.n)


def _leave_error(output_path: Path, failure: Result) -> None:
    try:
        LOG.info("the error is noted in %s", save_result(output_path, failure))
    except MicroscopeError as error:  # must not hide the error that it is about
        LOG.warning("the error could not be noted in a result file: %s", error)
