"""Controls that change the model, or what it is given of the text."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace

import numpy as np
from torch import Tensor

from microscope_bench.adapters.base import PADDING, TEXT, Batch
from microscope_bench.adapters.weights_digest import weights_digest
from microscope_bench.capture.selection import token_hashes
from microscope_bench.controls import Run
from microscope_bench.errors import AdapterError
from microscope_bench.example import Example


def untrained(run: Run) -> Run:
    """The same architecture, its weights as before training; see :meth:`Adapter.fresh_weights`."""
    fresh = run.adapter.fresh_weights(run.seed)
    if run.adapter.loaded_weights is not None:  # then revision and seed tell of these, too
        fresh.loaded_weights = weights_digest(fresh)
    return replace(run, adapter=fresh)


def permuted_tokens(run: Run) -> Run:
    """The ids at the positions labelled text permuted within each example, everything else unchanged.

    The permutation depends on the seed and the example's id alone, not on the batch. Choices are not scored: the end of
    the prompt, which an answer would follow, is permuted too.
    """
    encode, name = run.adapter.encode, run.adapter.info.name
    if "tap" in run.adapter.info.options:
        raise AdapterError("control permuted_tokens: what is tapped sees no words; leave the control or the tap out")

    def permuted(examples: Sequence[Example]) -> Batch:
        return _with_permuted_text(encode(examples), run.seed, name)

    def refuse(prompt: str, choices: Sequence[str]) -> list[int]:
        raise AdapterError("control permuted_tokens: the prompt's end is permuted too, so no choice continues it")

    adapter = copy(run.adapter)  # not a wrapper: whatever else an adapter can do stays the adapter's own
    adapter.encode = permuted  # type: ignore[method-assign]
    adapter.choice_token_ids = refuse  # type: ignore[method-assign]
    return replace(run, adapter=adapter)


def _with_permuted_text(batch: Batch, seed: int, model: str) -> Batch:
    ids = batch.inputs.get("input_ids")
    if not isinstance(ids, Tensor) or tuple(ids.shape) != batch.labels.shape or "inputs_embeds" in batch.inputs:
        raise AdapterError(
            f"control permuted_tokens: the inputs of {model} ({', '.join(batch.inputs)}) hold no input_ids with one "
            f"id for each of {batch.labels.shape[0]} × {batch.labels.shape[1]} labels, so there is nothing to permute"
        )
    permuted = ids.clone()
    for row, example_id in enumerate(batch.ids):
        text = np.flatnonzero(batch.labels[row] == TEXT)
        hashes = token_hashes(np.arange(len(text)), f"permuted_tokens\0{seed}\0{example_id}")
        permuted[row, text] = ids[row, text[np.argsort(hashes, kind="stable")]]
    rows = zip(permuted.cpu().numpy(), batch.labels, strict=True)
    tokens = tuple(row[labels != PADDING] for row, labels in rows)
    return replace(batch, inputs={**batch.inputs, "input_ids": permuted}, tokens=tokens)
