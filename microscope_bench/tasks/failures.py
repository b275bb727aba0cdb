"""What is behind an error that rendering a row raised: the field, and a sentence where a library has none."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from traceback import walk_tb

from microscope_bench.errors import TaskError, said


def what_failed(error: BaseException) -> tuple[str | None, str]:
    """The field whose rendering raised (None: none did), and what to say of it.

    lm-eval's methods are named like the fields that they render. It reads choices, and texts that are all digits, by
    Python's ``literal_eval``.
    """
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    seen = {frame.f_code.co_name: frame.f_locals for frame in reversed(frames)}
    field = next((frame.f_code.co_name for frame in frames if frame.f_code.co_name.startswith("doc_to_")), None)
    if isinstance(error, TaskError):
        return field, str(error)
    if field is None:
        return (
            _after_rendering(error, seen) if frames and frames[-1].f_code.co_name == "__init__" else (None, said(error))
        )
    row = seen[field].get("doc")
    columns = f"; the columns are {', '.join(map(repr, list(row)[:20]))}" if isinstance(row, Mapping) else ""
    if type(error).__name__ == "UndefinedError":
        return field, said(error) + columns
    if "literal_eval" not in seen or not isinstance(error, SyntaxError | ValueError):
        return field, said(error)
    read = seen["literal_eval"]["node_or_string"]
    text = f"{read if isinstance(read, str) else ast.unparse(read)!r:.80}"
    if field in ("doc_to_text", "doc_to_target"):
        return field, (
            f"{text} is all digits, and lm-eval cannot read it as a number; write it in the digits 0 to 9 without a "
            f"leading 0, or let the template add a word"
        )
    return field, f"{text} is neither a column nor a list{columns}"


def _after_rendering(error: BaseException, seen: Mapping[str, Mapping[str, object]]) -> tuple[str | None, str]:
    """lm-eval rendered all and failed on what came out: it picks the target's choice, then looks into each choice."""
    names = seen["__init__"]
    if "check_choices" in names:
        return "doc_to_choice", "a choice is empty; leave it out, or leave out such rows"
    if "test_target" in names:
        return "doc_to_target", f"{names['test_target']!r:.80} is not the number of a choice, counted from 0"
    return None, said(error)
