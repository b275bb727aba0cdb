"""A comparison as text, markdown and JSON: the same content, made of the same rows."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import structs
from tabulate import tabulate

from microscope_bench.publish.compare.comparison import Comparison, Drift
from microscope_bench.publish.compare.paths import Comparisons, FilePair
from microscope_bench.publish.compare.table import (
    HEADERS,
    SHOWN,
    STATUS,
    about_lines,
    advice,
    count_lines,
    rows_of,
)
from microscope_bench.publish.escape import code_block, escape, table
from microscope_bench.system.printable import printable


def as_text(comparisons: Comparisons) -> str:
    blocks = [] if len(comparisons.outcomes) == 1 else [printable(comparisons.verdict)]
    for pair, comparison in comparisons.outcomes:
        title = printable(comparison.verdict)
        lines = [title if len(comparisons.outcomes) == 1 else f"{printable(pair.name)}: {title}"]
        lines += [f"  {line}" for line in about_lines(comparison)]
        rows = rows_of(comparison.drifts)
        if rows:
            lines.append(tabulate(rows[:SHOWN], HEADERS, "simple", disable_numparse=True))
        lines += _more(len(rows))
        lines += count_lines(comparison)
        sentence, commands = advice(pair, comparison)
        lines += [sentence] if sentence else []
        lines += [f"  {printable(command)}" for command in commands if sentence]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def as_markdown(comparisons: Comparisons) -> str:
    """For the summary of a CI step, or a comment on a pull request."""
    blocks = [f"### Geometry: {STATUS[comparisons.status]}\n\n{escape(comparisons.verdict)}"]
    for pair, comparison in comparisons.outcomes:
        if len(comparisons.outcomes) > 1:
            blocks.append(f"#### {escape(pair.name)}\n\n{escape(comparison.verdict)}")
        rows = rows_of(comparison.drifts)
        if rows:
            cells = [[escape(cell) for cell in row] for row in rows[:SHOWN]]
            blocks.append(table(HEADERS, cells))
        listed = [*_more(len(rows)), *count_lines(comparison), *about_lines(comparison)]
        if listed:
            blocks.append("\n".join(f"- {escape(line)}" for line in listed))
        sentence, commands = advice(pair, comparison)
        if sentence:
            blocks.append(escape(sentence))
        if sentence and commands:
            blocks.append(code_block("\n".join(map(printable, commands)), "sh"))
    return "\n\n".join(blocks) + "\n"


def as_json(comparisons: Comparisons) -> str:
    """For programs: everything, every drifted value included. ``excess`` is null where nothing was allowed."""
    document = {
        "format": "microscope-bench compare/1",
        "status": STATUS[comparisons.status],
        "exit_status": comparisons.status,
        "verdict": comparisons.verdict,
        "results": [_pair_document(pair, comparison) for pair, comparison in comparisons.outcomes],
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


FORMS: Mapping[str, Callable[[Comparisons], str]] = {
    "text": as_text,
    "markdown": as_markdown,
    "json": as_json,
}


def _more(n_series: int) -> list[str]:
    return [f"... and {n_series - SHOWN} more; --format json lists all of them"] if n_series > SHOWN else []


def _pair_document(pair: FilePair, comparison: Comparison) -> dict[str, Any]:
    return {
        "name": pair.name,
        "status": STATUS[comparison.status],
        "verdict": comparison.verdict,
        "baseline": _side(pair.baseline, comparison.baseline),
        "new": _side(pair.new, comparison.new),
        "identity": [{**vars(row), "allowed": row not in comparison.refused} for row in comparison.identity],
        "inputs": [vars(row) for row in comparison.inputs],
        "environment": [vars(row) for row in comparison.environment],
        "n_values": comparison.n_values,
        "n_compared": comparison.n_compared,
        "n_null_in_both": comparison.n_null,
        "n_of_other_numbers_of_tokens": comparison.n_other_tokens,
        "drifts": [_drift_document(drift) for drift in comparison.drifts],
        "accept": list(pair.accept),
    }


def _side(path: Any, result: Any) -> dict[str, Any] | None:
    if path is None:
        return None
    accuracy = structs.asdict(result.accuracy) if result and result.accuracy else None
    skipped = len(result.inputs.skipped) if result else None
    return {
        "path": str(path),
        "signature": result.signature if result else None,
        "accuracy": accuracy,
        "skipped": skipped,
    }


def _drift_document(drift: Drift) -> dict[str, Any]:
    excess = drift.excess if math.isfinite(drift.excess) else None
    own = {**vars(drift), "tolerance": str(drift.tolerance), "excess": excess}
    del own["series"]
    return {**drift.series._asdict(), **own}
