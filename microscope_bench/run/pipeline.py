"""The steps of a run after :func:`microscope_bench.run.resolve.resolve`: capture, measure, write."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from msgspec import to_builtins
from tqdm import tqdm

from microscope_bench.adapters.evaluation_mode import evaluation_mode
from microscope_bench.capture.listing import STORES
from microscope_bench.capture.loop import Capture
from microscope_bench.capture.sharing import await_parts, check_same_run, shared_store
from microscope_bench.capture.store import TokenStore
from microscope_bench.config import RunConfig
from microscope_bench.errors import MicroscopeError, StoreError
from microscope_bench.measure.scores import Measurement, measure_tokens
from microscope_bench.protocol import Protocol
from microscope_bench.results.provenance import environment
from microscope_bench.results.records import Environment
from microscope_bench.results.result import Result
from microscope_bench.results.result_files import save_result
from microscope_bench.run.captured import Captured
from microscope_bench.run.command_line import command_line
from microscope_bench.run.resolve import Resolved
from microscope_bench.run.result_building import failed_result, result_of
from microscope_bench.system.field_types import content_sha256
from microscope_bench.system.memory import memory_enough
from microscope_bench.system.processes import ALONE, Processes, ProcessesError, launched

if TYPE_CHECKING:
    from microscope_bench.adapters.base import Adapter

LOG = logging.getLogger("microscope_bench")
PART_EXAMPLES = 16
"""Examples that an interruption can lose at most, unless the batch is larger."""
_TOO_LARGE = (
    "Measure where there is more memory, or with --device cpu: what was captured into --store or --output_path is "
    "still there, and the same command goes on with it"
)


def run_resolved(resolved: Resolved) -> Result:
    """Captures, measures and writes."""
    config, processes = resolved.config, launched()
    if processes.size > 1:
        LOG.info("%d processes share this run", processes.size)
    check_same_run(processes, {"states": resolved.states, "identity": to_builtins(resolved.identity)})
    with opened_store(resolved, processes) as store:
        model = resolved.model_name or resolved.identity.model.name
        command = command_line("microscope-bench run", config, model=model, tasks=resolved.identity.task.name)
        here = environment_of(resolved.adapter, command)
        try:
            captured = capture(resolved, store, here, processes)
            measurement = measure(captured, config, processes)
            result = processes.from_first(lambda: write(captured, measurement, config))
        except Exception as error:
            _note_failure(resolved, store, here, error)
            raise
        if config.keep_store:
            LOG.info("kept the token store %s", store.path)
        elif processes.is_first:
            store.delete()  # while the lock is held: a run that waits for it must not find half of it
    return result


def capture(resolved: Resolved, store: TokenStore, here: Environment, processes: Processes = ALONE) -> Captured:
    """Fills the store with what is missing; the processes share its parts."""
    config = resolved.config
    with resolved.stopwatch.stage("capture"), evaluation_mode(resolved.adapter):
        loop = Capture(resolved.adapter, resolved.source, resolved.protocol, config.batch_size)
        _fill(store, loop, config.progress and processes.is_first, processes)
    if processes.is_first:
        return finish_capture(resolved, store, here)
    return Captured(store, resolved.identity, here, resolved.stopwatch)


def finish_capture(resolved: Resolved, store: TokenStore, here: Environment) -> Captured:
    """Notes in a full store how it was made."""
    store.finish(
        {
            "model": resolved.model_name,
            "config": resolved.config.as_dict(),
            "identity": to_builtins(resolved.identity),
            "media_sha256": resolved.probed.media_sha256,
            "environment": to_builtins(here),
            "capture_seconds": resolved.stopwatch.seconds["capture"],
        }
    )
    return Captured(store, resolved.identity, here, resolved.stopwatch)


def measure(captured: Captured, config: RunConfig, processes: Processes = ALONE) -> Measurement:
    """Scores of the stored states; the processes share the boundaries, and each gets all scores. Needs no model."""
    with captured.stopwatch.stage("measure"), memory_enough(_TOO_LARGE):
        n_layers = captured.identity.model.n_layers
        return measure_tokens(
            captured.store, captured.identity.protocol, config, n_layers=n_layers, processes=processes
        )


def write(captured: Captured, measurement: Measurement, config: RunConfig) -> Result:
    """Puts the result together and, where there is an ``output_path``, writes it: valid, whole, or not at all."""
    result = result_of(captured, measurement)
    if config.output_path is not None:
        LOG.info("wrote %s", save_result(config.output_path, result))
    return result


def environment_of(adapter: Adapter, command: str) -> Environment:
    """Software, hardware and command of a run in this process."""
    device = adapter.device
    gpu = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    return environment(
        device=device.type + gpu,
        processor=adapter.processing.processor,
        image_processor=adapter.processing.image_processor,
        command=command,
    )


@contextmanager
def opened_store(resolved: Resolved, processes: Processes) -> Iterator[TokenStore]:
    """The store of a run, found or made, its lock held."""
    batch_size = resolved.config.batch_size
    with (
        _store_directory(resolved, processes) as directory,
        shared_store(
            processes,
            directory,
            resolved.states,
            n_examples=resolved.n_examples,
            part_examples=-(-max(PART_EXAMPLES, batch_size) // batch_size) * batch_size,
        ) as store,
    ):
        yield store


@contextmanager
def _store_directory(resolved: Resolved, processes: Processes) -> Iterator[Path]:
    config = resolved.config
    if config.store is not None:
        yield config.store
    elif config.output_path is not None:
        stores = config.output_path / STORES
        key = content_sha256(resolved.states)[:16]
        yield stores / key
        if processes.is_first:
            with suppress(OSError):
                stores.rmdir()  # where this was the last one
    elif processes.is_first:
        with tempfile.TemporaryDirectory(prefix="microscope-bench-") as temporary:
            yield processes.from_first(lambda: Path(temporary) / "store")
    else:
        yield processes.from_first(Path)


def _fill(store: TokenStore, loop: Capture, progress: bool, processes: Processes) -> None:
    n_examples = int(store.manifest["n_examples"])
    begun = processes.from_first(lambda: store.missing_parts(progress))
    mine = loop.outdated_parts(store, range(store.n_parts)[processes.rank :: processes.size])
    outdated = [part for found in processes.gather(mine) for part in found]

    def prepared() -> tuple[list[int], int]:
        for part in outdated:
            store.drop_part(part)
        if outdated:
            LOG.info("the task was edited since: %d of %d parts are captured again", len(outdated), store.n_parts)
        missing = sorted({*begun, *outdated})
        to_do = sum(len(store.part_range(part)) - len(store.begun_records(part)) for part in missing)
        if to_do:
            check_space(store.path, loop.adapter, loop.protocol, to_do, mainflow=store.has_mainflow)
        return missing, to_do

    # by one for all: a part must not be dropped that another process has just written
    missing, to_do = processes.from_first(prepared)
    if to_do < n_examples:
        LOG.info("resuming: %d of %d examples were captured before", n_examples - to_do, n_examples)
    bar = tqdm(total=n_examples, initial=n_examples - to_do, desc="capture", unit="example", disable=not progress)
    count = processes.counter()
    with bar:
        loop.fill(store, missing, lambda n: bar.update(n_examples - to_do + count(n) - bar.n), processes)
        await_parts(processes, store)
        bar.update(n_examples - bar.n)


def _note_failure(resolved: Resolved, store: TokenStore, here: Environment, error: Exception) -> None:
    """Says where the captured states are, and writes the result that says why there is none.

    A store that nothing was captured into is removed, so that a disk that was full before is as it was.
    """
    config = resolved.config
    if launched() == ALONE and not any(store.path.glob("parts/*")):
        with suppress(OSError):
            store.delete()
    elif (config.store is not None or config.output_path is not None) and launched().is_first:
        LOG.info("what was captured stays in %s", store.path)
    if config.output_path is None or isinstance(error, ProcessesError):
        return
    failure = failed_result(resolved, here, error)
    try:
        LOG.info("the error is noted in %s", save_result(config.output_path, failure))
    except MicroscopeError as unwritten:  # must not hide the error that it is about
        LOG.warning("the error could not be noted in a result file: %s", unwritten)


def store_bytes(
    n_tokens: int, n_boundaries: int, hidden_size: int, dtype: torch.dtype, *, mainflow: bool = False
) -> int:
    # stream ``mainflow`` has boundary 0 in common with the residual stream
    n_states = 2 * n_boundaries - 1 if mainflow else n_boundaries
    return n_tokens * n_states * hidden_size * dtype.itemsize


def check_space(path: Path, adapter: Adapter, protocol: Protocol, n_examples: int, mainflow: bool = False) -> None:
    """Logs how large a store for ``n_examples`` more will be at most, and raises where the disk of ``path`` is full."""
    info = adapter.info
    n_tokens = n_examples * protocol.tokens_per_example * len(adapter.modalities)
    dtype = getattr(torch, info.dtype)
    needed = store_bytes(n_tokens, info.n_layers + 1, info.hidden_size, dtype, mainflow=mainflow)
    free = shutil.disk_usage(path).free
    LOG.info("token store %s: at most %s; %s are free", path, _size(needed), _size(free))
    if needed > free:
        raise StoreError(
            f"the token store needs up to {_size(needed)}, but {path} has {_size(free)} free. Name a larger disk with "
            f"--store, or keep less with --tokens_per_example or --limit (both show in the signature)"
        )


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:,.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:,.1f} MB"
