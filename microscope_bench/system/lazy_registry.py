"""Names to objects; nothing is imported until a name is asked for, so listing the names costs nothing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from microscope_bench.errors import MicroscopeError, said, unknown_name
from microscope_bench.system.local_code import local_code_digest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")


class Registry(Generic[T]):
    """A table of names for one ``kind`` of thing.

    ``builtin`` is name → ``"module:attribute"``; ``group`` is that of the entry points by which other packages add
    names; ``hint`` ends the message about a name that is not known.
    """

    def __init__(self, kind: str, builtin: dict[str, str], group: str | None = None, hint: str = "") -> None:
        self.kind = kind
        self.group = group
        self.hint = hint
        self._paths = dict(builtin)
        self._objects: dict[str, T] = {}
        self._points: dict[str, EntryPoint] | None = None

    def _plugins(self) -> dict[str, EntryPoint]:
        if self._points is None:
            self._points = {}
            if self.group is not None:
                from importlib.metadata import entry_points  # slow to import, and the built-in names do without it

                # once: it reads the metadata of every installed package, and a page asks for each metric of each result
                self._points = {point.name: point for point in entry_points(group=self.group)}
        return self._points

    def names(self) -> list[str]:
        """Every known name, sorted; imports nothing."""
        return sorted({*self._paths, *self._objects, *self._plugins()})

    def __contains__(self, name: object) -> bool:
        return name in self._paths or name in self._objects or name in self._plugins()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def code_of(self, name: str) -> str | None:
        """What tells the code behind a name from other code: None where it is of this package.

        That is the distribution that added the name, with its version and, where its files are no installed ones (an
        editable install), 8 digits of their content.
        """
        plugin = None if name in self._paths else self._plugins().get(name)
        if plugin is None:
            return None
        self.get(name)
        distribution = "" if plugin.dist is None else f"{plugin.dist.name}-{plugin.dist.version}"
        local = local_code_digest(sys.modules[plugin.module])
        return ".".join(part for part in (distribution, local) if part) or None

    def get(self, name: str) -> T:
        """The object behind a name, imported now if it was not before.

        Raises:
            UnknownNameError: no such name.
            MicroscopeError: what it names does not import.
        """
        if name in self._objects:
            return self._objects[name]
        path = self._paths.get(name)
        if path is None:
            plugin = self._plugins().get(name)
            if plugin is None:
                raise unknown_name(self.kind, name, self.names(), self.hint)
            path = plugin.value
        module, _, attribute = path.partition(":")
        try:
            target: T = getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:  # a plug-in's code may raise anything
            what = f"{self.kind} {name!r} points at {path}, which does not import: {said(error)}"
            raise MicroscopeError(what) from error
        self._objects[name] = target
        return target
