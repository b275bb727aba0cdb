"""How much the weight files of a checkpoint hold, read from their headers, and a model that may not be larger."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules import module as registration

from microscope_bench.errors import AdapterError, first_line

_LONGEST_HEADER = 32 << 20
_MOST_TENSORS = 200_000
_TIMES_HELD = 5  # a table of embeddings is held once, however often it is laid out and tied
_PACKED = 16  # quantised numbers that a whole one may hold
_MOST_PARAMETERS = 60_000  # a thousand layers of fifty, or every expert of a large mixture apart
_FREE_TENSORS, _FREE_NUMBERS = 2_000, 1 << 20
_FREE_BUFFERS = 1 << 27
"""Numbers that masks and tables, which no file holds, may have."""


class _Entry(msgspec.Struct):
    """One tensor of a header; ``__metadata__`` has none of the fields."""

    dtype: str = ""
    shape: tuple[int, ...] = ()
    data_offsets: tuple[int, ...] = ()


@dataclass(frozen=True)
class Holding:
    """What weight files hold: how many tensors, and at most how many numbers in them."""

    n_tensors: int
    n_numbers: int


def read_header(path: Path) -> dict[str, _Entry]:
    """The tensors of a safetensors file by name; an AdapterError where its header cannot be one."""
    try:
        with path.open("rb") as file:
            length, size = int.from_bytes(file.read(8), "little"), path.stat().st_size
            if not 2 <= length <= min(_LONGEST_HEADER, size - 8):
                raise ValueError(f"its header would be {length} bytes long, of {size} bytes in all")
            entries = msgspec.json.decode(file.read(length), type=dict[str, _Entry])
        with safe_open(path, framework="pt"):  # what it checks more, it checks without bounds
            pass
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError, SafetensorError) as error:
        raise AdapterError(
            f"{path.name} of {path.parent.name} is truncated or damaged ({first_line(error)}); fetch it again"
        ) from error
    entries.pop("__metadata__", None)
    return entries


def holding(directory: Path, names: Iterable[str]) -> Holding:
    """What those of the named files that are of safetensors hold together."""
    entries: list[_Entry] = []
    for name in names:
        if name.endswith(".safetensors"):
            entries += read_header(directory / name).values()
        if len(entries) > _MOST_TENSORS:
            raise AdapterError(f"{directory.name} has more than {_MOST_TENSORS:,} tensors; fetch it again")
    numbers = (math.prod(entry.shape) * (_PACKED if entry.dtype[:1] in ("I", "U") else 1) for entry in entries)
    return Holding(len(entries), sum(numbers))


@contextmanager
def no_larger_than(held: Holding, name: str) -> Iterator[None]:
    """Refuses, while transformers lays a model out without memory, one that is far larger than its weight files.

    What a configuration asks for shows as its modules register their parameters, whatever the architecture, and long
    before the first is allocated; the error names the parameter.
    """
    tensors = numbers = buffers = 0

    def refuse(module: nn.Module, key: str, value: Tensor) -> None:
        raise AdapterError(
            f"config.json of {name} describes a far larger model than its weight files hold ({held.n_tensors} tensors, "
            f"{held.n_numbers:,} numbers): refused at {key} {tuple(value.shape)} of a {type(module).__name__}. "
            f"Fetch the checkpoint again."
        )

    def parameter(module: nn.Module, key: str, value: Any) -> None:
        nonlocal tensors, numbers
        if isinstance(value, Tensor):
            tensors, numbers = tensors + 1, numbers + value.numel()
            if (
                tensors > min(_TIMES_HELD * held.n_tensors + _FREE_TENSORS, _MOST_PARAMETERS)
                or numbers > _TIMES_HELD * held.n_numbers + _FREE_NUMBERS
            ):
                refuse(module, key, value)

    def buffer(module: nn.Module, key: str, value: Any) -> None:
        nonlocal buffers
        if isinstance(value, Tensor):
            buffers += value.numel()
            if buffers > held.n_numbers + _FREE_BUFFERS:
                refuse(module, key, value)

    hooks = [
        registration.register_module_parameter_registration_hook(parameter),
        registration.register_module_buffer_registration_hook(buffer),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
