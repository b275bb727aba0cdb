"""The report: one HTML file that needs nothing else, a deterministic function of result files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from microscope_bench import __version__
from microscope_bench.errors import ResultError
from microscope_bench.publish.escape import html_page
from microscope_bench.publish.grouping import data_of, protocol_title, side_by_side
from microscope_bench.publish.report.charts import charts_of
from microscope_bench.publish.report.curves import Shown, quantities, shown_results
from microscope_bench.publish.report.fact_tables import facts_of, reproduction, summary_tables
from microscope_bench.publish.summary import shown_name
from microscope_bench.results.result import FAILED, Result


def render(results: Sequence[Result]) -> str:
    """The page as HTML, the results in their order; of two that compare the first is the baseline.

    Raises:
        ResultError: none of the results is complete.
    """
    complete = [result for result in results if result.status != FAILED]
    if not complete:
        raise ResultError(
            "there is nothing to report: no complete result. `microscope-bench validate` says what each is"
        )
    sections: list[dict[str, Any]] = []
    for together in side_by_side(complete):
        first = 1 + sum(len(section["shown"]) for section in sections)
        sections.append(_section(shown_results(together.results, first)))
    shown = [one for section in sections for one in section["shown"]]
    values = {
        "title": _title(shown),
        "sections": sections,
        "results": [(one, facts_of(one.result), reproduction(one.result)) for one in shown],
        "failed": [(shown_name(result), result) for result in results if result.status == FAILED],
        "version": __version__,
    }
    return html_page("report", values, inline_pictures=True)


def _section(shown: Sequence[Shown]) -> dict[str, Any]:
    first = shown[0].result
    data = data_of(first)
    return {
        "title": data.title,
        "description": f"{protocol_title(first)}. Data: {data.source} at {data.revision}, split {data.split}. Token "
        f"selection: {data.rule}.",
        "notes": _section_notes(shown),
        "shown": shown,
        "tables": summary_tables(shown),
        "charts": [charts_of(headline, measured) for headline, measured in quantities(shown)],
    }


def _section_notes(shown: Sequence[Shown]) -> list[str]:
    notes = []
    if len({one.result.identity.example_ids_sha256 for one in shown}) > 1:
        notes.append("The results are not of the same examples: a part of any difference may come from that.")
    elif len({one.result.inputs.examples_sha256 for one in shown}) > 1:
        notes.append("The results are of examples with the same ids but other texts or pictures.")
    if len(shown) == 2:
        notes.append(
            f"{shown[0].label} is the baseline, in grey. A ring marks where {shown[1].label} differs from it: paired "
            "test, p < 0.05 for all layers of the panel together (Holm); each panel says at which layers."
        )
    return notes


def _title(shown: Sequence[Shown]) -> str:
    tasks = list(dict.fromkeys(one.result.identity.task.name for one in shown))
    names = list(dict.fromkeys(one.label for one in shown))
    who = " and ".join(names) if len(names) <= 2 else f"{len(shown)} results"
    return f"Geometry of {who} on {', '.join(tasks[:3])}{', …' if len(tasks) > 3 else ''}"
