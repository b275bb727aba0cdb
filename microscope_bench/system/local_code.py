"""A digest of the local code that a module runs: its own source and that of every local module it imports.

Local is what no package manager installed and what is neither of Python nor of this package: a file beside a script, a
folder on the path, an editable install. Installed code is told by the version of its distribution.
"""

from __future__ import annotations

import ast
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import lru_cache
from hashlib import sha256
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import resolve_name, spec_from_file_location
from pathlib import Path
from types import FunctionType, ModuleType
from typing import NoReturn
from weakref import WeakKeyDictionary

from microscope_bench.system.live_code import live_code

_PACKAGE = __name__.partition(".")[0]
_LIBRARIES = {
    "torch",
    "torchvision",
    "transformers",
    "tokenizers",
    "accelerate",
    "peft",
    "datasets",
    "lm_eval",
    "numpy",
}
"""Those whose versions stand in a result, whether their sources are installed or not."""

_STANDARD = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")]
_first_seen: WeakKeyDictionary[ModuleType, bytes] = WeakKeyDictionary()


class FreshLoader(SourceFileLoader):
    """Runs a file as it is now; Python's bytecode caches miss an edit that keeps its size and its time in seconds."""

    def path_stats(self, path: str) -> NoReturn:  # without which the cache is neither read nor written
        raise OSError(f"{path} is read anew")


def local_code_digest(module: ModuleType, *, is_local: bool = False, made: type | None = None) -> str | None:
    """8 hex digits over a module and the local modules that it imports, directly or not; None where none is local.

    Imports inside functions count, whether or not they have run; so do modules that a loaded one holds. Of one file
    alone they are those of its SHA-256. ``is_local`` makes the module itself count wherever it lies. Of a module that
    has no file (a notebook) it is the class ``made`` and what that uses.
    """
    sources: dict[str, bytes] = {}
    seen: set[str] = set()
    waiting: list[tuple[str, ModuleSpec | None, ModuleType | None]] = [(module.__name__, _spec_of(module), module)]
    if made is not None and waiting[0][1] is None:
        sources[module.__name__], used = live_code(made, module)
        waiting += [(other.__name__, _spec_of(other), other) for other in used if isinstance(other, ModuleType)]
        waiting += [(name, _found_spec(name), None) for name in _makers(used)]
    while waiting:
        name, spec, loaded = waiting.pop()
        if name in seen or spec is None or not ((loaded is module and is_local) or _is_local(spec)):
            continue
        seen.add(name)
        loaded = loaded or sys.modules.get(name)
        source = _content(spec, loaded)
        if source is not None:
            sources[name] = source
        held = list(vars(loaded).values()) if loaded is not None else []
        waiting += [(other.__name__, _spec_of(other), other) for other in held if isinstance(other, ModuleType)]
        for imported in {*_imported(source or b"", spec), *_makers(held)} - seen:
            parts = imported.split(".")
            names = [".".join(parts[: n + 1]) for n in range(len(parts))]
            waiting += [(one, _found_spec(one), None) for one in names if one not in seen]
    if len(sources) <= 1:
        return sha256(*sources.values()).hexdigest()[:8] if sources else None
    every = "".join(f"{name}\0{sha256(source).hexdigest()}\n" for name, source in sorted(sources.items()))
    return sha256(every.encode()).hexdigest()[:8]


def _spec_of(module: ModuleType) -> ModuleSpec | None:
    """Of a script, which has none, one that is made of its file."""
    file = getattr(module, "__file__", None)
    return getattr(module, "__spec__", None) or (
        None if file is None else spec_from_file_location(module.__name__, file)
    )


def _found_spec(name: str) -> ModuleSpec | None:
    """Of a module by its full name. Nothing is imported for it, and inside of what is not local nothing is found."""
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__spec__", None) is not None:
        return loaded.__spec__
    path = None
    if parent := name.rpartition(".")[0]:
        above = _found_spec(parent)
        if above is None or above.submodule_search_locations is None or not _is_local(above):
            return None
        path = list(above.submodule_search_locations)
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(name, path)
        except Exception:
            continue
        if spec is not None:
            return spec
    return None


def _is_local(spec: ModuleSpec) -> bool:
    if spec.name.partition(".")[0] in {_PACKAGE, *_LIBRARIES}:
        return False
    if spec.has_location and spec.origin is not None:
        depth = spec.name.count(".") + (spec.submodule_search_locations is not None)
        return not _is_installed(Path(spec.origin).parents[depth])
    return any(not _is_installed(Path(place).parent) for place in spec.submodule_search_locations or ())


@lru_cache(maxsize=1000)
def _is_installed(directory: Path) -> bool:
    """Whether a folder on the path is Python's own or one that packages are installed in."""
    if {"site-packages", "dist-packages"} & set(directory.parts):
        return True
    real = directory.resolve()
    return any(real.is_relative_to(place) for place in _STANDARD) or any(real.glob("*.dist-info"))


def _content(spec: ModuleSpec, loaded: ModuleType | None) -> bytes | None:
    """What a module was made of, as far as is known; where its file has changed since, both.

    A module that is loaded runs what its file was when it was imported, which is taken to be when it was first seen.
    """
    read = getattr(spec.loader, "get_data", None)  # zip files have it too
    if read is None or spec.origin is None:
        return None
    try:
        now: bytes = read(spec.origin)
    except OSError:
        now = b""
    if loaded is None:
        return now
    then = _first_seen.setdefault(loaded, now)
    return then if then == now else then + b"\0" + now


def _imported(source: bytes, spec: ModuleSpec) -> Iterator[str]:
    """Full names of all that a source may import: of ``from a import b`` both a and a.b."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):  # no Python source: a compiled module
        return
    package = spec.parent or ""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _full_name("." * node.level + (node.module or ""), package)
            if base is not None:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                name = _full_name(node.args[0].value, package)
                if name is not None:
                    yield name


def _full_name(name: str, package: str) -> str | None:
    try:
        return resolve_name(name, package)
    except (ImportError, ValueError):  # relative to no package
        return None


def _makers(values: Iterable[object]) -> Iterator[str]:
    """Names of the modules of classes, functions and instances."""
    for value in values:
        name = getattr(value if isinstance(value, type | FunctionType) else type(value), "__module__", None)
        if isinstance(name, str) and name:
            yield name
