"""Where a token comes from, as keys: two tokens of equal keys are one token, computed twice.

A prefix that several examples share gives the same states again in each of them, equal but for the rounding of another
batch. The states alone cannot tell such copies from tokens that are merely close, least of all in a half type, where
close means a hundredth of the norm. What went into them can.
"""

from __future__ import annotations

import numpy as np

from microscope_bench.adapters.base import TEXT
from microscope_bench.capture.selection import key_hash, splitmix64


def token_origins(
    labels: np.ndarray, tokens: np.ndarray, *, media: str | None, example_id: str, sees: str = "before"
) -> tuple[np.ndarray, np.ndarray]:
    """Keys of the positions of one example.

    ``labels``, int8 (n,), are without padding; ``media`` is the hash of the pictures, None where it is not known.

    Returns:
        uint64 (n,): equal where the same goes into the model at that position: the same token id, or the same place in
        the same media. Boundary 0 is a function of it, but for position embeddings.
        uint64 (n,): equal where the same went in at this position and at all that its state sees: those before it, in
        the same order, and the media, or the whole sequence. Every boundary is a function of it.
    """
    n = len(labels)
    position = np.arange(n, dtype=np.uint64)
    if len(tokens) != n:  # an adapter has no ids for some: no position is known to be that of another example
        own = splitmix64(position + key_hash(f"position\0{example_id}"))
        return own, own
    own = splitmix64(np.asarray(tokens).astype(np.uint64) + key_hash("token"))
    for label in np.unique(labels[labels > TEXT]):
        places = np.flatnonzero(labels == label)
        source = f"media\0{media}" if media is not None else f"media of\0{example_id}"
        own[places] = splitmix64(np.arange(len(places), dtype=np.uint64) + key_hash(f"{label}\0{source}"))
    with np.errstate(over="ignore"):
        prefix = np.cumsum(splitmix64(own ^ splitmix64(position)), dtype=np.uint64)
        if sees == "media":
            prefix = splitmix64(prefix ^ key_hash(f"sees\0{media if media is not None else example_id}"))
        elif sees == "sequence":
            prefix = splitmix64(prefix ^ splitmix64(prefix[-1:]))
    return own, prefix
