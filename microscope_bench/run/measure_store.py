"""From a token store to a result file, right after the capture or again later."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from microscope_bench.capture.sharing import check_same_run
from microscope_bench.capture.store import TokenStore
from microscope_bench.errors import StoreError
from microscope_bench.measure import measure
from microscope_bench.measure.correctness import check_split
from microscope_bench.metrics.registry import DEFAULT_METRICS, metric_names
from microscope_bench.protocol import Protocol
from microscope_bench.results.provenance import environment
from microscope_bench.results.result import Environment, Result
from microscope_bench.results.result_files import check_writable, save_result
from microscope_bench.run.result_building import Timing, assemble
from microscope_bench.system.devices import pick_device
from microscope_bench.system.key_values import memory_size
from microscope_bench.system.memory import memory_enough
from microscope_bench.system.processes import ALONE, Processes, launched

LOG = logging.getLogger("microscope_bench")
_TOO_LARGE = (
    "Measure where there is more memory, or with --device cpu: what was captured into --store or --output_path is "
    "still there, and the same command goes on with it"
)


def measure_store(
    store: str | Path,
    *,
    metrics: str | Sequence[str] = DEFAULT_METRICS,
    split_by: str | None = None,
    output_path: str | Path | None = None,
    device: str | None = None,
    measure_memory: str | int | None = None,
    progress: bool = True,
    command: Sequence[str] = (),
) -> Result:
    """Measures a kept token store again, without the model.

    Args:
        store: the directory of a complete token store.
        metrics: names (``microscope-bench ls metrics``), or "all".
        split_by: "correct" also scores the examples answered rightly and those answered wrongly apart, as many of each.
        output_path: the results directory to write the result into; None writes none.
        device: where the arithmetic runs; None means a GPU where there is one.
        measure_memory: of the device, such as "8GB" or a number of bytes; None means half of what is free on a GPU, and
            no bound elsewhere. Scores are the same whatever it is.
        progress: show a progress bar on standard error.
        command: the command line to note in the result.

    Raises:
        StoreError: the store is incomplete or damaged.
        MetricError: ``measure_memory`` is less than the least that the metrics need.
    """
    processes = launched()
    room = memory_size("measure_memory", measure_memory)
    token_store, settings = open_finished(store)
    metrics = metric_names(metrics)
    check_split(split_by)
    if output_path is not None and processes.is_first:
        check_writable(Path(output_path))
    check_same_run(processes, {"run": token_store.manifest["run"], "metrics": metrics, "split_by": split_by})
    about = token_store.manifest["about"]
    captured = Environment(**about["environment"])
    where = environment(
        device=captured.device,
        processor=captured.processor,
        image_processor=captured.image_processor,
        command=list(command) or ["measure_store"],
        captured=captured,
    )
    timing = Timing()
    timing.seconds["capture"] = about["capture_seconds"]
    return measured(
        token_store,
        settings,
        metrics,
        split_by,
        where,
        timing,
        device,
        output_path,
        progress and processes.is_first,
        processes,
        room,
    )


def open_finished(store: str | Path) -> tuple[TokenStore, Protocol]:
    """A kept token store that is whole, and the protocol it was captured under.

    Raises:
        StoreError: there is none, it is incomplete or damaged, or of another version.
    """
    token_store = TokenStore(Path(store))
    token_store.check_complete()
    if not token_store.manifest.get("about"):
        raise StoreError(f"{store}: its capture did not end; give the run's command again to finish it")
    try:
        return token_store, Protocol(**token_store.manifest["about"]["protocol"])
    except TypeError as error:
        raise StoreError(f"{store}: its protocol has fields that this version does not know ({error})") from error


def measured(
    store: TokenStore,
    protocol: Protocol,
    metrics: Sequence[str],
    split_by: str | None,
    where: Environment,
    timing: Timing,
    device: str | None,
    output_path: str | Path | None,
    progress: bool,
    processes: Processes = ALONE,
    measure_memory: int | None = None,
) -> Result:
    """The result of a store, written where there is an ``output_path``; see :func:`measure_store`.

    The processes share the boundaries; the first puts the result together, and all of them return it.
    """
    with timing.stage("measure"), memory_enough(_TOO_LARGE):
        measurement = measure(
            store,
            protocol,
            metrics,
            n_layers=store.manifest["run"]["model"]["n_layers"],
            split_by=split_by,
            device=pick_device(device),
            progress=progress,
            processes=processes,
            measure_memory=measure_memory,
        )

    def assembled() -> Result:
        result = assemble(store, protocol, metrics, measurement, where, timing, split_by)
        if output_path is not None:
            LOG.info("wrote %s", save_result(output_path, result))
        return result

    return processes.from_first(assembled)
