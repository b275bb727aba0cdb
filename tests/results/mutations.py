"""A small result document, and what somebody could make of it."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

from microscope_bench.results.result import load_result
from tests.results.sample import SAMPLE_FILE, forge

ORIGINAL = load_result(SAMPLE_FILE)
# few rows, so that most mutations hit something else than a row
BYTES = json.dumps(forge(ORIGINAL.to_dict() | {"scores": ORIGINAL.to_dict()["scores"][:4]})).encode()
DOCUMENT: dict[str, Any] = json.loads(BYTES)

deep: Any = 0
for _ in range(300):
    deep = [deep]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from([10_000, 10**12, 10**15, 2**63 - 1, 1e308, -1e308, 5e-324, 1.0]),
    st.sampled_from(["\ud800", "\x1b[2J\n::error::x", "<b>|$", "\u202e\U000e0041"]),
    st.sampled_from(["\0", "a\nb", "x" * 100_000, 10**400, deep, {}, [], {"": {}}, {"\ud800": 1}]),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def places(node: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    steps = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [at, *(place for key, value in steps for place in places(value, (*at, key)))]


@st.composite
def mutations(draw: st.DrawFn, original: dict[str, Any] = DOCUMENT) -> dict[str, Any]:
    changed = copy.deepcopy(original)
    found = places(original)[1:]
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from(found))
        try:
            at: Any = changed
            for step in parents:
                at = at[step]
            match draw(st.sampled_from(["replace", "delete", "add", "repeat"])):
                case "replace":
                    at[last] = draw(VALUES)
                case "delete":
                    del at[last]
                case "add" if isinstance(at, dict):
                    at[draw(st.text(max_size=5))] = draw(VALUES)
                case _ if isinstance(at, list):
                    at.append(at[last])
        except (KeyError, IndexError, TypeError):
            continue  # an earlier mutation took this place away
    return changed


@st.composite
def damages(draw: st.DrawFn, content: bytes = BYTES) -> bytes:
    """The bytes of a file, some of them others', and perhaps an end missing."""
    start = draw(st.integers(0, len(content)))
    end = draw(st.integers(start, min(len(content), start + 20)))
    changed = content[:start] + draw(st.binary(max_size=20)) + content[end:]
    return changed[: draw(st.integers(0, len(changed)))] if draw(st.booleans()) else changed
