"""How tokenizers are called: they cut no prompt, pad to no fixed length, and read a task's words as words."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from transformers.utils import PaddingStrategy

from microscope_bench.example import WORD_MARK

_SAVED = (
    *("truncation", "truncation_strategy", "truncation_side", "max_length", "stride", "return_overflowing_tokens"),
    *("padding", "padding_side", "pad_to_multiple_of", "is_split_into_words"),
)
"""What a checkpoint's files may say of cutting and padding; processors hand it to their tokenizer, and to others."""


class NoWordsError(ValueError):
    """A tokenizer cannot read a text's special tokens as words."""


@contextmanager
def whole_prompts(tokenizer: Any, processor: Any | None = None, padding_side: str = "right") -> Iterator[None]:
    """Inside, no truncation, length or padding that a checkpoint's files or its classes ask for applies to a text.

    Characters :data:`WORD_MARK` are read as nothing, and nothing on both sides of one becomes one token. Afterwards
    tokenizer and processor are as they were.
    """
    tokenizers = {id(part): part for part in (tokenizer, *vars(processor or object).values()) if _is_tokenizer(part)}
    with ExitStack() as restored:
        for part in tokenizers.values():
            restored.enter_context(_without(part.init_kwargs))
            restored.enter_context(_encoding_whole(part))
            restored.callback(setattr, part, "padding_side", part.padding_side)
            part.padding_side = padding_side  # some processors pad by themselves
        if isinstance(defaults := getattr(processor, "text_kwargs", None), dict):
            restored.enter_context(_without(defaults))
        yield


class PlainWords:
    """The strings that a tokenizer or a processor takes for something else than words; in a task's text they are words.

    Args:
        tokenizer: whose special tokens they are.
        processor: whose placeholders they are too, or None.
        ids: further ids that no word may get.
    """

    def __init__(self, tokenizer: Any, processor: Any | None, ids: Collection[int] = ()) -> None:
        self._tokenizer, self._ids = tokenizer, special_ids(tokenizer).union(ids)
        added = tokenizer.added_tokens_decoder
        strings = {str(added[index]) for index in self._ids & added.keys()} | set(tokenizer.all_special_tokens)
        strings |= {v for k, v in vars(processor or object).items() if k.endswith("_token") and isinstance(v, str)}
        found = sorted((s for s in strings if len(s) > 1 and not s.isspace()), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, found)) or r"(?!)")

    def marked(self, text: str) -> str:
        """The text with a :data:`WORD_MARK` inside each such string, so that nothing takes it for what it is not.

        Raises a NoWordsError where the tokenizer reads one as a token of its own all the same.
        """
        start, first = 0, self._pattern.search(text)
        found = first
        while found:
            start = found.start() + 1
            text = f"{text[:start]}{WORD_MARK}{text[start:]}"
            found = self._pattern.search(text, start)
        if WORD_MARK in text:
            with whole_prompts(self._tokenizer):
                ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
            if not _backend(self._tokenizer) or not self._ids.isdisjoint(ids):
                what = f"its text holds {first[0]!r}, which" if first else "its text holds a placeholder, which"
                raise NoWordsError(f"{what} {type(self._tokenizer).__name__} cannot read as words")
        return text


def special_ids(tokenizer: Any) -> frozenset[int]:
    added = (index for index, token in tokenizer.added_tokens_decoder.items() if token.special)
    return frozenset([*tokenizer.all_special_ids, *added])


def _is_tokenizer(part: Any) -> bool:
    return hasattr(part, "init_kwargs") and hasattr(part, "_encode_plus")


def _backend(tokenizer: Any) -> Any | None:
    """The tokenizer of the library ``tokenizers`` below, or None."""
    backend = getattr(tokenizer, "_tokenizer", None)
    return backend if hasattr(backend, "pre_tokenizer") else None


@contextmanager
def _without(saved: dict[str, Any]) -> Iterator[None]:
    taken = {name: saved.pop(name) for name in _SAVED if name in saved}
    try:
        yield
    finally:
        saved |= taken


@contextmanager
def _encoding_whole(tokenizer: Any) -> Iterator[None]:
    """Overrides the two methods through which every text of a tokenizer goes."""
    original, strategies = tokenizer._encode_plus, tokenizer._get_padding_truncation_strategies

    def longest_or_none(padding: Any = False, **options: Any) -> Any:
        whole = {"truncation": False, "max_length": None, "pad_to_multiple_of": None}
        return strategies(padding=padding not in (False, PaddingStrategy.DO_NOT_PAD), **{**options, **whole})

    def encode_whole(text: Any, *args: Any, **options: Any) -> Any:
        options |= {"stride": 0, "pad_to_multiple_of": None, "return_overflowing_tokens": False}
        given = [text] if isinstance(text, str) else text
        if any(WORD_MARK in each for each in given):
            with _reading_marks(tokenizer):
                return original(text, *args, **options)
        return original(text, *args, **options)

    with (
        mock.patch.object(tokenizer, "_encode_plus", encode_whole),
        mock.patch.object(tokenizer, "_get_padding_truncation_strategies", longest_or_none),
    ):
        yield


@contextmanager
def _reading_marks(tokenizer: Any) -> Iterator[None]:
    from tokenizers import Regex, pre_tokenizers

    backend = _backend(tokenizer)
    if backend is None:
        yield
        return
    before = backend.pre_tokenizer
    # a byte-level pre-tokenizer has written the mark as characters that stand for its bytes
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    forms = {WORD_MARK, byte_level.pre_tokenize_str(WORD_MARK)[0][0]}
    split = pre_tokenizers.Split(Regex("|".join(map(re.escape, forms))), behavior="removed")
    backend.pre_tokenizer = pre_tokenizers.Sequence([*([] if before is None else [before]), split])
    try:
        yield
    finally:
        backend.pre_tokenizer = before
