"""Whether the tensors of a part are what a capture writes, by what their file says and by their columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import safe_open

from microscope_bench.adapters.base import LABELS, MODALITIES
from microscope_bench.capture.example_record import ExampleRecord
from microscope_bench.capture.states import TOKEN_COLUMNS
from microscope_bench.system.disk import open_regular

FLOATS = ("F64", "F32", "F16", "BF16")


def check_tensors(file: Path, metadata: Mapping[str, str], examples: Sequence[ExampleRecord]) -> None:
    """Raises an OSError, ValueError or SafetensorError that says what is wrong with a part's tensors.

    The states themselves are not read: a NaN is a state, which metrics tell of. A file of another size than its header
    says is refused before anything of it is read, however large it is.
    """
    with open_regular(file):
        pass  # a FIFO would not even open
    with safe_open(file, framework="numpy") as tensors:
        if tensors.metadata() != metadata:
            raise ValueError("it belongs to another part, store or record")
        stored = list(tensors.keys())
        shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in stored}
        dtypes = {name: tensors.get_slice(name).get_dtype() for name in stored}
        n = next(iter(shapes.get("example", ())), 0)
        for name in TOKEN_COLUMNS:
            if shapes.pop(name, None) != (n,) or dtypes[name] != ("I8" if name == "modality" else "I64"):
                raise ValueError(f"{name} is no column of {n} numbers")
        columns = {name: tensors.get_tensor(name) for name in TOKEN_COLUMNS}
    n_boundaries = sum(name.startswith("boundary.") for name in shapes)
    width = shapes.get("boundary.0", (n, 0))[1:]
    names = {f"boundary.{layer}" for layer in range(n_boundaries)}
    names |= {f"mainflow.{layer}" for layer in range(1, n_boundaries)} if names < set(shapes) else set()
    if names != set(shapes) or (n and not names):
        raise ValueError("it lacks a boundary, or holds something else")
    for name, shape in shapes.items():
        if len(shape) != 2 or shape != (n, *width) or dtypes[name] not in FLOATS:
            raise ValueError(f"{name} has dtype {dtypes[name]} and shape {shape}, and there are {n} tokens")
    _check_columns(columns, examples)


def _check_columns(columns: Mapping[str, np.ndarray], examples: Sequence[ExampleRecord]) -> None:
    example, modality, position = (columns[name] for name in ("example", "modality", "position"))
    seen = np.array([sum(one.tokens_seen.values()) if one.skipped is None else 0 for one in examples])
    if ((example < 0) | (example >= len(examples))).any():
        raise ValueError(f"its tokens are of examples beyond its {len(examples)}")
    if not np.isin(modality, [LABELS.index(name) for name in MODALITIES]).all():
        raise ValueError("a token of it has a label of no modality")
    if ((position < 0) | (position >= seen[example])).any():
        raise ValueError("a token of it has a position that its example does not have")
    tokens = np.stack([example, modality, position]) if len(example) else np.empty((3, 0))
    if np.unique(tokens, axis=1).shape[1] < len(example):
        raise ValueError("a token stands in it twice")
