"""The modules that an adapter holds, wherever it holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from microscope_bench.adapters.base import Adapter

_DEPTH, _WIDTH = 4, 1000  # of attributes of attributes; a vocabulary, which is wider, holds no module


def held_modules(adapter: Adapter) -> list[nn.Module]:
    """The modules among an adapter's attributes, and its blocks; the largest first, none twice."""
    found: dict[int, nn.Module] = {}
    known: set[int] = set()

    def look(value: Any, depth: int) -> None:
        if isinstance(value, nn.Module):
            found[id(value)] = value
            return
        if depth == _DEPTH or id(value) in known or isinstance(value, type | ModuleType | Tensor):
            return
        known.add(id(value))
        if isinstance(value, Mapping):
            inner = list(value.values())
        elif isinstance(value, list | tuple | set | frozenset):
            inner = list(value)
        else:
            inner = list(getattr(value, "__dict__", {}).values())
        for one in inner[:_WIDTH]:
            look(one, depth + 1)

    look(adapter, 0)
    for block in (*adapter.blocks(), adapter.last_module()):
        found[id(block)] = block
    return sorted(found.values(), key=lambda module: -sum(1 for _ in module.modules()))


def outermost(modules: Sequence[nn.Module]) -> list[nn.Module]:
    """Those of some modules, the largest first, that are in no other of them."""
    inside: set[nn.Module] = set()
    found = []
    for module in modules:
        if module not in inside:
            found.append(module)
            inside.update(module.modules())
    return found
