"""Text-only requests: lm-eval's own code runs them, and what goes into the model is recognised as it goes by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from microscope_bench.adapters.base import PADDING
from microscope_bench.capture.selection import splitmix64
from microscope_bench.lm_eval_plugin.documents import Document
from microscope_bench.lm_eval_plugin.geometry import Geometry, Watched

_OTHER_TOKENS = (
    "lm-eval gives the model other tokens than microscope-bench run would: it decides otherwise on the mark at the "
    "beginning (add_bos_token), or the answer melts with white space at the prompt's end"
)
Encoded = tuple[tuple[str, str], list[int], list[int]]
"""What lm-eval makes of a request: its texts, the ids of the context, those of the continuation."""


class Scoring:
    """Finds each document's prompt once among the sequences that lm-eval scores.

    lm-eval batches, shortens and shares requests as it likes, padded on the right and without a mask. In a causal model
    the states of a prompt are the same in every sequence that begins with it, so that the first one serves.
    """

    def __init__(
        self,
        geometry: Geometry,
        documents: Sequence[Document],
        encoded: Sequence[Encoded],
        max_length: int,
    ) -> None:
        self._geometry = geometry
        self._wanted: dict[int, dict[int, list[Document]]] = {}
        self._prompts: dict[Document, tuple[np.ndarray, np.ndarray, str]] = {}
        for document, ((text, _), context, continuation) in zip(documents, encoded, strict=True):
            if document in self._prompts or (own := geometry.encoded(document)) is None:
                continue
            tokens, labels = own
            self._prompts[document] = tokens, labels, text
            sequence = [*context, *continuation]
            if len(sequence) > max_length + 1:
                cause = f"{len(sequence) - 1} tokens exceed the {max_length} that lm-eval gives the model"
                geometry.skip(document, cause)
            elif common(sequence, tokens.tolist()) < len(tokens):
                geometry.skip(document, _OTHER_TOKENS)
            else:
                of_length = self._wanted.setdefault(len(tokens), {})
                of_length.setdefault(int(_prefix_keys(tokens)[-1]), []).append(document)

    def rows(self, sequences: Tensor) -> list[Watched]:
        """The documents not yet seen whose prompt begins one of the sequences (B, S)."""
        found = []
        for number, sequence in enumerate(sequences.cpu().numpy()):
            keys = _prefix_keys(sequence)
            for length in [n for n in self._wanted if n <= len(sequence)]:
                for document in self._wanted[length].pop(int(keys[length - 1]), ()):
                    tokens, labels, text = self._prompts[document]
                    found.append(Watched(document, number, _placed(labels, 0, len(sequence)), tokens, text))
        return found


class Generation:
    """Finds each document's prompt once among the batches that lm-eval lets the model go on from."""

    def __init__(self, geometry: Geometry, documents: Sequence[Document], contexts: Sequence[str]) -> None:
        self._geometry = geometry
        self._wanted: dict[str, list[Document]] = {}
        for document, context in zip(documents, contexts, strict=True):
            members = self._wanted.setdefault(context, [])
            if document not in members:
                members.append(document)
        self._batch: tuple[list[str], list[int]] = [], []

    def encoded(self, contexts: Iterable[str], lengths: Iterable[int]) -> None:
        """Notes what the next batch is made of: its texts, and how many tokens each has before any is cut."""
        self._batch = list(contexts), list(lengths)

    def rows(self, sequences: Tensor) -> list[Watched]:
        """The documents not yet seen in the batch that was encoded last; (B, S), padded on the left."""
        found = []
        width = sequences.shape[1]
        for number, (context, n, sequence) in enumerate(zip(*self._batch, sequences.cpu().numpy(), strict=True)):
            for document in self._wanted.pop(context, ()):
                own = self._geometry.encoded(document)
                if n > width:
                    self._geometry.skip(document, f"{n} tokens exceed the {width} that lm-eval gives the model")
                elif own is not None and sequence[width - n :].tolist() != own[0].tolist():
                    self._geometry.skip(document, _OTHER_TOKENS)
                elif own is not None:
                    tokens, labels = own
                    found.append(Watched(document, number, _placed(labels, width - n, width), tokens, context))
        return found


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning.

    >>> common([1, 2, 3], [1, 2, 4, 5])
    2
    """
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _placed(labels: np.ndarray, start: int, width: int) -> np.ndarray:
    """A prompt's labels (n,) from ``start`` on in a row of ``width`` positions; padding elsewhere."""
    row = np.full(width, PADDING, dtype=np.int8)
    row[start : start + len(labels)] = labels
    return row


def _prefix_keys(tokens: np.ndarray) -> Any:
    """uint64 (n,): equal, but for one chance in 2^64, where two sequences begin with the same tokens."""
    places = splitmix64(np.arange(len(tokens), dtype=np.uint64))
    with np.errstate(over="ignore"):
        return np.cumsum(splitmix64(tokens.astype(np.uint64) ^ places), dtype=np.uint64)
