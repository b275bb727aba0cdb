"""Which results may stand side by side: one protocol with the same changes, the same data, the same metric versions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from microscope_bench.publish.markdown import code, escape
from microscope_bench.publish.summary import HEADLINES
from microscope_bench.results.result import Result
from microscope_bench.results.signature import protocol_deviations, protocol_label, short_revision

Entry = tuple[str, Result]
"""A result and the path of its file, relative to the page."""


def protocol_key(result: Result) -> tuple[str, ...]:
    """Equal for results under one protocol with the same changes: (sort keys ..., title as markdown)."""
    protocol = result.identity.protocol.as_dict()
    changes = protocol_deviations(protocol)
    title = f"Protocol {escape(protocol['name'])}"
    if changes:
        listed = ", ".join(f"{field} = {'all' if value is None else value}" for field, value in changes.items())
        title += f" with {escape(listed)}"
    # the protocol as it is named comes before its deviations
    return protocol["name"], "" if not changes else protocol_label(protocol), title


def comparable_key(result: Result) -> tuple[str, ...]:
    """Equal for results that one table may hold: (task and tap, description of the data as markdown, revision)."""
    identity = result.identity
    data, task = identity.dataset, identity.task
    name = f", {escape(data.name)}" if data.name else ""
    tap = identity.model.options.get("tap")
    where = f", tap {escape(tap)}" if tap else ""
    shown = sorted({headline.metric for headline in HEADLINES} & identity.metrics.keys())
    metrics = ", ".join(f"{metric} {identity.metrics[metric]}" for metric in shown)
    return (
        f"{escape(task.name)}, version {escape(task.version)}{where}",
        f"Data: {escape(data.path)}{name} at {code(short_revision(data.revision))}, split {escape(data.split)}. "
        f"Token selection: {escape(identity.selection.rule)}. Metric versions: {escape(metrics)}.",
        data.revision,
    )


def grouped(
    entries: Iterable[Entry], key: Callable[[Result], tuple[str, ...]]
) -> list[tuple[tuple[str, ...], list[Entry]]]:
    """The entries by key, both in order."""
    groups: dict[tuple[str, ...], list[Entry]] = defaultdict(list)
    for path, result in entries:
        groups[key(result)].append((path, result))
    return sorted(groups.items(), key=lambda group: group[0])
