"""Which results may stand side by side: one protocol with the same changes, the same data, the same metric versions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from microscope_bench.identity import short_revision
from microscope_bench.protocol import value_text
from microscope_bench.publish.escape import code, escape
from microscope_bench.publish.summary import columns_of
from microscope_bench.results.result import Result

TextOf = Callable[[Result], str]
"""What somebody else knows of a result: the fusion class of its model, whom to cite for its data; "" for nothing."""


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
    listed = ", ".join(f"{field} = {value_text(value)}" for field, value in changes.items())
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


@dataclass(frozen=True, order=True)
class ProtocolHeading:
    """Equal for results under one protocol with the same changes; the protocol as it is named sorts first."""

    name: str
    changes: str
    markdown: str


@dataclass(frozen=True, order=True)
class DataHeading:
    """Equal for results that one table of a protocol may hold; title and description are markdown."""

    title: str
    description: str
    revision: str


@dataclass(frozen=True)
class Comparable:
    """Results that may stand in one table, in the order in which they were given."""

    protocol: ProtocolHeading
    data: DataHeading
    results: tuple[Result, ...]


def side_by_side(results: Iterable[Result]) -> list[Comparable]:
    """The results by what may stand in one table, the tables in the order of their headings."""
    found: dict[tuple[ProtocolHeading, DataHeading], list[Result]] = defaultdict(list)
    for result in results:
        found[_protocol_heading(result), _data_heading(result)].append(result)
    return [Comparable(*headings, tuple(found[headings])) for headings in sorted(found)]


def _protocol_heading(result: Result) -> ProtocolHeading:
    protocol = result.identity.protocol
    changes = protocol.label if protocol.deviations() else ""
    return ProtocolHeading(protocol.name, changes, escape(protocol_title(result)))


def _data_heading(result: Result) -> DataHeading:
    data = data_of(result)
    return DataHeading(
        title=escape(data.title),
        description=f"Data: {escape(data.source)} at {code(data.revision)}, split {escape(data.split)}. "
        f"Token selection: {escape(data.rule)}. Metric versions: {escape(data.metrics)}.",
        revision=result.identity.dataset.revision,
    )
