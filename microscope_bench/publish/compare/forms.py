"""A comparison as text, markdown, JSON and JUnit XML: the same content, made of the same rows."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any
from xml.etree import ElementTree

from tabulate import tabulate

from microscope_bench.publish import escape as markdown
from microscope_bench.publish.compare.comparison import NOT_COMPARABLE, Comparison, Drift, Series
from microscope_bench.publish.compare.paths import Pair, Report
from microscope_bench.publish.compare.table import (
    HEADERS,
    SHOWN,
    STATUS,
    about_lines,
    advice,
    by_series,
    count_lines,
    plain,
)


def as_text(report: Report) -> str:
    """For a terminal; ends with a line break."""
    blocks = [] if len(report.outcomes) == 1 else [plain(report.verdict)]
    for pair, comparison in report.outcomes:
        title = plain(comparison.verdict)
        lines = [title if len(report.outcomes) == 1 else f"{plain(pair.name)}: {title}"]
        lines += [f"  {line}" for line in about_lines(comparison)]
        rows = by_series(comparison.drifts)
        if rows:
            lines.append(tabulate([row.cells for row in rows[:SHOWN]], HEADERS, "simple", disable_numparse=True))
        lines += _more(len(rows))
        lines += count_lines(comparison)
        sentence, commands = advice(pair, comparison)
        lines += [sentence] if sentence else []
        lines += [f"  {plain(command)}" for command in commands if sentence]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def as_markdown(report: Report) -> str:
    """For the summary of a CI step, or a comment on a pull request."""
    blocks = [f"### Geometry: {STATUS[report.status]}\n\n{_escaped(report.verdict)}"]
    for pair, comparison in report.outcomes:
        if len(report.outcomes) > 1:
            blocks.append(f"#### {_escaped(pair.name)}\n\n{_escaped(comparison.verdict)}")
        rows = by_series(comparison.drifts)
        if rows:
            cells = [[_escaped(cell) for cell in row.cells] for row in rows[:SHOWN]]
            blocks.append(markdown.table(HEADERS, cells))
        listed = [*_more(len(rows)), *count_lines(comparison), *about_lines(comparison)]
        if listed:
            blocks.append("\n".join(f"- {_escaped(line)}" for line in listed))
        sentence, commands = advice(pair, comparison)
        if sentence:
            blocks.append(_escaped(sentence))
        if sentence and commands:
            text = "\n".join(map(plain, commands))
            # longer than any run of backticks within, so that none of them ends it
            fence = "`" * (max([2, *map(len, re.findall("`+", text))]) + 1)
            blocks.append(f"{fence}sh\n{text}\n{fence}")
    return "\n\n".join(blocks) + "\n"


def as_json(report: Report) -> str:
    """For programs: everything, every drifted value included. ``excess`` is null where nothing was allowed."""
    document = {
        "format": "microscope-bench compare/1",
        "status": STATUS[report.status],
        "exit_status": report.status,
        "verdict": report.verdict,
        "results": [_pair_document(pair, comparison) for pair, comparison in report.outcomes],
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def as_junit(report: Report) -> str:
    """JUnit XML: a suite per result, a case per series; drift is a failure, what could not be compared an error."""
    root = ElementTree.Element("testsuites", name="microscope-bench compare")
    for pair, comparison in report.outcomes:
        rows = {row.series: row for row in by_series(comparison.drifts)}
        series = _all_series(comparison) if comparison.status != NOT_COMPARABLE else []
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=plain(pair.name),
            tests=str(1 + len(series)),
            failures=str(len(rows)),
            errors=str(int(comparison.status == NOT_COMPARABLE)),
            skipped="0",
        )
        case = ElementTree.SubElement(suite, "testcase", classname=plain(pair.name), name="comparable")
        if comparison.status == NOT_COMPARABLE:
            error = ElementTree.SubElement(case, "error", message=plain(comparison.verdict))
            error.text = "\n".join([*about_lines(comparison), *_advised(pair, comparison)])
        for one in series:
            case = ElementTree.SubElement(suite, "testcase", classname=plain(pair.name), name=plain(one))
            if one in rows:
                row = rows[one]
                summary = "; ".join(
                    f"{head} {cell}" for head, cell in zip(HEADERS[1:], row.cells[1:], strict=True) if cell
                )
                failure = ElementTree.SubElement(case, "failure", message=summary, type=row.drifts[0].kind)
                failure.text = "\n".join([*map(_drift_line, row.drifts), *_advised(pair, comparison)])
        ElementTree.SubElement(suite, "system-out").text = "\n".join(
            [plain(comparison.verdict), *about_lines(comparison), *count_lines(comparison)]
        )
    ElementTree.indent(root)
    return _XML + ElementTree.tostring(root, encoding="unicode") + "\n"


FORMS: Mapping[str, Callable[[Report], str]] = {
    "text": as_text,
    "markdown": as_markdown,
    "json": as_json,
    "junit": as_junit,
}

_XML = '<?xml version="1.0" encoding="UTF-8"?>\n'


def _escaped(text: str) -> str:
    return markdown.escape(plain(text))


def _more(n_series: int) -> list[str]:
    return [f"... and {n_series - SHOWN} more; --format json lists all of them"] if n_series > SHOWN else []


def _advised(pair: Pair, comparison: Comparison) -> list[str]:
    sentence, commands = advice(pair, comparison)
    return [sentence, *map(plain, commands)]


def _all_series(comparison: Comparison) -> list[Series]:
    """Of both results, those that drifted included, in the order of the file."""
    scores = [score for result in (comparison.baseline, comparison.new) if result for score in result.scores]
    measured = [Series(s.metric, s.estimator, s.stream, s.modality, s.tokens) for s in scores]
    return list(dict.fromkeys([*measured, *(drift.series for drift in comparison.drifts)]))


def _drift_line(drift: Drift) -> str:
    where = "" if drift.layer is None else f"layer {drift.layer}: "
    reason = f" ({plain(drift.reason)})" if drift.reason else ""
    return f"{where}{drift.kind}, {drift.baseline!r} → {drift.new!r}, tolerance {drift.tolerance}{reason}"


def _pair_document(pair: Pair, comparison: Comparison) -> dict[str, Any]:
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
    accuracy = vars(result.accuracy) if result and result.accuracy else None
    skipped = len(result.inputs.skipped) if result else None
    return {
        "path": str(path),
        "signature": result.signature if result else None,
        "accuracy": accuracy,
        "skipped": skipped,
    }


def _drift_document(drift: Drift) -> dict[str, Any]:
    return {
        **drift.series._asdict(),
        "layer": drift.layer,
        "kind": drift.kind,
        "baseline": drift.baseline,
        "new": drift.new,
        "stderr": drift.stderr,
        "tolerance": str(drift.tolerance),
        "excess": drift.excess if math.isfinite(drift.excess) else None,
        "reason": drift.reason,
    }
