"""The tables of a report: the summary per modality, and of each result where it comes from and how to have it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from microscope_bench.metrics.record import Headline
from microscope_bench.publish.report.curves import Shown
from microscope_bench.publish.summary import (
    Withheld,
    accuracy_text,
    columns_of,
    measured_modalities,
    plus_minus,
    show_range,
    sinks_of,
    summarise,
    token_sets,
)
from microscope_bench.results.result import Result

SKIPPED_SHOWN = 10


@dataclass(frozen=True)
class SummaryRow:
    """One model in one token set: its number, its name, a list of lines per headline metric, sinks."""

    key: int
    label: str
    cells: tuple[tuple[str, ...], ...]
    sinks: str


@dataclass(frozen=True)
class SummaryTable:
    """The headline metrics of one modality."""

    modality: str
    headlines: tuple[Headline, ...]
    rows: tuple[SummaryRow, ...]


def summary_tables(shown: Sequence[Shown], modalities: Sequence[str]) -> list[SummaryTable]:
    """A table per modality, with the same numbers as on the leaderboard."""
    tables = []
    columns = columns_of(shown[0].result)  # what is comparable has the same
    for modality in modalities:
        rows = [
            _row(one, modality, tokens)
            for one in shown
            if modality in measured_modalities(one.result)
            for tokens in token_sets(one.result, modality)
        ]
        tables.append(SummaryTable(modality, columns, tuple(rows)))
    return tables


def _row(shown: Shown, modality: str, tokens: str) -> SummaryRow:
    sinks = sinks_of(shown.result, modality)
    found = "" if sinks is None else f"{sinks.n_sinks:,} of {sinks.n_tokens:,}"
    return SummaryRow(
        key=shown.key,
        label=shown.label if tokens == "all" else f"{shown.label}, no sinks",
        cells=tuple(_cell(shown.result, headline, modality, tokens) for headline in columns_of(shown.result)),
        sinks=found if tokens == "all" else "left out",
    )


def _cell(result: Result, headline: Headline, modality: str, tokens: str) -> tuple[str, ...]:
    summary = summarise(result, headline, modality, tokens)
    if isinstance(summary, Withheld):
        return "—", summary.reason.removeprefix(f"{headline.title}: ")
    return (
        f"mean {plus_minus(summary.mean, summary.mean_stderr)}",
        f"{headline.extreme} {plus_minus(summary.extreme, summary.extreme_stderr)} @ {summary.layer}",
        f"n = {show_range(summary.n_tokens)}",
    )


def facts_of(result: Result) -> list[tuple[str, str]]:
    """(what, value) of where a result comes from: identity, inputs, environment, timing."""
    identity, inputs, ran = result.identity, result.inputs, result.environment
    model, data = identity.model, identity.dataset
    commit = f", commit {ran.commit}{' with changes' if ran.dirty else ''}" if ran.commit else ""
    skipped = [f"{one.id} ({one.reason})" for one in inputs.skipped[:SKIPPED_SHOWN]]
    skipped += [f"{len(inputs.skipped) - SKIPPED_SHOWN:,} more"] if len(inputs.skipped) > SKIPPED_SHOWN else []
    memory = "" if result.timing.peak_memory_bytes is None else f", {result.timing.peak_memory_bytes / 1e9:.2f} GB"
    seconds = result.timing.seconds.get("total")
    facts = [
        ("model", f"{model.repo} at {model.revision}"),
        ("architecture", f"{model.architecture}, by adapter {model.adapter}"),
        ("size", f"{model.n_layers} blocks, width {model.hidden_size:,}, {model.n_parameters:,} parameters"),
        ("numbers", ", ".join(filter(None, (model.dtype, model.quantization, model.attention)))),
        ("weights", "trained" if model.trained else "untrained"),
        ("control", model.control or ""),
        ("options", _pairs(model.options)),
        ("task", f"{identity.task.name}, version {identity.task.version}"),
        ("data", f"{data.path}{f', {data.name}' if data.name else ''} at {data.revision}, split {data.split}"),
        ("examples", f"{identity.n_examples:,}; ids SHA-256 {identity.example_ids_sha256}"),
        ("prompts", f"SHA-256 {identity.prompt_sha256}"),
        ("protocol", _pairs(identity.protocol.as_dict())),
        ("token selection", identity.selection),
        ("metric versions", _pairs(identity.metrics)),
        ("accuracy", accuracy_text(result)),
        ("positions seen", _pairs(inputs.tokens_seen)),
        ("pictures converted", _pairs(inputs.images_converted)),
        ("examples skipped", "; ".join(skipped)),
        ("token ids", f"SHA-256 {inputs.tokens_sha256}"),
        ("pictures", f"SHA-256 {inputs.media_sha256}" if inputs.media_sha256 else ""),
        ("chat template", f"SHA-256 {inputs.chat_template_sha256}" if inputs.chat_template_sha256 else "none"),
        ("processor", ", ".join(filter(None, (ran.processor, ran.image_processor)))),
        ("measured with", f"microscope_bench {ran.package_version}{commit}"),
        ("captured with", _pairs(ran.captured_with or {})),
        ("ran on", f"{ran.device}; {ran.platform}; Python {ran.python}"),
        ("started", f"{result.timing.started_utc}{'' if seconds is None else f', took {seconds:,.0f} s'}{memory}"),
    ]
    return [(what, value) for what, value in facts if value]


def reproduction(result: Result) -> tuple[str, str]:
    """The versions to install and the command that was given."""
    ran = result.environment
    packages = [f"microscope-bench=={ran.package_version}", *(f"{k}=={v}" for k, v in sorted(ran.packages.items()))]
    return "\n".join(packages), ran.command


def _pairs(mapping: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {'null' if value is None else value}" for key, value in sorted(mapping.items()))
