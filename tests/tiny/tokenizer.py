"""A byte-level tokenizer that encodes any text without having been trained."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

BOS, EOS, PAD, UNK = "<s>", "</s>", "<pad>", "<unk>"


def byte_tokenizer(*specials: str, bos: bool = True, **named: str) -> PreTrainedTokenizerFast:
    """256 byte tokens, ``Ġ`` + capital letter as one token, and the special tokens asked for.

    Args:
        specials: further special tokens.
        bos: whether encoding puts BOS in front.
        named: special tokens the tokenizer gets as attributes (``image_token="<image>"``).
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = [chr(code) for code in range(ord("A"), ord("Z") + 1)]
    vocabulary = {token: index for index, token in enumerate([*alphabet, *(f"Ġ{letter}" for letter in letters)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ġ", letter) for letter in letters]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = [BOS, EOS, PAD, UNK, *specials, *named.values()]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in dict.fromkeys(marks)])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        additional_special_tokens=list(specials),
        extra_special_tokens=named or None,
    )
