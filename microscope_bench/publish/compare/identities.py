"""What may differ between two results that are compared, and what else differs: inputs, environment."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from msgspec import structs, to_builtins

from microscope_bench.errors import unknown_name
from microscope_bench.identity import Identity
from microscope_bench.results.result import Result

MAY_DIFFER = ("model.name", "model.repo", "model.revision")
"""Fields of ``identity`` that say which weights were measured: what a comparison is usually about."""

EXAMPLES = "inputs.examples_sha256"

_ABSENT = "absent"


@dataclass(frozen=True)
class Difference:
    """One field with two values, as text; "absent" where one side has no such field."""

    field: str
    baseline: str
    new: str

    def __str__(self) -> str:
        return f"{self.field}: {self.baseline} → {self.new}"


def check_allowed(allow: Iterable[str]) -> tuple[str, ...]:
    """Fields of ``identity`` that may differ: ``model.dtype``, a section, ``metrics.NAME``, ``model.options.NAME``."""
    fields = structs.fields(Identity)
    known = {EXAMPLES, *(field.name for field in fields)}
    known |= {f"{field.name}.{name}" for field in fields for name in getattr(field.type, "__struct_fields__", ())}
    for name in allow:
        if name not in known and not name.startswith(("metrics.", "metric_code.", "model.options.")):
            raise unknown_name("field of identity", name, sorted(known))
    return tuple(dict.fromkeys(allow))


def identity_differences(baseline: Result, new: Result) -> tuple[Difference, ...]:
    found = _differences(to_builtins(baseline.identity), to_builtins(new.identity))
    ours, theirs = baseline.inputs, new.inputs
    if [row.id for row in ours.skipped] == [row.id for row in theirs.skipped]:
        found += _differences({EXAMPLES: ours.examples_sha256}, {EXAMPLES: theirs.examples_sha256})
    return found


def is_allowed(row: Difference, allow: Iterable[str]) -> bool:
    """Whether a difference is one of weights, of an adapter's code (behind the @), or of a field that is allowed."""
    if row.field == "model.adapter" and "@" in row.baseline and row.baseline.split("@")[0] == row.new.split("@")[0]:
        return True
    return any(row.field == name or row.field.startswith(f"{name}.") for name in (*MAY_DIFFER, *allow))


def input_differences(baseline: Result, new: Result) -> tuple[Difference, ...]:
    """What the processor or the tokenizer hands to the model differently; skipped examples are counted elsewhere."""
    left_out: dict[str, None] = {"skipped": None, "n_examples": None, "examples_sha256": None}
    if baseline.identity.model.dtype != new.identity.model.dtype:
        left_out["media_sha256"] = None
    return _differences({**to_builtins(baseline.inputs), **left_out}, {**to_builtins(new.inputs), **left_out})


def environment_differences(baseline: Result, new: Result) -> tuple[Difference, ...]:
    """Versions, device and processor classes that differ; not the command, which is words."""
    ours, theirs = (
        {**to_builtins(result.environment), "command": None, "captured_with": None} for result in (baseline, new)
    )
    return _differences(ours, theirs)


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[Difference, ...]:
    flat_ours, flat_theirs = _flat(ours), _flat(theirs)
    fields = list(dict.fromkeys([*flat_ours, *flat_theirs]))
    pairs = ((field, flat_ours.get(field, _ABSENT), flat_theirs.get(field, _ABSENT)) for field in fields)
    return tuple(Difference(field, a, b) for field, a, b in pairs if a != b)


def _flat(node: Mapping[str, Any], at: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in node.items():
        place = f"{at}{key}"
        if isinstance(value, Mapping):
            found.update(_flat(value, f"{place}."))
        else:
            # as JSON: the text "1" is not the number 1, and no character of it can disturb a terminal
            found[place] = json.dumps(value)
    return found
