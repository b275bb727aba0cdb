"""The words that are one token each in the zoo's tokenizer; other text falls apart into shorter pieces and bytes."""

from __future__ import annotations

from itertools import pairwise

SENTENCE_STARTS = ("Answer", "Describe", "How", "This", "What", "Where", "Which")
WORDS = (
    *("above", "are", "assistant", "at", "black", "blue", "bottom", "choices", "circle", "colour", "colours"),
    *("cross", "dialog", "diamond", "directly", "from", "given", "green", "in", "is", "large", "left", "letter"),
    *("many", "nothing", "of", "option", "picture", "purple", "red", "right", "shape", "shapes", "small", "square"),
    *("the", "there", "these", "top", "triangle", "with", "yellow"),
)
"""Lower-case words, each a token together with the blank before it."""


def words_as_merges() -> list[tuple[str, str]]:
    """The merges of a byte-level BPE that make each word one token, by growing it from the left.

    >>> merges = words_as_merges()
    >>> merges[:3]
    [('A', 'n'), ('An', 's'), ('Ans', 'w')]
    """
    blank = "Ġ"  # how byte-level BPE writes a blank
    found: dict[tuple[str, str], None] = {}
    for word in [*SENTENCE_STARTS, *(blank + word for word in WORDS), *(blank + digit for digit in "01234"), "'s"]:
        prefixes = [word[:end] for end in range(1, len(word) + 1)]
        for shorter, longer in pairwise(prefixes):
            found.setdefault((shorter, longer[len(shorter) :]))
    return list(found)
