"""The edges that attention knockout cuts: which positions (keys) which others (queries) can no longer read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from microscope_bench.adapters.base import IMAGE, LABELS, PADDING, STRUCTURE, TEXT
from microscope_bench.capture.selection import select_positions
from microscope_bench.errors import MicroscopeError, unknown_name

MEDIA = LABELS[IMAGE:]
_GROUPS = (*LABELS[1:], "question", "last")
KEYS = (*_GROUPS, "random", "none")
QUERIES = (*_GROUPS, "rest")
"""What stands before and behind the arrow of an edge:

- a label of the adapters; ``image``, ``video`` and ``audio`` with the marks inside one medium, such as row ends;
- ``question``: the text behind the last medium, without the last position;
- ``last``: the prompt's last position;
- ``random``, of keys: as many positions as the example's media have, drawn from all others (a null);
- ``none``, of keys: no position (another null, whose change is exactly 0);
- ``rest``, of queries: every position that is not among the keys.
"""
ARROW = "->"


@dataclass(frozen=True)
class Edge:
    """Queries that cannot read keys; ``name`` is how it is written, such as ``image->question``."""

    keys: str
    queries: str

    @classmethod
    def read(cls, text: str) -> Edge:
        """The edge of this name; a MicroscopeError with the nearest names where an end is unknown."""
        keys, arrow, queries = (piece.strip() for piece in text.partition(ARROW))
        if not arrow:
            raise MicroscopeError(f"edge {text!r} is not of the form keys->queries, such as image->question")
        for what, end, known in (("keys", keys, KEYS), ("queries", queries, QUERIES)):
            if end not in known:
                raise unknown_name(f"{what} of edge {text}:", end, list(known))
        return cls(keys, queries)

    @property
    def name(self) -> str:
        return f"{self.keys}{ARROW}{self.queries}"

    @property
    def goes_to_last_alone(self) -> bool:
        """Whether it cuts something, and changes no state but that of the last position."""
        return self.queries == "last" and self.keys != "none"

    @property
    def media(self) -> set[str]:
        """The modalities without which the edge has an end that holds nothing; ``random`` needs any of them."""
        return {self.keys, self.queries} & {*MEDIA, "random"}


@dataclass(frozen=True)
class Cut:
    """What one edge cuts in a batch.

    Attributes:
        pairs: bool (B, S, S), [example, query, key].
        n_keys: int64 (B,): positions that are cut off.
        applies: bool (B,): whether both ends hold positions in this example.
    """

    pairs: np.ndarray
    n_keys: np.ndarray
    applies: np.ndarray


def cut_of(edge: Edge, labels: np.ndarray, ids: Sequence[str], seed: int) -> Cut:
    """What an edge cuts, by the labels int8 (B, S) of a batch; ``ids`` and ``seed`` decide what ``random`` is."""
    keys = np.stack([_keys(edge.keys, row, name, seed) for row, name in zip(labels, ids, strict=True)])
    queries = np.stack([_group(edge.queries, row) for row in labels])
    if edge.queries == "rest":
        queries = (labels != PADDING) & ~keys
    applies = (keys.any(axis=1) | (edge.keys == "none")) & queries.any(axis=1)
    return Cut(queries[:, :, None] & keys[:, None, :], keys.sum(axis=1), np.asarray(applies))


def _keys(end: str, labels: np.ndarray, example_id: str, seed: int) -> np.ndarray:
    if end != "random":
        return _group(end, labels)
    media = np.logical_or.reduce([_medium(code, labels) for code in range(IMAGE, len(LABELS))])
    real = np.flatnonzero(labels != PADDING)
    others = np.flatnonzero(~media[real])  # numbered among the real positions, so that padding chooses nothing
    chosen = select_positions(others, limit=int(media.sum()), seed=seed, example_id=example_id, modality="random")
    return _marked(real[chosen], len(labels))


def _group(end: str, labels: np.ndarray) -> np.ndarray:
    """The positions of a group, bool (S,); none of ``none`` and ``rest``."""
    if end in MEDIA:
        return _medium(LABELS.index(end), labels)
    real = np.flatnonzero(labels != PADDING)
    if end == "last":
        return _marked(real[-1:], len(labels))
    if end == "question":
        media = np.flatnonzero(labels >= IMAGE)
        behind = np.arange(len(labels)) > (media[-1] if len(media) else -1)
        return np.asarray((labels == TEXT) & behind & ~_marked(real[-1:], len(labels)))
    return np.asarray(labels == LABELS.index(end)) if end in LABELS else np.zeros(len(labels), dtype=bool)


def _medium(code: int, labels: np.ndarray) -> np.ndarray:
    """The positions of a modality, bool (S,), with the structure between two of them."""
    found: np.ndarray = labels == code
    places = np.flatnonzero(found)
    for before, after in pairwise(places.tolist()):
        if (labels[before + 1 : after] == STRUCTURE).all():
            found[before:after] = True
    return found


def _marked(positions: np.ndarray, length: int) -> np.ndarray:
    found = np.zeros(length, dtype=bool)
    found[positions] = True
    return found
