"""Which token ids stand for media, and from them a label for every position of a batch."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from microscope_bench.adapters.base import LABELS, PADDING, SPECIAL, STRUCTURE, TEXT
from microscope_bench.adapters.offloading import input_device, real_parameter
from microscope_bench.adapters.overrides import Overrides
from microscope_bench.adapters.tokenizing import special_ids

_TYPES = {1: "image", 2: "video", 3: "audio"}
"""Code in a processor's ``mm_token_type_ids`` → modality."""
_MEDIA = ("audio", "video", "image")  # where two share one id, the last one names it
_PLACEHOLDER_KEYS = {name: {f"{name}_token_id", f"{name}_token_index", f"{name}_patch_id"} for name in _MEDIA}
_FRAMING_KEY = re.compile(
    r"^(boi|eoi|boa|eoa|bov|eov"
    r"|(vision|image|img|im|slice|video|audio)_(start|begin|bos|end|eos|break|newline|row|col|sep)"
    r"|(start|end)_(of_)?(image|img|video|audio)"
    r"|(fake|global)_image|visual_indicator)(_token)?_(id|ids|index)$"
)


@dataclass(frozen=True)
class MediaTokens:
    """The token ids of one model that are not plain text."""

    # modality → the ids whose embedding the model replaces by an encoder's output
    placeholders: Mapping[str, frozenset[int]]
    framing: frozenset[int]  # ids that mark where media start, end and break
    special: frozenset[int]  # the tokenizer's special ids

    @property
    def no_words(self) -> frozenset[int]:
        return self.framing.union(*self.placeholders.values())


def find_media_tokens(
    config: Any, tokenizer: Any, processor: Any | None = None, framing_tokens: Collection[str] = ()
) -> MediaTokens:
    """Reads the ids from the model's configuration first, then from the processor (None for a text-only model)."""
    configured = list(_integers(config.to_dict()))
    attributes = []
    if processor is not None:
        vocabulary = tokenizer.get_vocab()
        attributes = [*_integers(_plain(processor, vocabulary)), *_integers(_plain(tokenizer, vocabulary))]
    placeholders = {}
    for name, keys in _PLACEHOLDER_KEYS.items():
        for pairs in (configured, attributes):
            if ids := frozenset(value for key, value in pairs if key in keys):
                placeholders[name] = ids
                break
    framing = frozenset(value for key, value in [*configured, *attributes] if _FRAMING_KEY.match(key))
    known = tokenizer.get_vocab() if framing_tokens else {}
    framing |= {known[token] for token in framing_tokens if token in known}
    return MediaTokens(placeholders, framing, special_ids(tokenizer))


def label_positions(
    input_ids: NDArray[np.int64],
    attention_mask: NDArray[np.int64],
    tokens: MediaTokens,
    media_types: NDArray[np.int64] | None = None,
) -> NDArray[np.int8]:
    """int8 (B, S), the label of every position, an index into :data:`~microscope_bench.adapters.base.LABELS`.

    ``media_types``, (B, S), are the processor's own marks (0 text, 1 image, ...), or None. They include what frames
    media, so that a marked position that is no placeholder is structure.
    """
    labels = np.full(input_ids.shape, TEXT, dtype=np.int8)
    labels[np.isin(input_ids, list(tokens.special))] = SPECIAL
    if media_types is not None:
        labels[media_types != 0] = STRUCTURE
    labels[np.isin(input_ids, list(tokens.framing))] = STRUCTURE
    for name, ids in tokens.placeholders.items():
        labels[np.isin(input_ids, list(ids))] = LABELS.index(name)
    if media_types is not None:  # some architectures write the image's placeholder in videos too
        placeholder = np.isin(input_ids, [index for ids in tokens.placeholders.values() for index in ids])
        for code, name in _TYPES.items():
            labels[placeholder & (media_types == code)] = LABELS.index(name)
    labels[attention_mask == 0] = PADDING
    return labels


def constant_media_vectors(model: Any, overrides: Overrides) -> list[Any]:
    """The learned vectors (d,) that stand in placeholder positions without coming from a medium (``image_newline``)."""
    text = model.config.get_text_config(decoder=True)
    vectors = [
        real_parameter(model, name).flatten()
        for name, parameter in model.named_parameters()
        if re.search(r"newline|separator|seperator", name.rpartition(".")[2]) and parameter.numel() == text.hidden_size
    ]
    if overrides.constant_tokens:
        weight = model.get_input_embeddings().weight
        name = next(name for name, parameter in model.named_parameters() if parameter is weight)
        table, rows = real_parameter(model, name), model.config.vocabulary_map
        vectors += [table[rows[token]] for token in overrides.constant_tokens]
    if overrides.filler is not None:
        embedder = model.get_submodule(overrides.filler)
        with torch.no_grad():
            last = torch.tensor([[text.vocab_size - 1]], device=input_device(model))
            vectors.append(embedder(input_ids=last).flatten())
    return vectors


def _plain(thing: Any, vocabulary: Mapping[str, int]) -> dict[str, Any]:
    """The ids that a processor or tokenizer holds as attributes, and those of the tokens that it holds by name."""
    tokens = {name: getattr(thing, name, None) for name in getattr(thing, "SPECIAL_TOKENS_ATTRIBUTES", ())}
    tokens |= {name: value for name, value in vars(thing).items() if name.endswith("_token")}
    # by the vocabulary: the tokenizer itself gives a token that it lacks the id of the unknown one
    named = {name: token for name, token in tokens.items() if isinstance(token, str) and token in vocabulary}
    ids = {f"{name}_id": vocabulary[token] for name, token in named.items()}
    return {**ids, **vars(thing)}


def _integers(tree: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Every (key, whole number) of nested dictionaries, lists of numbers included."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _integers(value)
        elif isinstance(value, list | tuple):
            yield from ((str(key), v) for v in value if isinstance(v, int) and not isinstance(v, bool) and v >= 0)
        elif isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            yield str(key), value
