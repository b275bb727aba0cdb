"""Puts a Result together: from a measured token store, or from the error that ended a run."""

from __future__ import annotations

import hashlib
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from microscope_bench.capture.example_record import ExampleRecord
from microscope_bench.capture.selection import RULE
from microscope_bench.capture.store import TokenStore
from microscope_bench.measure import Measurement
from microscope_bench.measure.correctness import VERSION as SPLIT_VERSION
from microscope_bench.metrics.registry import METRICS
from microscope_bench.protocol import Protocol
from microscope_bench.results.provenance import failure, without_directories
from microscope_bench.results.result import (
    FAILED,
    Accuracy,
    DatasetRecord,
    Environment,
    Identity,
    Inputs,
    ModelRecord,
    Result,
    Selection,
    Skipped,
    TaskRecord,
)
from microscope_bench.results.result import Timing as TimingRecord


class Timing:
    """Seconds per stage of a run.

    Attributes:
        current: the stage that is under way, or the last one.
    """

    def __init__(self) -> None:
        self.started = datetime.now(UTC)
        self.seconds: dict[str, float] = {}
        self.current = "load"

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time inside the context to a stage."""
        self.current = name
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin

    def record(self) -> TimingRecord:
        """What the result says of it, with the process's peak memory."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds = self.seconds | {"total": sum(self.seconds.values())}
        return TimingRecord(
            started_utc=self.started.strftime("%Y-%m-%dT%H:%M:%SZ"),
            seconds={name: round(value, 3) for name, value in seconds.items()},
            # kilobytes on Linux, bytes on macOS
            peak_memory_bytes=peak if sys.platform == "darwin" else peak * 1024,
        )


def assemble(
    store: TokenStore,
    protocol: Protocol,
    metrics: Sequence[str],
    measurement: Measurement,
    environment: Environment,
    timing: Timing,
    split_by: str | None = None,
) -> Result:
    """The result of a store that was captured and measured.

    Args:
        store: complete; gives the identity, the inputs and the accuracy.
        protocol: under which it was measured.
        metrics: names of the metrics that were asked for.
        measurement: what they gave.
        environment: of the run.
        timing: of the run.
        split_by: by what the scores are split too, or None.
    """
    run, about = store.manifest["run"], store.manifest["about"]
    # in an order that does not depend on the order of examples
    measured = sorted((record for record in store.records if record.skipped is None), key=lambda record: record.id)
    return Result(
        identity=_identity(run, protocol, metrics, measured, split_by),
        inputs=Inputs(
            chat_template_sha256=run["model"]["chat_template_sha256"],
            tokens_sha256=_sha256(record.tokens_sha256 for record in measured),
            media_sha256=about["media_sha256"],
            tokens_seen=_summed(record.tokens_seen for record in measured),
            images_converted=_summed(Counter(record.converted_from) for record in measured),
            skipped=tuple(
                Skipped(record.id, without_directories(record.skipped)) for record in store.records if record.skipped
            ),
        ),
        environment=environment,
        timing=timing.record(),
        sinks=measurement.sinks,
        scores=measurement.scores,
        accuracy=_accuracy(measured),
    )


def assemble_failure(
    run: Mapping[str, Any],
    protocol: Protocol,
    metrics: Sequence[str],
    environment: Environment,
    timing: Timing,
    error: BaseException,
    split_by: str | None = None,
) -> Result:
    """The result that says why there is none."""
    return Result(
        identity=_identity(run, protocol, metrics, None, split_by),
        inputs=Inputs(run["model"]["chat_template_sha256"], tokens_sha256=None, media_sha256=None),
        environment=environment,
        timing=timing.record(),
        status=FAILED,
        error=failure(error, timing.current),
    )


def _identity(
    run: Mapping[str, Any],
    protocol: Protocol,
    metrics: Sequence[str],
    measured: Sequence[ExampleRecord] | None,
    split_by: str | None,
) -> Identity:
    known = {field.name for field in fields(ModelRecord)}
    return Identity(
        protocol=protocol,
        model=ModelRecord(**{name: value for name, value in run["model"].items() if name in known}),
        task=TaskRecord(**run["task"]),
        dataset=DatasetRecord(**run["dataset"]),
        n_examples=len(measured or ()),
        example_ids_sha256=None if measured is None else _sha256(record.id for record in measured),
        prompt_sha256=None if measured is None else _sha256(r.example_sha256 for r in measured),
        selection=Selection(RULE),
        metrics=_versions(metrics, split_by, mainflow="mainflow" in run.get("capture", {})),
    )


def _versions(metrics: Sequence[str], split_by: str | None, *, mainflow: bool) -> dict[str, int]:
    """Version of each metric. A run asked for stream ``mainflow`` or a split has more scores than one that was not."""
    versions = {name: METRICS.get(name).version for name in metrics}
    if mainflow and "linearity" in versions:
        versions["linearity.mainflow"] = versions["linearity"]
    if split_by is not None:
        versions[f"split_by.{split_by}"] = SPLIT_VERSION
    return dict(sorted(versions.items()))


def _accuracy(measured: Sequence[ExampleRecord]) -> Accuracy | None:
    """Share of examples whose right choice is the most likely one; its standard error is that of a mean."""
    asked = [r for r in measured if r.unscored or r.right is not None]
    if not asked:
        return None
    for record in asked:
        if record.unscored:
            return Accuracy(None, None, n=len(asked), reason=f"example {record.id}: {record.unscored}")
    n = len(asked)
    value = sum(bool(record.right) for record in asked) / n
    return Accuracy(value, (value * (1 - value) / (n - 1)) ** 0.5 if n > 1 else None, n)


def _summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))


def _sha256(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
