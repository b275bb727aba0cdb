"""The tables of a report: the summary per modality, and of each result where it comes from and how to have it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from microscope_bench.metrics.record import Headline
from microscope_bench.publish.leaderboard.board import ModalityRow, row_of
from microscope_bench.publish.leaderboard.columns import summary_lines
from microscope_bench.publish.report.curves import Shown
from microscope_bench.publish.summary import (
    MODALITIES,
    Summary,
    Withheld,
    accuracy_text,
    show_range,
    sinks_of,
    with_token_set,
)
from microscope_bench.results.result import Result

SKIPPED_SHOWN = 10


def summary_tables(shown: Sequence[Shown]) -> list[dict[str, Any]]:
    """A table per modality as the template reads it, with the same numbers as on the leaderboard."""
    rows = [(one, row_of("", one.result)) for one in shown]
    columns = rows[0][1].headlines  # what is comparable has the same
    return [
        {"modality": modality, "headlines": columns, "rows": found}
        for modality in MODALITIES
        if (found := [_row(one, columns, line) for one, row in rows for line in row.lines if line.modality == modality])
    ]


def _row(shown: Shown, columns: Sequence[Headline], line: ModalityRow) -> dict[str, Any]:
    sinks = sinks_of(shown.result, line.modality)
    found = "" if sinks is None else f"{sinks.n_sinks:,} of {sinks.n_tokens:,}"
    return {
        "key": shown.key,
        "label": with_token_set(shown.label, line.tokens),
        "cells": list(map(_cell, columns, line.summaries)),
        "sinks": found if line.tokens == "all" else "left out",
    }


def _cell(headline: Headline, summary: Summary | Withheld) -> tuple[str, ...]:
    if isinstance(summary, Withheld):
        return "—", summary.reason.removeprefix(f"{headline.title}: ")
    (mean, value), (extreme, where), *_ = summary_lines(headline, summary)
    return f"{mean} {value}", f"{extreme} {where}", f"n = {show_range(summary.n_tokens)}"


def facts_of(result: Result) -> list[tuple[str, str]]:
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
        ("examples", f"{inputs.n_examples:,} of {identity.n_examples:,}; ids SHA-256 {identity.example_ids_sha256}"),
        ("prompts", f"SHA-256 {inputs.examples_sha256}"),
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
    ran = result.environment
    packages = [f"microscope-bench=={ran.package_version}", *(f"{k}=={v}" for k, v in sorted(ran.packages.items()))]
    return "\n".join(packages), ran.command


def _pairs(mapping: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {'null' if value is None else value}" for key, value in sorted(mapping.items()))
