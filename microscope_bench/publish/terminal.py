"""A result as a few lines for a terminal."""

from __future__ import annotations

from tabulate import tabulate

from microscope_bench.publish.summary import (
    Withheld,
    accuracy_text,
    columns_of,
    layers_to_mir,
    measured_modalities,
    measured_series,
    non_finite,
    plus_minus,
    show_range,
    shown_name,
    sinks_of,
    summarise,
    with_token_set,
)
from microscope_bench.results.result import Result
from microscope_bench.system.printable import printable_lines


def _halves_table(result: Result) -> list[str]:
    if not any(score.tokens == "correct" for score in result.scores):
        return []
    rows, withheld = [], dict[str, None]()
    for modality, tokens, headline in measured_series(result):
        behind, shown = "" if tokens == "all" else f"_{tokens}", with_token_set(modality, tokens)
        right, wrong = (summarise(result, headline, modality, half + behind) for half in ("correct", "wrong"))
        if isinstance(right, Withheld) or isinstance(wrong, Withheld):
            reasons = [half.reason for half in (right, wrong) if isinstance(half, Withheld)]
            withheld[f"{shown}: {reasons[0]}"] = None
            continue
        means = [plus_minus(half.mean, half.mean_stderr) for half in (right, wrong)]
        rows.append([shown, headline.title, *means, show_range(right.n_tokens)])
    lines = ["answered rightly and wrongly, as many examples of each:"]
    if rows:
        lines.append(tabulate(rows, ["modality", "metric", "right, mean", "wrong, mean", "tokens of each"], "simple"))
    return [*lines, *(f"not summarised: {reason}" for reason in withheld)]


def summary_table(result: Result) -> str:
    """A result as a few lines for a terminal: the same numbers as on the leaderboard, and the signature."""
    if result.error is not None:
        failure = f"failed in {result.error.where}: {result.error.type}: {result.error.message}"
        return printable_lines(f"{failure}\n{result.signature}")
    rows, withheld, cautions = [], [], dict[str, dict[str, None]]()
    for modality, tokens, headline in measured_series(result):
        shown = with_token_set(modality, tokens)
        summary = summarise(result, headline, modality, tokens)
        if isinstance(summary, Withheld):
            withheld.append(f"{shown}: {summary.reason}")
            continue
        mean = plus_minus(summary.mean, summary.mean_stderr)
        extreme = f"{headline.extreme} {plus_minus(summary.extreme, summary.extreme_stderr)} @ {summary.layer}"
        rows.append([shown, headline.title, mean, extreme, show_range(summary.n_tokens)])
        for caution in summary.cautions:
            cautions.setdefault(caution, {})[shown] = None
    model, task = result.identity.model, result.identity.task
    title = f"{shown_name(result)} on {task.name}, {result.identity.protocol.name}"
    lines = [f"{title}; control: {model.control}" if model.control else title]
    lines.append(tabulate(rows, ["modality", "metric", "mean over layers", "extreme @ layer", "tokens"], "simple"))
    if problem := non_finite(result):  # told once, not for each modality and metric
        withheld = [reason for reason in withheld if "NaN or infinity" not in reason] + [problem]
    lines += [f"not summarised: {reason}" for reason in withheld]
    lines += [f"beware, {'; '.join(where)}: {caution}" for caution, where in cautions.items()]
    found = [sinks for modality in measured_modalities(result) if (sinks := sinks_of(result, modality))]
    if found:
        lines.append("sinks " + ", ".join(f"{s.modality} {s.n_sinks:,} of {s.n_tokens:,}" for s in found))
    for modality in measured_modalities(result):
        for token_set in ("all", "no_sinks") if any(s.n_sinks for s in found) else ("all",):
            rate = layers_to_mir(result, modality, tokens=token_set)
            if rate is not None:
                what = f"modality integration rate, {modality} to text, {token_set}"
                lines.append(f"{what}: {rate[0]:.4f} (standard error at most {rate[1]:.2g})")
    lines += _halves_table(result)
    in_table = {column.metric for column in columns_of(result)}
    others = sorted(result.identity.metrics.keys() - in_table - {"split_by.correct"})
    if others:
        lines.append(f"in the result file too: {', '.join(others)}")
    if result.accuracy is not None:
        lines.append(f"accuracy {accuracy_text(result)}")
    return printable_lines("\n".join([*lines, result.signature]))


def timing_line(result: Result) -> str:
    timing = result.timing
    stages = ", ".join(f"{stage} {seconds:,.1f} s" for stage, seconds in timing.seconds.items())
    memory = "" if timing.peak_memory_bytes is None else f"; peak memory {timing.peak_memory_bytes / 1e9:.2f} GB"
    return stages + memory
