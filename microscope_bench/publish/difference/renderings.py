"""Differences as text, markdown and JSON: the same content, made of the same rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from tabulate import tabulate

from microscope_bench.publish.compare.identities import identity_differences
from microscope_bench.publish.difference.differences import LEVEL, Differences, Row, over_text
from microscope_bench.publish.escape import escape, table
from microscope_bench.publish.summary import plus_minus
from microscope_bench.system.printable import printable

HEADERS = ("what", "over", "A", "B", "A − B", "95 % interval", "p", "p, Holm")


def verdict(found: Differences) -> str:
    """How many of the differences hold for all rows together."""
    tested = [row.found for row in found.rows if row.found]
    certain = sum(one.p_holm < LEVEL for one in tested)
    return f"{certain} of {len(tested)} differences are significant at {LEVEL:g} for all of them together (Holm)"


def about_lines(found: Differences) -> list[str]:
    """What was compared and what else differs, not escaped."""
    folds, n = found.a.inputs.folds, found.a.inputs.n_examples
    lines = [f"A: {found.a.signature}", f"B: {found.b.signature}"]
    if folds is not None:
        lines.append(f"the same {n:,} examples in the same {folds.n} folds")
    return lines + [f"differ, {row}" for row in identity_differences(found.a, found.b)]


def _rest(found: Differences) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for row in found.rows:
        if row.found is None:
            reasons.setdefault(str(row.reason), []).append(f"{row.quantity} {over_text(row)}")
    left = [f"left out, {line}" for line in found.left_out]
    return left + [f"no difference ({reason}): {'; '.join(rows)}" for reason, rows in reasons.items()]


def cells_of(row: Row) -> tuple[str, ...]:
    """The cells of a row under :data:`HEADERS`, not escaped; the row has a difference."""
    one = row.found
    assert one is not None
    # a value to the digits that its difference is known to
    decimals = plus_minus(one.difference, one.stderr).partition(" ")[0].partition(".")[2]
    places = 4 if "e" in decimals else len(decimals)
    a, b, low, high = (f"{number:.{places}f}" for number in (one.a, one.b, one.low, one.high))
    return (
        str(row.quantity),
        over_text(row),
        a,
        b,
        plus_minus(one.difference, one.stderr),
        f"{low} to {high}",
        *(show_p(p) for p in (one.p, one.p_holm)),
    )


def show_p(p: float) -> str:
    """A p-value to two digits.

    >>> show_p(0.0123), show_p(1.0), show_p(3e-9)
    ('0.012', '1', '< 0.0001')
    """
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def as_text(found: Differences) -> str:
    """For a terminal."""
    rows = [tuple(map(printable, cells_of(row))) for row in found.rows if row.found]
    head = [verdict(found), *(f"  {line}" for line in about_lines(found))]
    body = [tabulate(rows, HEADERS, "simple", disable_numparse=True)]
    return "\n".join([*map(printable, head), *body, *map(printable, _rest(found))]) + "\n"


def as_markdown(found: Differences) -> str:
    """For a page or a comment."""
    rows = [[escape(cell) for cell in cells_of(row)] for row in found.rows if row.found]
    listed = "\n".join(f"- {escape(line)}" for line in [*about_lines(found), *_rest(found)])
    return "\n\n".join([f"{escape(verdict(found))}.", table(HEADERS, rows), listed]) + "\n"


def as_json(found: Differences) -> str:
    """For programs: every row, those without a difference included."""
    folds = found.a.inputs.folds
    document = {
        "format": "microscope-bench difference/1",
        "a": found.a.signature,
        "b": found.b.signature,
        "n_examples": found.a.inputs.n_examples,
        "n_folds": folds.n if folds else None,
        "identity": [
            {"field": row.field, "a": row.baseline, "b": row.new} for row in identity_differences(found.a, found.b)
        ],
        "left_out": list(found.left_out),
        "rows": [_row_document(row) for row in found.rows],
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _row_document(row: Row) -> dict[str, Any]:
    empty = dict.fromkeys(("a", "b", "difference", "stderr", "low", "high", "p", "p_holm"))
    numbers = vars(row.found) if row.found else empty
    return {**row.quantity._asdict(), "over": row.over, "layers": list(row.layers), **numbers, "reason": row.reason}


RENDERINGS: Mapping[str, Callable[[Differences], str]] = {
    "text": as_text,
    "markdown": as_markdown,
    "json": as_json,
}
