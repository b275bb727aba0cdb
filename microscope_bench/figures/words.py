"""The text of every token of an example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from microscope_bench.adapters.base import STRUCTURE, TEXT
from microscope_bench.errors import StoreError
from microscope_bench.figures.example_rerun import Rerun

UNKNOWN = "\ufffd"


def words_of(rerun: Rerun) -> list[str]:
    """What each position of an example reads as, joined its prompt; empty at a medium or a mark around one."""
    labels, ids = rerun.labels, rerun.batch.tokens[0]
    words = [""] * len(labels)
    places = np.flatnonzero(labels <= TEXT) if len(ids) != len(labels) else np.arange(len(labels))
    if "tap" in rerun.adapter.info.options:
        return words  # a tower sees no words
    tokenizer = getattr(rerun.adapter, "tokenizer", None)
    if tokenizer is None or len(places) != len(ids):
        raise StoreError(
            f"{rerun.adapter.info.name}: {'no tokenizer' if tokenizer is None else 'not a token for every position'}, "
            f"so its words cannot be shown; give the adapter an attribute `tokenizer`, and tokens as long as labels"
        )
    readable = (labels[places] <= TEXT) & (labels[places] != STRUCTURE) & (ids >= 0) & (ids < len(tokenizer))
    for run in np.split(np.arange(len(ids)), np.flatnonzero(np.diff(readable)) + 1):
        if readable[run[:1]].any():
            for k, piece in zip(run, pieces(tokenizer, ids[run].tolist()), strict=True):
                words[int(places[k])] = piece
    return words


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text that each token adds to those before it; a character of several tokens stands with the last of them."""
    out, done = [], 0
    start = 0  # decoding begins anew behind every whole token, so that a long text costs no more than its length
    for k in range(len(ids)):
        whole = tokenizer.decode(
            list(ids[start : k + 1]), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        complete = not whole.endswith(UNKNOWN)
        out.append(whole[done:] if complete else "")
        if complete:
            done = len(whole)
            if k - start >= 16:
                start = k
                done = len(tokenizer.decode([ids[k]], skip_special_tokens=False, clean_up_tokenization_spaces=False))
    return out
