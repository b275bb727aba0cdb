"""The small parts of the generic adapter, each on its own."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import nn
from transformers.models.auto import AutoModelForMultimodalLM

from microscope_bench.adapters.base import LABELS, VIDEO
from microscope_bench.adapters.decoder import find_blocks
from microscope_bench.adapters.encoding import Encoder
from microscope_bench.adapters.media_tokens import MediaTokens, find_media_tokens, label_positions
from microscope_bench.adapters.overrides import Overrides, overrides_of
from microscope_bench.adapters.prompting import chat, chat_template, continuation_token_ids
from microscope_bench.adapters.tap_places import find_places
from microscope_bench.errors import AdapterError
from microscope_bench.example import Example
from tests.tiny.tokenizer import byte_tokenizer


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ("Blip2Config", "language_model.model.decoder.layers"),
        ("Llama4Config", "language_model.model.layers"),
        ("FuyuConfig", "model.language_model.layers"),
        ("Kosmos2Config", "text_model.model.layers"),
        ("SmolVLMConfig", "model.text_model.layers"),
        ("JanusConfig", "model.language_model.layers"),
    ],
)
def test_the_decoder_of_full_size_architectures_is_found(config, path):
    with torch.device("meta"):
        model = AutoModelForMultimodalLM.from_config(getattr(transformers, config)())
    blocks = find_blocks(model)
    assert blocks is model.get_submodule(path)
    assert len(blocks) == model.config.get_text_config(decoder=True).num_hidden_layers


def test_a_model_without_blocks_is_an_error_that_lists_what_it_has():
    model = transformers.ResNetModel(transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1]))
    with pytest.raises(AdapterError, match="no list of decoder blocks found"):
        find_blocks(model)


def test_the_list_of_the_configured_depth_is_the_decoder_not_the_shallowest():
    def blocks(n):
        return nn.ModuleList(nn.Identity() for _ in range(n))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.config = transformers.LlamaConfig(num_hidden_layers=4)
            self.layers = blocks(2)  # such as the heads of multi-token prediction
            self.stack = nn.ModuleDict({"inner": nn.ModuleDict({"layers": blocks(4)})})

        def get_decoder(self):
            return self

    model = Model()
    assert find_blocks(model) is model.stack["inner"]["layers"]


def test_labels_by_priority():
    """A placeholder outranks framing, framing a special token, and padding outranks all."""
    tokens = MediaTokens({"image": frozenset({7}), "audio": frozenset({8})}, frozenset({5}), frozenset({1, 5, 7}))
    ids = np.array([[1, 5, 7, 7, 3, 4, 8, 1, 7]])
    types = np.array([[0, 0, 1, 1, 1, 0, 0, 0, 0]])
    mask = np.array([[1, 1, 1, 1, 1, 1, 1, 1, 0]])
    named = [LABELS[label] for label in label_positions(ids, mask, tokens, types)[0]]
    assert named == ["special", "structure", "image", "image", "structure", "text", "audio", "special", "padding"]


def test_a_token_that_the_vocabulary_lacks_is_no_medium():
    """A tokenizer gives it the id of the unknown token, which any odd word of a question has too."""
    tokenizer = byte_tokenizer(image_token="<image>")
    processor = SimpleNamespace(image_token="<image>", video_token="<video>", audio_token="<audio>")
    found = find_media_tokens(transformers.LlamaConfig(), tokenizer, processor)
    assert found.placeholders == {"image": {tokenizer.convert_tokens_to_ids("<image>")}}
    assert tokenizer.unk_token_id not in found.framing


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ("UnlimitedOcrConfig", "model.vision_tower.vision_encoder.encoder.layers"),
        ("DeepseekVLHybridConfig", "model.vision_model.encoder.layers"),
        ("LlavaConfig", "model.vision_tower.encoder.layers"),
    ],
)
def test_the_tower_of_full_size_architectures_is_found(config, path):
    with torch.device("meta"):
        model = AutoModelForMultimodalLM.from_config(getattr(transformers, config)())
    blocks, last = find_places(model, "vision", overrides_of(model.config).tower)
    assert blocks == list(model.get_submodule(path)) and last is blocks[-1]


def letters(text):
    """One token per character, but a blank joins the capital after it, as most vocabularies have it."""
    ids, position = [], 0
    while position < len(text):
        joined = text[position] == " " and text[position + 1 : position + 2].isupper()
        ids.append(1000 + ord(text[position + 1]) if joined else ord(text[position]))
        position += 2 if joined else 1
    return ids


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Answer:", [1065, 1066]),  # " A" after a word
        ("assistant\n", [65, 66]),  # "A" after a line break
        ("Answer: ", [1065, 1066]),  # a final blank would join the letter, so a second one comes before it
        ("", [1065, 1066]),
    ],
)
def test_continuations(prompt, expected):
    assert continuation_token_ids(letters, prompt, ["A", "B"]) == expected


def test_continuations_fall_back_to_the_other_delimiter_or_to_none():
    assert continuation_token_ids(lambda text: [ord(c) for c in text], "Answer:", ["A"]) == [65]
    assert continuation_token_ids(lambda text: [ord(c) for c in text], "Answer:", ["A", "BC"]) is None


def test_the_default_of_several_chat_templates_counts():
    class Processor:
        chat_template: object = None

    assert chat_template(Processor()) is None
    Processor.chat_template = {"default": "one", "tools": "two"}
    assert chat_template(Processor()) == "one"


def test_a_template_that_asks_for_the_date_is_told_a_fixed_one(tiny_adapter):
    tokenizer = tiny_adapter("llama").tokenizer
    template = "{{ strftime_now('%Y-%m-%d') }} {{ messages[0]['content'] }}"
    previous, tokenizer.chat_template = tokenizer.chat_template, template
    try:
        assert chat(tokenizer, Example("q", "hello").conversation, (), in_parts=False) == "2024-07-26 hello"
    finally:
        tokenizer.chat_template = previous


def test_a_video_processor_is_told_to_take_every_frame():
    """The frames are the task's choice. Needs no torchvision: what the processor is called with is looked at."""
    tokenizer = byte_tokenizer(video_token="<video>")
    processor = SimpleNamespace(video_token="<video>", video_processor=object(), chat_template=None)
    asked = {}

    def process(*, text, **options):
        asked.update(options)
        return tokenizer(text, padding=True, return_tensors="pt")

    encoder = Encoder("watching", transformers.LlamaConfig(), tokenizer, processor, Overrides(), process)
    frames = tuple(Image.new("RGB", (6, 4), (shade, 0, 0)) for shade in (1, 2, 3))
    encoded = encoder([Example("q", "<video>What?", videos=(frames,))])
    assert asked["do_sample_frames"] is False
    (video,) = asked["videos"]
    assert video.shape == (3, 4, 6, 3) and video[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert (encoded.labels == VIDEO).sum() == 1
