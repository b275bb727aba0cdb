"""What may differ between two results that are compared, and what else differs: inputs, environment."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from msgspec import Struct, to_builtins

from microscope_bench.identity import DatasetInfo, Identity, ModelInfo, TaskInfo
from microscope_bench.protocol import Protocol
from microscope_bench.results.result import Result
from microscope_bench.system.lazy_registry import unknown_name

MAY_DIFFER = ("model.name", "model.repo", "model.revision")
"""Fields of ``identity`` that say which weights were measured: what a comparison is usually about."""

EXAMPLES = "inputs.examples_sha256"

_ABSENT = "absent"
_SECTIONS: dict[str, type[Struct]] = {
    "protocol": Protocol,
    "model": ModelInfo,
    "task": TaskInfo,
    "dataset": DatasetInfo,
}


@dataclass(frozen=True)
class Difference:
    """One field with two values, as text; "absent" where one side has no such field."""

    field: str
    baseline: str
    new: str

    def __str__(self) -> str:
        return f"{self.field}: {self.baseline} → {self.new}"


def check_allowed(allow: Iterable[str]) -> tuple[str, ...]:
    """The fields of ``identity`` that may differ: ``model.dtype``, a section, ``metrics.NAME``, ``model.options.NAME``.

    Raises UnknownNameError for any other: a mistyped one would otherwise allow nothing without a word.
    """
    known = _known_fields()
    for name in allow:
        if name not in known and not name.startswith(("metrics.", "model.options.")):
            raise unknown_name("field of identity", name, sorted(known))
    return tuple(dict.fromkeys(allow))


def identity_differences(baseline: Result, new: Result) -> tuple[Difference, ...]:
    """Every field in which the identities differ, in the order of the file."""
    found = _differences(to_builtins(baseline.identity), to_builtins(new.identity))
    ours, theirs = baseline.inputs, new.inputs
    if [row.id for row in ours.skipped] == [row.id for row in theirs.skipped]:
        found += _differences({EXAMPLES: ours.examples_sha256}, {EXAMPLES: theirs.examples_sha256})
    return found


def is_allowed(field: str, allow: Iterable[str]) -> bool:
    """Whether a field, or the section it stands in, is among those that may differ."""
    return any(field == name or field.startswith(f"{name}.") for name in (*MAY_DIFFER, *allow))


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


def _known_fields() -> set[str]:
    below = {f"{section}.{name}" for section, record in _SECTIONS.items() for name in record.__struct_fields__}
    return below | set(Identity.__struct_fields__) | {EXAMPLES}
