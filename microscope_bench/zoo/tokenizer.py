"""A byte-level tokenizer that needs no training data: a few words are one token each, everything else is bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from microscope_bench.zoo.vocabulary import words_as_merges

MARKS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
"""The tokenizer's own marks; their ids are 0 to 3, in this order, and bytes follow."""
FUYU_MARKS = (FUYU_PATCH, FUYU_NEWLINE) = ("|SPEAKER|", "|NEWLINE|")
"""By which Fuyu's processor writes a picture: one patch, and the end of a row of them."""


def build_byte_tokenizer(special_tokens: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Builds a byte-level BPE whose merges make the words of :mod:`microscope_bench.zoo.vocabulary` one token each.

    It encodes any text and decodes it back unchanged. ``add_special_tokens=True`` puts BOS in front, as Mistral's
    tokenizer does. The ids of the special tokens of a model ("<image>") follow bytes and words, in the given order.

    >>> tokenizer = build_byte_tokenizer(["<image>"])
    >>> tokenizer("A<image>", add_special_tokens=False)["input_ids"] == [
    ...     tokenizer.convert_tokens_to_ids("A"), len(tokenizer) - 1]
    True
    """
    bytes_as_characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = words_as_merges()
    tokens = dict.fromkeys([*MARKS.values(), *bytes_as_characters, *(first + second for first, second in merges)])
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token=MARKS["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(mark, special=True, normalized=mark in FUYU_MARKS) for mark in [*MARKS.values(), *special_tokens]]
    )
    if FUYU_PATCH in special_tokens:
        # Fuyu's processor drops the first token of a picture's text, which sentencepiece would have put there.
        tokenizer.normalizer = normalizers.Replace(Regex(f"^{re.escape(FUYU_PATCH * 2)}"), f" {FUYU_PATCH * 2}")
    bos = MARKS["bos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, vocabulary[bos])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **MARKS,
        extra_special_tokens=list(special_tokens),
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
