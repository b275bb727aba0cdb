"""The code of a class that has no file, such as one of a notebook's cells, read from what Python compiled of it."""

from __future__ import annotations

from types import CodeType, ModuleType
from typing import Any


def live_code(made: type, module: ModuleType) -> tuple[bytes, list[Any]]:
    """The compiled code of a class and of all that it uses of its own module, and what it uses of other modules."""
    parts: list[str] = []
    others: list[Any] = []
    seen: set[int] = set()

    def read(value: Any) -> None:
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, type):
            for base in value.__mro__:
                if base.__module__ == module.__name__:
                    for name, member in sorted(vars(base).items()):
                        parts.append(name)
                        read(member)
                else:
                    others.append(base)
        value = getattr(value, "__func__", getattr(value, "fget", value))  # a class method, a property
        code = value if isinstance(value, CodeType) else getattr(value, "__code__", None)
        if not isinstance(code, CodeType):
            return
        parts.append(f"{code.co_code.hex()} {code.co_names}")
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                read(constant)
            else:
                parts.append(repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant))
        for name in code.co_names:
            used = vars(module).get(name)
            if getattr(used, "__module__", None) == module.__name__:
                read(used)
            elif isinstance(used, str | int | float | bool | tuple):
                parts.append(f"{name} {used!r}")
            elif used is not None:
                others.append(used)

    read(made)
    return "\n".join(parts).encode(), others
