"""The pieces of a sequence, token ids and vectors, as the rows of one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from microscope_bench.adapters.base import LABELS, PADDING, TEXT, Batch
from microscope_bench.errors import AdapterError

Piece = tuple[str, Sequence[int] | Tensor]
"""A label of :data:`~microscope_bench.adapters.base.LABELS`, and token ids or vectors (n, d)."""
NO_ID = -1
"""Stands where a position has a vector and no token id, and where there is padding."""


class Row(NamedTuple):
    """One example: ids and labels of all positions, the vectors of some, and the pixels that they were made of."""

    ids: np.ndarray
    labels: np.ndarray
    vectors: list[Tensor]
    prompt: str
    pixels: tuple[Tensor, ...] = ()


def row_of(pieces: Iterable[Piece], maker: str, words: Callable[[list[int]], str]) -> Row:
    """The pieces in a row; an AdapterError that names the ``maker`` where one is none. ``words`` is of token ids."""
    ids, labels, vectors, prompt = [np.zeros(0, np.int64)], [], [], ""
    for label, content in pieces:
        given = _checked(label, content, f"{maker} yields {label!r}")
        labels += [LABELS.index(label)] * len(given)
        if isinstance(given, Tensor):
            vectors.append(given)
            ids.append(np.full(len(given), NO_ID))
            prompt += f"<{label}>"
        else:
            ids.append(given)
            prompt += words(given.tolist())
    return Row(np.concatenate(ids), np.array(labels, dtype=np.int8), vectors, prompt)


def batch_of(rows: Sequence[Row], example_ids: tuple[str, ...], device: torch.device) -> Batch:
    """The rows padded on the right; inputs ``vectors`` are those of all rows, one after the other."""
    shape = (len(rows), max(len(row.ids) for row in rows))
    input_ids, labels = np.full(shape, NO_ID, dtype=np.int64), np.full(shape, PADDING, dtype=np.int8)
    for number, row in enumerate(rows):
        input_ids[number, : len(row.ids)], labels[number, : len(row.ids)] = row.ids, row.labels
    inputs = {
        "input_ids": torch.from_numpy(input_ids).to(device),
        "attention_mask": torch.from_numpy((labels != PADDING).astype(np.int64)).to(device),
    }
    if vectors := [vector for row in rows for vector in row.vectors]:
        inputs["vectors"] = torch.cat(vectors)
    pixels = {f"pixels {n}": values for n, values in enumerate(values for row in rows for values in row.pixels)}
    return Batch(
        inputs=inputs,
        labels=labels,
        ids=example_ids,
        prompts=tuple(row.prompt for row in rows),
        tokens=tuple(row.ids for row in rows),
        media=pixels or {name: inputs[name] for name in inputs.keys() & {"vectors"}},
    )


def _checked(label: str, content: Sequence[int] | Tensor, where: str) -> np.ndarray | Tensor:
    """Token ids as an array, vectors as they are; an AdapterError where a piece is neither."""
    if label not in LABELS[PADDING + 1 :]:
        raise AdapterError(f"{where}, which is no label; a piece is one of {', '.join(LABELS[PADDING + 1 :])}")
    if isinstance(content, Tensor) and content.is_floating_point():
        if content.dim() != 2:
            raise AdapterError(f"{where} with vectors of shape {tuple(content.shape)}; they must be (n, d)")
        if LABELS.index(label) == TEXT:
            raise AdapterError(f"{where} with vectors; give the token ids of text, which embed() makes vectors of")
        return content
    ids = content.detach().cpu().numpy() if isinstance(content, Tensor) else np.asarray(content)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise AdapterError(f"{where} with {content!r:.60}; it must be a list of token ids, or vectors (n, d)")
    return ids.astype(np.int64)
