"""The frozen, versioned set of all choices that change a number.

``docs/protocol.md`` gives the reason for each. A named protocol never changes once released: a new choice is a new
name. Whatever a run does differently is a *deviation*, and every deviation stands in the result's signature.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal, get_type_hints
from urllib.parse import quote

import msgspec
from msgspec import Meta, Struct, structs

from microscope_bench.errors import MicroscopeError, unknown_name
from microscope_bench.system.field_types import Name, Share

SINK_RULE = "massive/2"
"""The only rule there is; ``docs/protocol.md`` spells it out."""


@cache
def _kinds() -> dict[str, Any]:
    """The type of each field, resolved once: every result file that is read makes a protocol."""
    return get_type_hints(Protocol, include_extras=True)


class Protocol(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Every choice between a model and its numbers.

    Attributes:
        name: The named protocol that was followed or deviated from.
        tokens_per_example: Tokens of each modality kept of one example, at most.
        limit: Examples measured, counted from the first of the split; null for all.
        folds: Groups of whole examples for held-out values and for the jackknife.
        id_tokens: Distinct tokens of one draw that intrinsic dimension is estimated on.
        sink_rule: Rule by which the token set no_sinks leaves out massive activations, name/version.
        max_skipped: Share of examples that may be skipped before a run is refused.
        seed: Seed of the token selection, the folds and the subsample.
        window: Blocks that attention knockout cuts around a centre; left out where none is made.
        edges: What it cuts, as keys->queries.
        counted: Which examples count: those whose first token is the right answer, or all.
    """

    name: Name
    tokens_per_example: Annotated[int, Meta(ge=1, le=10**9)]
    limit: Annotated[int, Meta(ge=1, le=10**12)] | None
    folds: Annotated[int, Meta(ge=2, le=10_000)]
    id_tokens: Annotated[int, Meta(ge=3, le=10**12)]
    sink_rule: Name
    max_skipped: Share
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    window: Annotated[int, Meta(ge=1, le=10_001)] | None = None
    edges: Annotated[tuple[Name, ...], Meta(max_length=100)] = ()
    counted: Literal["right", "all"] | None = None

    def __post_init__(self) -> None:
        for name, kind in _kinds().items():
            try:
                msgspec.convert(getattr(self, name), kind)
            except msgspec.ValidationError:
                raise MicroscopeError(f"{name} must be {_described(kind)}, not {getattr(self, name)!r}") from None

    def deviations(self) -> dict[str, Any]:
        """The fields in which this protocol differs from the named one, with their values.

        A name that this version of the package does not know has nothing to deviate from: every field is returned.
        """
        named = PROTOCOLS.get(self.name)
        fields = {key: value for key, value in self.as_dict().items() if key != "name"}
        return {key: value for key, value in fields.items() if named is None or value != getattr(named, key)}

    @property
    def label(self) -> str:
        """The name and every deviation as ``key=value``, separated by ``|``; ``limit=None`` reads ``limit=all``.

        Results with different labels are never put into one table.
        """
        values = {key: value_text(value) for key, value in self.deviations().items()}
        return "|".join([quoted(self.name), *(f"{key}={quoted(value)}" for key, value in values.items())])

    def with_changes(self, **changes: Any) -> Protocol:
        """The same protocol with some fields changed; a change to None of a field other than ``limit`` is ignored."""
        known = [name for name in self.__struct_fields__ if name != "name"]
        for key in changes:
            if key not in known:
                raise unknown_name("protocol field", key, sorted(known))
        return structs.replace(self, **{k: v for k, v in changes.items() if v is not None})

    def as_dict(self) -> dict[str, Any]:
        """Field names to values, in the order of declaration, without those of another kind of protocol."""
        fields: dict[str, Any] = structs.asdict(self)
        return {key: value for key, value in fields.items() if key not in _OF_KNOCKOUT or value}


_OF_KNOCKOUT = ("window", "edges", "counted")

PROTOCOLS: dict[str, Protocol] = {
    "geometry/1": Protocol(
        name="geometry/1",
        tokens_per_example=32,
        limit=None,
        folds=10,
        id_tokens=1024,
        sink_rule=SINK_RULE,
        max_skipped=0.01,
        seed=0,
    ),
    # the tokens of an example are the one position at which its answer is read
    "flow/1": Protocol(
        name="flow/1",
        tokens_per_example=1,
        limit=None,
        folds=10,
        id_tokens=1024,
        sink_rule=SINK_RULE,
        max_skipped=0.01,
        seed=0,
        window=9,
        edges=("image->question", "question->last", "image->last", "last->last"),
        counted="right",
    ),
}
DEFAULT_PROTOCOL = "geometry/1"
FLOW_PROTOCOL = "flow/1"


def named_protocol(name: str) -> Protocol:
    """The released protocol of that name; raises UnknownNameError where there is none."""
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, sorted(PROTOCOLS), "List them with: microscope-bench ls protocols")
    return PROTOCOLS[name]


def _described(kind: Any) -> str:
    schema = msgspec.json.schema(kind)
    rules = schema.get("anyOf", [schema])
    words = {"integer": "a whole number", "number": "a number", "string": "one line of text", "null": "None"}
    words |= {"array": "several lines of text"}
    rules = [rule if "type" in rule else {"type": "string"} for rule in rules]  # an enumeration has none
    ends = [f" from {rule['minimum']:g} to {rule['maximum']:g}" if "minimum" in rule else "" for rule in rules]
    return " or ".join(words[rule["type"]] + end for rule, end in zip(rules, ends, strict=True))


def value_text(value: object) -> str:
    """A field's value as labels and tables write it: no limit is all examples."""
    return ",".join(value) if isinstance(value, tuple) else "all" if value is None else str(value)


def quoted(value: object) -> str:
    """A value as one part of a label or signature: whatever could break the line is percent-encoded."""
    return quote(str(value), safe="/:@+,.~", errors="replace")
