"""A tokenizer that needs no training data: one token per byte of UTF-8."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

MARKS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
"""The tokenizer's own marks; their ids are 0 to 3, in this order, and bytes follow."""


def build_byte_tokenizer(special_tokens: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Builds a byte-level tokenizer with no merges.

    It encodes any text and decodes it back unchanged. Every ASCII character, a capital letter among them, is one token
    wherever it stands. ``add_special_tokens=True`` puts BOS in front and nothing behind, as Mistral's tokenizer does.

    Args:
        special_tokens: marks of a model ("<image>"); their ids follow the 256 bytes, in the given order.

    >>> tokenizer = build_byte_tokenizer(["<image>"])
    >>> tokenizer("A<image>", add_special_tokens=False)["input_ids"] == [
    ...     tokenizer.convert_tokens_to_ids("A"), len(tokenizer) - 1]
    True
    """
    bytes_as_characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*MARKS.values(), *bytes_as_characters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=MARKS["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(mark, special=True, normalized=False) for mark in [*MARKS.values(), *special_tokens]]
    )
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
