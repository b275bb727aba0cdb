"""Which tokens of an example are kept: a hash decides, so nothing about the run can.

The choice depends on the seed, the example's id, the modality and the token's number among the example's tokens of that
modality. They are counted from the last one: what stands before the question, a picture of another size or none at all,
moves no choice in it. It does not depend on the batch, the order of examples, the number of processes, a restart, or
the boundary. Keeping fewer tokens keeps a subset of the same tokens.
"""

from __future__ import annotations

import hashlib

import numpy as np

RULE = "blake2b-splitmix64/1"
"""Name and version of the rule; part of every result's identity."""


def select_positions(positions: np.ndarray, *, limit: int, seed: int, example_id: str, modality: str) -> np.ndarray:
    """The positions to keep, ascending: those with the ``limit`` smallest hashes.

    ``positions`` are those of all tokens of one modality of an example, int64 (n,).

    >>> few = select_positions(np.arange(100), limit=4, seed=0, example_id="q1", modality="text")
    >>> more = select_positions(np.arange(100), limit=8, seed=0, example_id="q1", modality="text")
    >>> set(few) < set(more)
    True
    """
    positions = np.sort(positions)
    if len(positions) <= limit:
        return positions
    hashes = token_hashes(number_from_last(positions, positions), f"{seed}\0{example_id}\0{modality}")
    return np.sort(positions[np.argsort(hashes, kind="stable")[:limit]])


def number_from_last(positions: np.ndarray, of: np.ndarray) -> np.ndarray:
    """int64: how many of the ascending positions ``of`` come after each of some among them.

    >>> number_from_last(np.array([4, 9]), of=np.array([2, 4, 7, 9]))
    array([2, 0])
    """
    return len(of) - 1 - np.searchsorted(of, positions)


def token_hashes(positions: np.ndarray, key: str) -> np.ndarray:
    """uint64 (n,): a hash of each position under a key; the same on every machine and in every version of numpy."""
    with np.errstate(over="ignore"):
        return splitmix64(positions.astype(np.uint64) + key_hash(key))


def key_hash(key: str) -> np.uint64:
    """64 bits of a key's BLAKE2b: what the key adds to the numbers under it before they are hashed."""
    return np.uint64(int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little"))


def splitmix64(state: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64 (Steele, Lea and Flood 2014), element by element on uint64."""
    with np.errstate(over="ignore"):
        z = state + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
