"""The choices of a multiple-choice example, and which of them is right."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from microscope_bench.errors import TaskError, field_error

TRUTH = {"true": True, "yes": True, "false": False, "no": False}


class NoChoices(TaskError):
    """A row whose cell is no list of choices; other rows may have one."""


def refuse_templates_in_lists(config: Mapping[str, Any], path: Path) -> None:
    """Raises where choices or targets are a list of templates, which lm-eval would take as they are written."""
    for field in ("doc_to_choice", "doc_to_target"):
        value = config.get(field)
        entries = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        for entry in entries:
            if isinstance(entry, str) and re.search(r"{{.*}}|{%.*%}", entry, re.DOTALL):
                raise field_error(
                    path,
                    field,
                    f"entries of a list are taken as they are written, and {entry!r:.80} is a template; write one "
                    f'template that gives the list: {field}: "{{{{ [column, other_column] }}}}"',
                )


def list_of_choices(found: Any, field: Any) -> list[Any]:
    """What the ``field`` doc_to_choice gave for a row, as a list; raises NoChoices where it is none."""
    if isinstance(found, Iterable) and not isinstance(found, str | bytes | Mapping | set):
        return list(found)
    column = f"column {field} has" if isinstance(field, str) and "{" not in field else "doc_to_choice gives"
    reads = f'. If the text is a list as Python writes it, let a template read it: doc_to_choice: "{{{{ {field} }}}}"'
    raise NoChoices(
        f"{column} {found!r:.80} where a list of choices is needed"
        f"{reads if isinstance(found, str) and column.startswith('column') else '; leave such rows out'}"
    )


def right_answer(target: Any, choices: Sequence[str]) -> int:
    """The index of the right choice, which a target names by its text or by its number from 0.

    A fraction is the number of a choice where it is whole (1.0), as a column of Parquet or CSV may have it. A truth
    value is the choice that says it, whichever stands first; among others, where lm-eval has it, it is 0 or 1.
    """
    if isinstance(target, bool):
        saying = [k for k, choice in enumerate(choices) if TRUTH.get(str(choice).strip().lower()) is target]
        if len(saying) == 1:
            return saying[0]
    if isinstance(target, str | float | Decimal) and str(target) in choices:
        return choices.index(str(target))
    try:
        answer = int(target)
        if 0 <= answer < len(choices) and (isinstance(target, str) or answer == target):
            return answer
    except (TypeError, ValueError, OverflowError):
        pass
    raise TaskError(
        f"the answer {target!r:.80} is neither a choice nor the number of one (0 to {len(choices) - 1}). Correct the "
        f"row or doc_to_target; without answers, take a split that has them (--task_args split=...), or ask openly "
        f"(output_type: generate_until)"
    )
