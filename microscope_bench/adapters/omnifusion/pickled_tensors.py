"""Reads the tensors and the structure of a file of ``torch.save``; no class of it is built and no function called.

A pickle is a program, of which the few instructions that ``torch.save`` writes are followed one by one: a reference to
a class or function stays a name, and a module is its name and its state.
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from microscope_bench.errors import AdapterError, first_line

_LONGEST = 2 << 20  # of a pickle without its tensors, and of the list of files in an archive
_NUMBERS = {"Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16, "Double": torch.float64}
_NUMBERS |= {"Long": torch.int64, "Int": torch.int32, "Byte": torch.uint8, "Bool": torch.bool}
_DTYPES = {f"torch.{name}Storage": dtype for name, dtype in _NUMBERS.items()}
_TENSOR, _PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
_DICT, _SETS = "collections.OrderedDict", ("__builtin__.set", "builtins.set")
_OWN = frozenset({_TENSOR, _PARAMETER, _DICT, *_SETS, *_DTYPES})
_VALUES: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
}
_ARGUMENTS = frozenset({"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"})
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Name(str):
    """The dotted name of a class or function."""


@dataclass(eq=False)
class PickledModule:
    """A module that was pickled whole: the name of its class, and its attributes."""

    name: str
    state: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Storage:
    key: str
    dtype: torch.dtype
    n_numbers: int


@dataclass(frozen=True, eq=False)
class PickledTensor:
    """A tensor as a view of a storage of the file, inside its bounds."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class PickledFile:
    """A file of ``torch.save``: its structure as ``content``, its tensors by :meth:`tensor`.

    ``content`` holds dictionaries, lists (an empty one for each set), tuples, strings, numbers, :class:`PickledModule`
    and :class:`PickledTensor`, and may hold itself.

    Raises:
        AdapterError: the file is damaged, or refers to a class or function that ``allows`` does not allow.
    """

    def __init__(self, path: Path, allows: Callable[[str], bool] = lambda name: False) -> None:
        self.path = path
        self._allows = allows
        self._sizes: dict[str, int] = {}
        self._prefix = ""
        try:
            self.content = self._read()
        except Exception as error:  # damaged bytes make the zip reader raise anything
            raise AdapterError(
                f"{path} cannot be read as tensors of torch.save, and nothing of it was run: {first_line(error)}. "
                f"Take the file from its publisher, or convert it to {path.stem}.safetensors"
            ) from error

    def tensor(self, pickled: PickledTensor) -> Tensor:
        """The tensor, with memory of its own."""
        storage = pickled.storage
        if 0 in pickled.shape:
            return torch.empty(pickled.shape, dtype=storage.dtype)
        try:
            with _archive(self.path) as archive:
                content = archive.read(self._entry(storage.key))
        except Exception as error:
            raise AdapterError(f"{self.path} is damaged: {first_line(error)}; fetch it again") from error
        numbers = torch.frombuffer(bytearray(content), dtype=storage.dtype)
        return numbers.as_strided(pickled.shape, pickled.strides, pickled.offset).clone()

    def _read(self) -> Any:
        with _archive(self.path) as archive:
            entries = archive.infolist()
            self._sizes = {entry.filename: entry.file_size for entry in entries}
            name = next((name for name in self._sizes if name.count("/") == 1 and name.endswith("/data.pkl")), None)
            if name is None:
                raise ValueError("its archive holds no data.pkl")
            self._prefix = name.removesuffix("data.pkl")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or len(self._sizes) < len(entries):
                raise ValueError("its archive is compressed, or holds a name twice")
            if sum(self._sizes.values()) > self.path.stat().st_size or self._sizes[name] > _LONGEST:
                raise ValueError("its archive says that it holds more than the file has bytes")
            order = f"{self._prefix}byteorder"
            if order in self._sizes and archive.read(order) != b"little":
                raise ValueError("its numbers are not little-endian")
            return self._follow(archive.read(name))

    def _entry(self, key: str) -> str:
        return f"{self._prefix}data/{key}"

    def _follow(self, content: bytes) -> Any:
        stack: list[Any] = []
        marks: list[int] = []
        memo: dict[int, Any] = {}

        def since_mark() -> list[Any]:
            start = marks.pop()
            found = stack[start:]
            del stack[start:]
            return found

        instructions: Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]] = pickletools.genops(content)
        for opcode, argument, _ in instructions:
            match opcode.name:
                case "PROTO":
                    pass
                case "STOP":
                    return stack.pop()
                case "MARK":
                    marks.append(len(stack))
                case name if name in _VALUES:
                    stack.append(_VALUES[name]())
                case name if name in _ARGUMENTS:
                    stack.append(argument)
                case "GLOBAL":
                    stack.append(self._name(argument.replace(" ", ".", 1)))
                case "BINPUT" | "LONG_BINPUT":
                    memo[argument] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[argument])
                case "TUPLE":
                    stack.append(tuple(since_mark()))
                case name if name in _TUPLES:
                    stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
                case "APPEND":
                    _extend(stack, [stack.pop()])
                case "APPENDS":
                    _extend(stack, since_mark())
                case "SETITEM":
                    value, key = stack.pop(), stack.pop()
                    _update(stack, [key, value])
                case "SETITEMS":
                    _update(stack, since_mark())
                case "BINPERSID":
                    stack.append(self._storage(stack.pop()))
                case "REDUCE":
                    arguments = stack.pop()
                    stack.append(_call(stack.pop(), arguments))
                case "NEWOBJ":
                    arguments = stack.pop()
                    stack.append(_new(stack.pop(), arguments))
                case "BUILD":
                    state = stack.pop()
                    _set_state(stack[-1], state)
                case name:
                    raise ValueError(f"torch.save writes no {name}")
        raise EOFError("its pickle does not end")

    def _name(self, name: str) -> Name:
        if name not in _OWN and not self._allows(name):
            raise ValueError(f"besides tensors it refers to {name:.200}, which could run code")
        return Name(name)

    def _storage(self, persistent: Any) -> _Storage:
        kind, name, key, _, n_numbers, *_ = persistent
        known = isinstance(name, Name) and name in _DTYPES and isinstance(key, str)
        if kind != "storage" or not known or type(n_numbers) is not int or n_numbers < 0:
            raise ValueError("it refers to something that is no storage")
        dtype = _DTYPES[name]
        if n_numbers * dtype.itemsize != self._sizes.get(self._entry(key)):
            raise ValueError(f"storage {key} would have {n_numbers} numbers, which the file does not hold")
        return _Storage(key, dtype, n_numbers)


class _BoundedFile(io.FileIO):
    """A file whose archive lists its content in bounded space: the list is the one thing that is read at once."""

    listing = True

    def read(self, size: int | None = -1, /) -> bytes | Any:
        if self.listing and (size if size is not None and size >= 0 else self._left()) > _LONGEST:
            raise ValueError("the list of files in its archive is too long")
        return super().read(-1 if size is None else size)

    def _left(self) -> int:
        here = self.tell()
        end = self.seek(0, io.SEEK_END)
        self.seek(here)
        return end - here


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    with _BoundedFile(path) as file, zipfile.ZipFile(file) as archive:
        file.listing = False
        yield archive


def _extend(stack: list[Any], values: list[Any]) -> None:
    if not isinstance(stack[-1], list):
        raise ValueError("it appends to what is no list")
    stack[-1].extend(values)


def _update(stack: list[Any], values: list[Any]) -> None:
    keys = values[::2]
    if not isinstance(stack[-1], dict) or not all(isinstance(key, str | int) for key in keys):
        raise ValueError("it sets items of what is no dictionary of names")
    stack[-1].update(zip(keys, values[1::2], strict=True))


def _call(function: Any, arguments: Any) -> Any:
    name = str(function) if isinstance(function, Name) else ""
    if name == _DICT and arguments == ():
        return {}
    if name in _SETS and len(arguments) == 1 and isinstance(arguments[0], list):
        return []
    if name == _PARAMETER and isinstance(arguments[0], PickledTensor):
        return arguments[0]
    if name == _TENSOR:
        return _view(*arguments[:4])
    raise ValueError(f"it calls {name or 'something'}, which rebuilds no tensor")


def _view(storage: Any, offset: Any, shape: Any, strides: Any) -> PickledTensor:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or len(numbers) > 33 or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError("a tensor of it is no view of a storage")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    n_numbers = math.prod(shape)
    if n_numbers and (last >= storage.n_numbers or n_numbers > storage.n_numbers):
        raise ValueError(f"a tensor of shape {shape} lies outside of its storage")
    return PickledTensor(storage, offset, tuple(shape), tuple(strides))


def _new(cls: Any, arguments: Any) -> PickledModule:
    if not isinstance(cls, Name) or cls in _OWN or arguments != ():
        raise ValueError("it builds something that is no module")
    return PickledModule(str(cls))


def _set_state(target: Any, state: Any) -> None:
    if isinstance(target, PickledModule) and isinstance(state, dict):
        target.state = state
    elif not isinstance(target, dict):  # what an ordered dictionary has besides its items is not of interest
        raise ValueError("it gives a state to what is no module")
