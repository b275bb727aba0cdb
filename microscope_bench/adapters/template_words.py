"""Which words of a rendered prompt are the task's own, and which its chat template wrote around them."""

from __future__ import annotations

from collections.abc import Callable
from difflib import SequenceMatcher
from itertools import islice
from typing import Any

import numpy as np

from microscope_bench.example import WORD_MARK

PRIVATE_USE = range(0xE000, 0xF900)
"""Characters that no text has, between which a template is given the task's words."""


def own_characters(render: Callable[[Callable[[str], str]], str], prompt: str) -> np.ndarray:
    """Which characters of a prompt are the task's own, bool (len(prompt),).

    ``render`` makes the prompt anew, each text of the conversation put through the function that it is given. The texts
    are marked at their ends, inside white space where the template takes that away. Raises a ValueError where the
    prompt is another one with the marks than without, or holds a text more often than it was given: then the template
    changes or repeats what it is given.
    """
    first, last = islice((chr(code) for code in PRIVATE_USE if chr(code) not in prompt), 2)

    given: list[str] = []

    def around(text: str) -> str:
        given.append(text)
        return f"{first}{text}{last}"

    def inside(text: str) -> str:
        words = text.strip()
        return text.replace(words, around(words)) if words else text

    for mark in (around, inside):
        given.clear()
        marked = render(mark)
        whole = marked.count(first) == marked.count(last) == len(given)
        if whole and marked.replace(first, "").replace(last, "") == prompt:
            codes = np.frombuffer(marked.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
            is_mark = np.isin(codes, (ord(first), ord(last)))
            depth = np.cumsum(codes == ord(first)) - np.cumsum(codes == ord(last))
            return np.asarray(depth[~is_mark] > 0)
    raise ValueError("its chat template changes the words that it is given")


def own_tokens(tokenizer: Any, prompt: str, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ids of a prompt's tokens, int64 (n,), special ones not added, and which of them hold own characters, bool.

    A token on the border is the task's if one of its own letters, not of its blanks, is in it; a token of blanks if any
    of them is its own. Raises a ValueError where the tokenizer's offsets leave a letter out.
    """
    encoded = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
    start, end = np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2).T
    start = np.where(start == end, np.maximum(start - 1, 0), start)  # of a blank that the tokenizer trims from offsets
    letter = np.fromiter((not c.isspace() and c != WORD_MARK for c in prompt), dtype=bool, count=len(prompt))

    def number(of: np.ndarray) -> np.ndarray:
        before = np.append(0, np.cumsum(of))
        return np.asarray(before[end] - before[start])

    covered = np.cumsum(np.bincount(start, minlength=len(prompt) + 1) - np.bincount(end, minlength=len(prompt) + 1))
    if (letter & own & (covered[:-1] == 0)).any():
        raise ValueError("its tokenizer's offsets leave out some of the words")
    holds_own = np.where(number(letter) > 0, number(letter & own), number(own)) > 0
    return np.asarray(encoded["input_ids"], dtype=np.int64), holds_own


def aligned(seen: np.ndarray, plain: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Which of the word tokens that the model sees are the task's own, bool (len(seen),).

    ``plain`` are those of the prompt as it was rendered, ``own`` says which of them are: the same tokens, but for what
    a processor writes where media stand. Raises a ValueError where an own token is not found again.
    """
    if np.array_equal(seen, plain):
        return own
    shorter = min(len(seen), len(plain))
    differ = np.flatnonzero(seen[:shorter] != plain[:shorter])
    n = int(differ[0]) if len(differ) else shorter
    differ = np.flatnonzero(seen[len(seen) - shorter + n :][::-1] != plain[len(plain) - shorter + n :][::-1])
    m = int(differ[0]) if len(differ) else shorter - n
    found = np.zeros(len(seen), dtype=bool)
    found[:n], found[len(seen) - m :] = own[:n], own[len(own) - m :]
    between = own[n : len(own) - m]
    if between.any():
        matcher = SequenceMatcher(None, seen[n : len(seen) - m].tolist(), plain[n : len(plain) - m].tolist(), False)
        for here, there, size in matcher.get_matching_blocks():
            found[n + here : n + here + size] = between[there : there + size]
    if found.sum() != own.sum():
        raise ValueError("its processor makes other tokens of the task's words than its tokenizer")
    return found
