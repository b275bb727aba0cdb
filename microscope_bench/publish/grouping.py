"""Which results may stand side by side: one protocol with the same changes, the same data, the same metric versions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from microscope_bench.identity import short_revision
from microscope_bench.publish.escape import code, escape
from microscope_bench.publish.summary import columns_of
from microscope_bench.results.result import Result

Entry = tuple[str, Result]

TextOf = Callable[[Result], str]
"""What somebody else knows of a result: the fusion class of its model, whom to cite for its data; "" for nothing."""


def nothing_known(result: Result) -> str:
    return ""


@dataclass(frozen=True)
class Data:
    """What a table's results were all measured on, and the versions of the metrics that tables show; untrusted text."""

    title: str
    source: str
    revision: str
    split: str
    rule: str
    metrics: str


def protocol_title(result: Result) -> str:
    protocol = result.identity.protocol
    changes = protocol.deviations()
    listed = ", ".join(f"{field} = {'all' if value is None else value}" for field, value in changes.items())
    return f"Protocol {protocol.name}{f' with {listed}' if listed else ''}"


def data_of(result: Result) -> Data:
    identity = result.identity
    data, task, tap = identity.dataset, identity.task, identity.model.options.get("tap")
    shown = sorted({column.metric for column in columns_of(result)} & identity.metrics.keys())
    return Data(
        title=f"{task.name}, version {task.version}{f', tap {tap}' if tap else ''}",
        source=f"{data.path}, {data.name}" if data.name else data.path,
        revision=short_revision(data.revision),
        split=data.split,
        rule=identity.selection,
        metrics=", ".join(f"{metric} {identity.metrics[metric]}" for metric in shown),
    )


def protocol_key(result: Result) -> tuple[str, ...]:
    """Equal for results under one protocol with the same changes: (sort keys ..., title as markdown)."""
    protocol = result.identity.protocol
    # the protocol as it is named comes before its deviations
    return protocol.name, protocol.label if protocol.deviations() else "", escape(protocol_title(result))


def comparable_key(result: Result) -> tuple[str, ...]:
    """Equal for results that one table may hold: (task and tap, description of the data as markdown, revision)."""
    data = data_of(result)
    return (
        escape(data.title),
        f"Data: {escape(data.source)} at {code(data.revision)}, split {escape(data.split)}. "
        f"Token selection: {escape(data.rule)}. Metric versions: {escape(data.metrics)}.",
        result.identity.dataset.revision,
    )


def side_by_side(entries: Iterable[Entry]) -> list[tuple[tuple[str, ...], tuple[str, ...], list[Entry]]]:
    """The entries that may stand in one table, with their protocol's key and their own; all in order."""
    return [
        (protocol, comparable, together)
        for protocol, in_protocol in _grouped(entries, protocol_key)
        for comparable, together in _grouped(in_protocol, comparable_key)
    ]


def _grouped(
    entries: Iterable[Entry], key: Callable[[Result], tuple[str, ...]]
) -> list[tuple[tuple[str, ...], list[Entry]]]:
    groups: dict[tuple[str, ...], list[Entry]] = defaultdict(list)
    for path, result in entries:
        groups[key(result)].append((path, result))
    return sorted(groups.items(), key=lambda group: group[0])
