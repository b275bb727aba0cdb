"""The frozen, versioned set of all choices that change a number.

``docs/protocol.md`` gives the reason for each. A named protocol never changes once released: a new choice is a new
name. Whatever a run does differently is a *deviation*, and every deviation stands in the result's signature.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from microscope_bench.errors import MicroscopeError
from microscope_bench.system.lazy_registry import unknown_name

SINK_RULE = "massive/1"
"""The only rule there is; ``docs/protocol.md`` spells it out."""


@dataclass(frozen=True)
class Protocol:
    """Every choice between a model and its numbers.

    Attributes:
        name: the protocol this one is, or deviates from.
        tokens_per_example: how many tokens of each modality the store keeps of one example, at most.
        limit: how many examples of the split are measured, counted from its first; None means all of them.
        folds: groups of whole examples for held-out values and for the jackknife.
        id_tokens: how many tokens intrinsic dimension is estimated on, at most; copies among them are dropped.
        sink_rule: name and version of the rule by which the token set ``no_sinks`` leaves out massive activations.
        max_skipped: the share of examples that may be unreadable or too long before a run is refused.
        seed: of the token selection, the folds and the subsample.
    """

    name: str
    tokens_per_example: int = 32
    limit: int | None = None
    folds: int = 10
    id_tokens: int = 8192
    sink_rule: str = SINK_RULE
    max_skipped: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        for field, least in (("tokens_per_example", 1), ("folds", 2), ("id_tokens", 3), ("seed", 0)):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise MicroscopeError(f"protocol field {field} must be an integer of at least {least}, not {value!r}")
        if self.limit is not None and (not isinstance(self.limit, int) or self.limit < 1):
            raise MicroscopeError(f"protocol field limit must be a positive integer or None, not {self.limit!r}")
        if not 0 <= self.max_skipped <= 1:
            raise MicroscopeError(f"protocol field max_skipped must lie between 0 and 1, not {self.max_skipped!r}")

    def deviations(self) -> dict[str, Any]:
        """The fields in which this protocol differs from the named one, with their values."""
        named = named_protocol(self.name)
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != getattr(named, f.name)}

    def with_changes(self, **changes: Any) -> Protocol:
        """The same protocol with some fields changed; a change to None of a field other than ``limit`` is ignored."""
        known = {f.name for f in fields(self)} - {"name"}
        for key in changes:
            if key not in known:
                raise unknown_name("protocol field", key, sorted(known))
        return replace(self, **{k: v for k, v in changes.items() if v is not None})

    def as_dict(self) -> dict[str, Any]:
        """Field names to values, in the order of declaration."""
        return asdict(self)


PROTOCOLS: dict[str, Protocol] = {"geometry/1": Protocol(name="geometry/1")}
DEFAULT_PROTOCOL = "geometry/1"


def named_protocol(name: str) -> Protocol:
    """The released protocol of that name.

    Raises:
        UnknownNameError: no such protocol; the message holds the nearest names.
    """
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, sorted(PROTOCOLS), "List them with: microscope-bench ls protocols")
    return PROTOCOLS[name]
