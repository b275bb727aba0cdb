"""Puts a Result together: from a measured token store, or from the error that ended a run."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from microscope_bench.capture.example_record import ExampleRecord
from microscope_bench.measure.scores import Measurement
from microscope_bench.results.provenance import failure, without_directories
from microscope_bench.results.records import Accuracy, Environment, Folds, Inputs, Skipped
from microscope_bench.results.result import COMPLETE, FAILED, SCHEMA_VERSION, Result
from microscope_bench.run.captured import Captured
from microscope_bench.run.resolve import Resolved
from microscope_bench.system.field_types import shortened


def result_of(captured: Captured, measurement: Measurement) -> Result:
    """The result of a token store that was measured."""
    store = captured.store
    run, about = store.manifest["run"], store.manifest["about"]
    return Result(
        schema_version=SCHEMA_VERSION,
        status=COMPLETE,
        error=None,
        signature=captured.identity.signature(captured.environment.package_version),
        identity=captured.identity,
        inputs=inputs_of(
            store.records,
            chat_template_sha256=run["processing"]["chat_template_sha256"],
            media_sha256=about["media_sha256"],
            folds=measurement.folds,
            copies=measurement.copies,
        ),
        environment=captured.environment,
        timing=captured.stopwatch.record(),
        sinks=measurement.sinks,
        scores=measurement.scores,
        accuracy=accuracy_of(store.records),
    )


def failed_result(resolved: Resolved, here: Environment, error: BaseException) -> Result:
    """The result that says why there is none."""
    return Result(
        schema_version=SCHEMA_VERSION,
        status=FAILED,
        error=failure(error, resolved.stopwatch.current),
        signature=resolved.identity.signature(here.package_version),
        identity=resolved.identity,
        inputs=Inputs(
            n_examples=0,
            examples_sha256=None,
            chat_template_sha256=resolved.adapter.processing.chat_template_sha256,
            tokens_sha256=None,
            media_sha256=None,
            tokens_seen={},
            images_converted={},
            skipped=(),
        ),
        environment=here,
        timing=resolved.stopwatch.record(),
        accuracy=None,
        sinks=(),
        scores=(),
    )


def inputs_of(
    records: Sequence[ExampleRecord],
    *,
    chat_template_sha256: str | None,
    media_sha256: str | None,
    folds: Folds,
    copies: Mapping[str, int],
) -> Inputs:
    """What a result says of the examples that went into it, and of those that were skipped."""
    # in an order that does not depend on the order of examples
    measured = sorted((record for record in records if record.skipped is None), key=lambda record: record.id)
    return Inputs(
        n_examples=len(measured),
        examples_sha256=lines_sha256(record.example_sha256 for record in measured),
        chat_template_sha256=chat_template_sha256,
        tokens_sha256=lines_sha256(record.tokens_sha256 for record in measured),
        media_sha256=media_sha256,
        tokens_seen=_summed(record.tokens_seen for record in measured),
        copies=copies,
        images_converted=_summed(Counter(record.converted_from) for record in measured),
        skipped=tuple(
            Skipped(shortened(record.id), shortened(without_directories(record.skipped)))
            for record in records
            if record.skipped
        ),
        folds=folds,
    )


def accuracy_of(records: Iterable[ExampleRecord]) -> Accuracy | None:
    """Share of examples whose right choice is the most likely one; its standard error is that of a mean."""
    measured = sorted((record for record in records if record.skipped is None), key=lambda record: record.id)
    asked = [r for r in measured if r.unscored or r.right is not None]
    if not asked:
        return None
    for record in asked:
        if record.unscored:
            reason = without_directories(f"example {record.id}: {record.unscored}")
            return Accuracy(None, None, n=len(asked), reason=shortened(reason))
    n = len(asked)
    value = sum(bool(record.right) for record in asked) / n
    return Accuracy(value, (value * (1 - value) / (n - 1)) ** 0.5 if n > 1 else None, n, reason=None)


def _summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))


def lines_sha256(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
