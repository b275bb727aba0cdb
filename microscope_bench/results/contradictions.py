"""What no JSON Schema says: that the fields of a result fit each other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from microscope_bench.results.records import Accuracy, Score, Sinks
from microscope_bench.system.field_types import ONE_LINE


def in_scores(scores: Sequence[Score], metrics: Mapping[str, int], n_layers: int) -> Iterator[str]:
    """Rows that are there twice, of a layer or a metric that there is not, or with both a value and a reason."""
    labels = {row.estimator for row in scores}.union(*(row.flags for row in scores if row.flags))
    yield from (f"scores: {label!r} is not one line of text" for label in labels if not re.match(ONE_LINE, label))
    seen: dict[tuple[object, ...], int] = {}
    for index, row in enumerate(scores):
        if row.value is None or row.reason is not None:
            yield from in_value(f"scores[{index}]", row)
        if row.replicates and row.value is None:
            yield f"scores[{index}].replicates: those of no value"
        if row.layer > n_layers:
            yield f"scores[{index}].layer: {row.layer} lies outside 0..{n_layers}"
        if row.metric not in metrics:
            yield f"scores[{index}].metric: {row.metric!r} has no version in identity.metrics"
        first = seen.setdefault((row.metric, row.estimator, row.stream, row.modality, row.tokens, row.layer), index)
        if first != index:
            yield f"scores[{index}]: the same metric, estimator, stream, modality, tokens and layer as scores[{first}]"


def in_value(where: str, row: Score | Accuracy) -> Iterator[str]:
    """A value beside a reason, neither of them, or a standard error of no value."""
    if (row.value is None) == (row.reason is None):
        yield f"{where}: either a value or a reason, {'both' if row.reason is not None else 'neither'} is there"
    elif row.value is None and row.stderr is not None:
        yield f"{where}.stderr: a standard error without a value"


def in_sinks(sinks: Sequence[Sinks], n_layers: int) -> Iterator[str]:
    """A modality twice, counts that cannot be, or other layers than there are."""
    modalities: set[str] = set()
    for index, row in enumerate(sinks):
        where = f"sinks[{index}]"
        if row.modality in modalities:
            yield f"{where}: a second entry for {row.modality}"
        modalities.add(row.modality)
        if not row.n_examples <= row.n_sinks <= row.n_tokens:
            yield f"{where}: {row.n_sinks} sinks of {row.n_examples} examples among {row.n_tokens} tokens"
        in_order = all(layer.layer == place for place, layer in enumerate(row.layers))
        if row.layers and not (len(row.layers) == n_layers + 1 and in_order):
            yield f"{where}.layers: one entry per boundary 0..{n_layers} in order, or none"
