"""BLIP-2: a Q-Former whose learned queries read the picture and stand for it in the sequence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor, Blip2QFormerConfig

from microscope_bench.zoo import parts
from microscope_bench.zoo.batches import Frame
from microscope_bench.zoo.formats.base import Format, ids_of, save_model

N_QUERIES = 16
QFORMER_LAYERS = 2


class Blip2(Format):
    """``Blip2ForConditionalGeneration`` with the zoo's language model; the published ones have OPT or T5 there."""

    name = "qformer"
    tower = "blip-2"
    image_tokens = "16 positions, one for each query of the Q-Former, before BOS"

    def build(self, seed: int) -> Any:
        tokens = parts.tokenizer()
        qformer = Blip2QFormerConfig(
            vocab_size=len(tokens),
            hidden_size=parts.HIDDEN_SIZE,
            num_hidden_layers=QFORMER_LAYERS,
            num_attention_heads=parts.HEADS,
            intermediate_size=parts.FEED_FORWARD,
            cross_attention_frequency=1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            encoder_hidden_size=parts.HIDDEN_SIZE,
        )
        config = Blip2Config(
            vision_config=parts.blip2_config(),
            qformer_config=qformer,
            text_config=parts.text_config(),
            num_query_tokens=N_QUERIES,
            image_token_index=tokens.convert_tokens_to_ids(parts.IMAGE_TOKEN),
        )
        model: Any = Blip2ForConditionalGeneration(config)
        model.language_model.load_state_dict(parts.language_model(seed).state_dict())
        parts.connector(nn.ModuleList([model.qformer, model.language_projection]), seed)
        with torch.no_grad():  # transformers' own zeros would make all queries one and the same for ever
            model.query_tokens.copy_(parts.vectors(seed, *model.query_tokens.shape))
        return model

    def frame(self, tokenizer: Any) -> Frame:
        picture = parts.IMAGE_TOKEN * N_QUERIES
        return Frame(ids_of(tokenizer, f"{picture}<s>"), ())

    def write(self, model: Any, directory: Path, *, trained: bool) -> None:
        save_model(model, directory, trained=trained)
        processor = Blip2Processor(parts.clip_image_processor(), parts.tokenizer(), num_query_tokens=N_QUERIES)
        processor.save_pretrained(directory)

    def blocks(self, model: Any) -> Sequence[nn.Module]:
        return list(model.language_model.model.layers)

    def tower_of(self, model: Any) -> Any:
        return model.vision_model
