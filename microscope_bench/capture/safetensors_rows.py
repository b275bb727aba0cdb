"""Rows of a store's tensors, each read from its place in the file: nothing of the files is mapped or kept.

A mapped file counts as memory for as far as it was looked at, and measuring looks at all of every part. The places are
few and known: a safetensors file is the length of its header (8 bytes, little-endian), the header (JSON: name → dtype,
shape, first and last byte behind the header), and the tensors as they lie in memory, row by row.
https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from typing import Any

import numpy as np
import torch
from torch import Tensor

from microscope_bench.capture.store import TokenStore
from microscope_bench.errors import StoreError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I8": torch.int8,
}
"""The types a store holds, by the names that safetensors has for them."""
_LENGTH_BYTES = 8
_ABSENT = -1


class StoredRows:
    """Reads rows of a complete store's tensors by part and row; ``n_tokens``, int64 (parts,), counts each part's."""

    def __init__(self, store: TokenStore) -> None:
        self.store = store
        self.n_tokens = np.zeros(store.n_parts, dtype=np.int64)
        self._kinds: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        # per tensor and part the place of its first byte: eight bytes each, where headers would be kilobytes
        self._places: dict[str, np.ndarray] = {}
        for part in range(store.n_parts):
            header, start = self._header(part)
            for name, about in header.items():
                n, *shape = about["shape"]
                self.n_tokens[part] = n
                if n:
                    kind = DTYPES[about["dtype"]], tuple(shape)
                    if self._kinds.setdefault(name, kind) != kind:
                        raise self._unreadable(part, f"{name} is {kind}, in the parts before {self._kinds[name]}")
                    if name not in self._places:
                        self._places[name] = np.full(store.n_parts, _ABSENT, dtype=np.int64)
                    self._places[name][part] = start + about["data_offsets"][0]

    def kind(self, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
        if name not in self._kinds:
            raise StoreError(f"the store {self.store.path} holds no tokens with a {name}")
        return self._kinds[name]

    def column(self, name: str, part: int) -> np.ndarray:
        """(n,): a tensor of one number per token, whole, of one part."""
        n = int(self.n_tokens[part])
        return self.read(name, np.full(n, part), np.arange(n)).numpy() if n else np.empty(0, dtype=np.int64)

    def read(self, name: str, part: np.ndarray, row: np.ndarray) -> Tensor:
        """(n, ...): rows of a tensor as they are stored; ``part`` and ``row``, integers (n,), name them in order."""
        dtype, shape = self.kind(name)
        out = torch.empty((len(row), *shape), dtype=dtype)
        if not out.numel():
            return out
        size = math.prod(shape) * dtype.itemsize
        target = out.reshape(-1).view(torch.uint8).numpy().data  # its bytes, as they lie in memory
        # neighbours in the file that are neighbours in the answer are read at once, and all of a file while it is open
        begins = np.flatnonzero(np.concatenate([[True], (np.diff(part) != 0) | (np.diff(row) != 1)]))
        ends = np.append(begins[1:], len(row))
        by_part = np.argsort(part[begins], kind="stable")
        begins, ends = begins[by_part], ends[by_part]
        parts, firsts = part[begins], row[begins].astype(np.int64) * size
        for group in np.split(np.arange(len(begins)), np.flatnonzero(np.diff(parts)) + 1):
            of_part = int(parts[group[0]])
            start = int(self._places[name][of_part])
            if start == _ABSENT:
                raise self._unreadable(of_part, f"it has no {name}")
            with self._opened(of_part) as file:
                runs = (column[group].tolist() for column in (firsts, begins * size, ends * size))
                for first, begin, end in zip(*runs, strict=True):
                    file.seek(start + first)
                    if file.readinto(target[begin:end]) != end - begin:
                        raise self._unreadable(of_part, f"it ends within {name}")
        return out

    def _header(self, part: int) -> tuple[dict[str, Any], int]:
        """What the file says of each tensor, and the place of the byte that offsets are counted from."""
        with self._opened(part) as file:
            n_bytes = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            size = os.fstat(file.fileno()).st_size
            if not 0 < n_bytes <= size - _LENGTH_BYTES:
                raise self._unreadable(part, f"its header has {n_bytes} bytes, the file {size}")
            try:
                header = dict(json.loads(file.read(n_bytes)))
            except ValueError as error:
                raise self._unreadable(part, str(error)) from error
        header.pop("__metadata__", None)
        return header, _LENGTH_BYTES + n_bytes

    @contextmanager
    def _opened(self, part: int) -> Iterator[FileIO]:
        try:
            with self.store.tensor_file(part).open("rb", buffering=0) as file:
                yield file
        except OSError as error:
            raise self._unreadable(part, str(error.strerror)) from error

    def _unreadable(self, part: int, why: str) -> StoreError:
        return StoreError(
            f"{self.store.tensor_file(part)} cannot be read: {why}. Give the run's command again to capture it anew"
        )
