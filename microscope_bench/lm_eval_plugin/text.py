"""Text-only requests: lm-eval's own code runs them, and what goes into the model is recognised as it goes by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.capture.selection import splitmix64
from microscope_bench.lm_eval_plugin.geometry import Document, Geometry, Watched

Encoded = tuple[tuple[str, str], list[int], list[int]]
"""What lm-eval makes of a request: its texts, the ids of the context, those of the continuation."""


class Scoring:
    """Finds each document's context once among the sequences that lm-eval scores.

    lm-eval batches, shortens and shares requests as it likes, padded on the right and without a mask. In a causal model
    the states of a context are the same in every sequence that begins with it, so that the first one serves.

    Args:
        geometry: takes the states.
        documents: one for each request.
        encoded: the requests, as lm-eval encoded them.
        encode: what encodes a text as lm-eval does.
        max_length: tokens that lm-eval gives the model at most; it cuts longer ones on the left.
    """

    def __init__(
        self,
        geometry: Geometry,
        documents: Sequence[Document],
        encoded: Sequence[Encoded],
        encode: Callable[[str], list[int]],
        max_length: int,
    ) -> None:
        self._geometry = geometry
        self._wanted: dict[int, dict[int, list[Document]]] = {}
        self._contexts: dict[Document, tuple[np.ndarray, str]] = {}
        for document, ((text, _), context, continuation) in zip(documents, encoded, strict=True):
            if document in self._contexts or not geometry.measures(document):
                continue
            tokens = np.asarray(_prompt(text, context, continuation, encode), dtype=np.int64)
            self._contexts[document] = tokens, text
            if (n := len(context) + len(continuation)) > max_length + 1:
                geometry.skip(document, f"{n - 1} tokens exceed the {max_length} that lm-eval gives the model")
                continue
            of_length = self._wanted.setdefault(len(tokens), {})
            of_length.setdefault(int(_prefix_keys(tokens)[-1]), []).append(document)

    def rows(self, sequences: Tensor) -> list[Watched]:
        """The documents not yet seen whose context begins one of the sequences (B, S)."""
        found = []
        for number, sequence in enumerate(sequences.cpu().numpy()):
            keys = _prefix_keys(sequence)
            for length in [n for n in self._wanted if n <= len(sequence)]:
                for document in self._wanted[length].pop(int(keys[length - 1]), ()):
                    tokens, text = self._contexts[document]
                    found.append(_watched(self._geometry.adapter, document, number, sequence, tokens, 0, text))
        return found


class Generation:
    """Finds each document's prompt once among the batches that lm-eval lets the model go on from.

    Args:
        geometry: takes the states.
        documents: one for each request.
        contexts: the requests' texts.
    """

    def __init__(self, geometry: Geometry, documents: Sequence[Document], contexts: Sequence[str]) -> None:
        self._geometry = geometry
        self._wanted: dict[str, list[Document]] = {}
        for document, context in zip(documents, contexts, strict=True):
            members = self._wanted.setdefault(context, [])
            if document not in members and geometry.measures(document):
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
                if n > width:
                    self._geometry.skip(document, f"{n} tokens exceed the {width} that lm-eval gives the model")
                    continue
                tokens = sequence[width - n :]
                adapter = self._geometry.adapter
                found.append(_watched(adapter, document, number, sequence, tokens, width - n, context))
        return found


def _prompt(text: str, context: list[int], continuation: list[int], encode: Callable[[str], list[int]]) -> list[int]:
    """The tokens of a prompt. White space at its end, as chat templates leave it, lm-eval takes for the answer's."""
    if text == text.rstrip():
        return context
    whole, prompt = context + continuation, encode(text)
    n = next((n for n, (a, b) in enumerate(zip(whole, prompt, strict=False)) if a != b), min(len(whole), len(prompt)))
    return prompt[: max(n, len(context))] if prompt[: len(context)] == context else context


def _watched(
    adapter: HFAdapter,
    document: Document,
    row: int,
    sequence: np.ndarray,
    tokens: np.ndarray,
    start: int,
    text: str,
) -> Watched:
    mask = np.zeros(len(sequence), dtype=np.int64)
    mask[start : start + len(tokens)] = 1
    labels = adapter.encoder.label_text(sequence[None], mask[None])[0]
    return Watched(document, row, labels, tokens, text)


def _prefix_keys(tokens: np.ndarray) -> Any:
    """uint64 (n,): equal, but for one chance in 2^64, where two sequences begin with the same tokens."""
    places = splitmix64(np.arange(len(tokens), dtype=np.uint64))
    with np.errstate(over="ignore"):
        return np.cumsum(splitmix64(tokens.astype(np.uint64) ^ places), dtype=np.uint64)
