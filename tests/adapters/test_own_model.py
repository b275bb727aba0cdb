"""A model of one's own on the base for them: the class that docs/adding_a_model.md begins with, and what is refused."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace as replace_fields
from PIL import Image
from safetensors.torch import load_file, save_file, save_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, ViTConfig, ViTModel
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from microscope_bench import evaluate
from microscope_bench.adapters.base import IMAGE, LABELS, PADDING, SPECIAL, TEXT
from microscope_bench.adapters.measured_model import measured_model
from microscope_bench.adapters.own_model import OwnModel
from microscope_bench.adapters.presets import load_model
from microscope_bench.check import check
from microscope_bench.controls import Run, with_control
from microscope_bench.errors import AdapterError, ExampleError, MicroscopeError, UnknownNameError
from microscope_bench.example import Example
from tests.tiny.remembering import Remembering
from tests.tiny.tokenizer import byte_tokenizer
from tests.toy import TextTask, ToyTask

PAGE = Path(__file__).parents[2] / "docs" / "adding_a_model.md"
CODE = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("own") / "my_checkpoint"
    torch.manual_seed(9)  # no seed of a control in these tests
    tokenizer = byte_tokenizer()
    heads = {"num_attention_heads": 4}
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": 16384, "bos_token_id": tokenizer.bos_token_id}
    config = LlamaConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=3, **heads, **words)
    LlamaForCausalLM(config).save_pretrained(directory / "llama")
    tokenizer.save_pretrained(directory / "llama")
    vision = ViTConfig(hidden_size=48, intermediate_size=96, num_hidden_layers=2, image_size=32, patch_size=8, **heads)
    ViTModel(vision, add_pooling_layer=False).save_pretrained(directory / "vit")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(directory / "vit")
    projector = nn.Sequential(nn.Linear(48, 64), nn.GELU(), nn.Linear(64, 64))
    save_model(projector, directory / "projector.safetensors")
    return directory


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("code") / "my_mllm.py"
    file.write_text(CODE)
    return file


@pytest.fixture(scope="module")
def own_class(file) -> Any:
    spec = spec_from_file_location("my_mllm_of_the_page", file)
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.MyMLLM


@pytest.fixture
def adapter(own_class, checkpoint) -> OwnModel:
    return own_class(str(checkpoint))


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8))


QUESTIONS = [
    Example("one", "<image>Which?\nA. x\nB. y\nAnswer:", (noise(0),), ("A", "B"), 0),
    Example("two", "Of <image> and <image>, which is it?\nAnswer:", (noise(1), noise(2)), ("A", "B"), 1),
    Example("none", "No picture </s> at all", (), ("A", "B"), 1),
]


def test_the_class_of_the_page_has_at_most_25_lines(file):
    assert 15 < sum(bool(line.strip()) for line in CODE.splitlines()) <= 25


def test_the_class_of_the_page_passes_every_check(adapter):
    report = check(adapter)
    assert {found.status for found in report.checks} == {"passed"}, str(report)


def test_it_is_measured_by_name_and_in_memory_alike(file, checkpoint, own_class, adapter):
    by_name = evaluate(
        f"{file}:MyMLLM", "shapesqa", model_args={"pretrained": str(checkpoint)}, limit=8, device="cpu", progress=False
    )
    in_memory = evaluate(adapter, "shapesqa", limit=8, progress=False)
    assert [score.value for score in by_name.scores] == [score.value for score in in_memory.scores]
    named, made = by_name.identity.model, in_memory.identity.model
    assert (named.name, named.options, made.name) == ("my_checkpoint", {}, "MyMLLM")
    assert named.revision == made.revision and "+weights-" in made.revision
    assert named.adapter.startswith("my_mllm.py:MyMLLM@") and made.adapter.startswith("MyMLLM@")
    assert (named.n_layers, named.hidden_size, named.dtype, named.trained) == (3, 64, "float32", True)
    parts = (adapter.language_model, adapter.vision, adapter.projector)
    assert named.n_parameters == sum(weight.numel() for part in parts for weight in part.parameters())


def test_words_and_pictures_stand_in_the_order_of_the_prompt(adapter):
    batch = adapter.encode(QUESTIONS)
    assert batch.labels.shape == batch.inputs["input_ids"].shape
    runs = [[LABELS[label] for label, _ in groupby(row)] for row in batch.labels.tolist()]
    assert runs[0][:3] == ["special", "image", "text"]
    assert runs[1] == ["special", "text", "image", "text", "image", "text"]
    assert runs[2] == ["special", "text", "padding"]
    assert (batch.labels == IMAGE).sum(axis=1).tolist() == [16, 32, 0]
    assert batch.prompts[1] == "<s>Of <image> and <image>, which is it?\nAnswer:"
    text = batch.tokens[2][batch.labels[2][batch.labels[2] != PADDING] == TEXT]
    assert adapter.words(text.tolist()) == "No picture </s> at all"
    assert adapter.tokenizer.eos_token_id not in text, "what the task writes is words"


def test_the_vectors_are_those_of_the_picture_at_its_place(adapter):
    batch, seen = adapter.encode(QUESTIONS), []
    with torch.no_grad():
        hook = adapter.blocks()[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
        logits = adapter.forward(batch, logits=True)
        hook.remove()
        wanted = adapter.projector(adapter.vision(adapter.pixels(noise(2))).last_hidden_state[0, 1:])
    assert torch.equal(seen[0][1][np.flatnonzero(batch.labels[1] == IMAGE)[16:]], wanted)
    ids = batch.inputs["input_ids"][2][batch.labels[2] != PADDING]
    alone = adapter.language_model(input_ids=ids[None]).logits[0, -1]
    assert torch.allclose(logits[2], alone, atol=1e-5)


def test_media_are_the_pixels_that_a_processor_made(adapter):
    (one,), (other,) = (adapter.encode([replace(QUESTIONS[0], images=(noise(n),))]).media.values() for n in (0, 7))
    assert one.shape == (1, 3, 32, 32) and not torch.equal(one, other)
    assert list(adapter.encode(QUESTIONS).media) == ["pixels 0", "pixels 1", "pixels 2"]
    assert adapter.encode(QUESTIONS[2:]).media == {}


def test_without_a_processor_media_are_the_vectors(own_class, checkpoint):
    class Own(own_class):
        def pixels(self, picture):
            return torch.full((1, 3, 32, 32), float(np.asarray(picture).mean() / 255))

    (media,) = Own(str(checkpoint)).encode(QUESTIONS[:1]).media.values()
    assert media.shape == (16, 64)


def test_permuted_tokens_permutes_the_ids_of_text_alone(adapter):
    changed = with_control("permuted_tokens", Run(adapter, ToyTask(4), 4, 0)).adapter
    before, after = adapter.encode(QUESTIONS), changed.encode(QUESTIONS)
    assert torch.equal(before.inputs["vectors"], after.inputs["vectors"])
    for row, labels in enumerate(before.labels):
        ids, permuted = before.inputs["input_ids"][row].numpy(), after.inputs["input_ids"][row].numpy()
        assert np.array_equal(ids[labels != TEXT], permuted[labels != TEXT])
        assert Counter(ids[labels == TEXT].tolist()) == Counter(permuted[labels == TEXT].tolist())
        assert (ids != permuted).sum() > 8
    assert not torch.equal(adapter.forward(before, logits=True), changed.forward(after, logits=True))


def test_untrained_is_the_same_model_with_other_weights(adapter):
    weights = {name: getattr(adapter, name).state_dict() for name in ("language_model", "vision", "projector")}
    copies = {name: {key: value.clone() for key, value in state.items()} for name, state in weights.items()}
    fresh, again, other = (adapter.fresh_weights(seed) for seed in (0, 0, 1))
    for name, state in weights.items():
        new, same, different = (getattr(one, name).state_dict() for one in (fresh, again, other))
        assert all(torch.equal(state[key], value) for key, value in copies[name].items()), "the given one is as before"
        assert all(torch.equal(new[key], same[key]) for key in state), "a seed gives the same weights again"
        assert any(not torch.equal(new[key], different[key]) for key in state)
        assert any(not torch.equal(new[key], state[key]) for key in state)
    assert fresh.info.trained is False and adapter.info.trained is True
    assert fresh.blocks()[0] is not adapter.blocks()[0] and fresh.model is fresh.language_model
    assert fresh.forward(fresh.encode(QUESTIONS), logits=True).isfinite().all()
    assert measured_model(fresh).revision == measured_model(again).revision != measured_model(adapter).revision


class Resampler(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.ones(4, 48))
        self.attention = nn.MultiheadAttention(48, 4)


def test_a_module_that_cannot_begin_anew_is_named(adapter):
    adapter.resampler = nn.Sequential(Resampler())
    with pytest.raises(AdapterError, match=r"Resampler cannot be initialised anew: it holds queries and has no reset_"):
        adapter.fresh_weights(0)
    Resampler.reset_parameters = lambda self: nn.init.normal_(self.queries)
    try:
        assert not torch.equal(adapter.fresh_weights(0).resampler[0].queries, adapter.resampler[0].queries)
    finally:
        del Resampler.reset_parameters


def test_a_tap_is_refused_with_the_reason(adapter):
    assert adapter.tapped("language") is adapter
    with pytest.raises(AdapterError, match=r"before the pass that is watched, in which nothing of the vision tap runs"):
        adapter.tapped("vision")


def test_the_identity_follows_weights_configurations_and_processors(adapter, own_class, checkpoint):
    before = measured_model(adapter).revision
    assert measured_model(own_class(str(checkpoint))).revision == before
    with torch.no_grad():
        adapter.projector[0].bias[0] += 1
    config, _, weights = measured_model(adapter).revision.partition("+weights-")
    assert config == before.partition("+")[0] and weights != before.partition("+weights-")[2]
    other = own_class(str(checkpoint))
    found = {config}
    other.vision.config.layer_norm_eps = 0.1
    found.add(measured_model(other).revision.partition("+")[0])
    other.image_processor.image_mean = [0.1, 0.5, 0.5]
    found.add(measured_model(other).revision.partition("+")[0])
    other.tokenizer.add_tokens(["mammal"])
    found.add(measured_model(other).revision.partition("+")[0])
    assert len(found) == 4


def test_the_identity_is_of_what_the_modules_are_when_it_is_asked_for(adapter):
    adapter.info = replace_fields(adapter.info, name="mine", options={"a": "b"})
    adapter.language_model.bfloat16()
    adapter.language_model.config.rms_norm_eps = 0.1
    config = adapter.info.revision
    assert (adapter.info.name, adapter.info.options, adapter.info.dtype) == ("mine", {"a": "b"}, "bfloat16")
    adapter.language_model.config.rms_norm_eps = 0.2
    assert adapter.info.revision != config


def test_the_model_may_be_one_module_that_holds_all(own_class, checkpoint):
    class Whole(own_class):
        def __init__(self, pretrained):
            super().__init__(pretrained)
            parts = {name: vars(self).pop(name) for name in ("language_model", "vision", "projector")}
            self.model = nn.ModuleDict(parts)
            self.language_model, self.vision, self.projector = self.model.values()

    whole, apart = Whole(str(checkpoint)), own_class(str(checkpoint))
    assert check(whole).passed and whole.info.n_parameters == apart.info.n_parameters
    assert torch.equal(*(one.forward(one.encode(QUESTIONS), logits=True) for one in (whole, apart)))
    fresh = whole.fresh_weights(0)
    assert fresh.projector is fresh.model["projector"] is not whole.projector


def test_a_tensor_that_is_no_modules_is_refused(adapter):
    adapter.newline = nn.Parameter(torch.zeros(64))
    with pytest.raises(AdapterError, match="holds the tensor newline itself, where no digest of the weights sees it"):
        measured_model(adapter)


def test_model_args_are_the_parameters_of_the_constructor(file):
    with pytest.raises(AdapterError, match=r"MyMLLM needs --model_args pretrained=\.\.\."):
        load_model(f"{file}:MyMLLM", {}, "cpu")
    with pytest.raises(UnknownNameError, match=r"unknown model arg 'pretraned'. Did you mean pretrained"):
        load_model(f"{file}:MyMLLM", {"pretraned": "x"}, "cpu")
    with pytest.raises(AdapterError, match="LlamaForCausalLM of /nowhere/at/all cannot be loaded"):
        OwnModel.part(LlamaForCausalLM, "/nowhere/at/all")


def test_a_part_with_missing_weights_is_refused(checkpoint, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((checkpoint / "vit" / name).read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("layernorm.bias")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AdapterError, match=r"lacks 1 weights of ViTModel, which would be random: layernorm\.bias"):
        OwnModel.part(ViTModel, str(tmp_path), add_pooling_layer=False)
    with pytest.raises(AdapterError, match=r"lacks 2 weights of ViTModel, which would be random: pooler\."):
        OwnModel.part(ViTModel, str(checkpoint / "vit"))


@pytest.mark.parametrize(
    ("label", "content", "said"),
    [
        ("picture", [1], r"'picture', which is no label; a piece is one of special, structure, template, text"),
        ("padding", [1], r"'padding', which is no label"),
        ("image", torch.zeros(1, 2, 64), r"'image' with vectors of shape \(1, 2, 64\); they must be \(n, d\)"),
        ("text", torch.zeros(2, 64), r"'text' with vectors; give the token ids of text"),
        ("text", "Which?", r"'text' with 'Which\?'; it must be a list of token ids"),
        ("text", [1.5], r"'text' with \[1\.5\]; it must be a list of token ids"),
    ],
)
def test_what_is_no_piece_is_refused(own_class, checkpoint, label, content, said):
    class Own(own_class):
        def sequence(self, example):
            yield label, content

    with pytest.raises(AdapterError, match=rf"Own\.sequence\(\) yields {said}"):
        Own(str(checkpoint)).encode(QUESTIONS[:1])


def test_examples_that_it_cannot_be_given_are_refused(adapter):
    with pytest.raises(AdapterError, match="MyMLLM has no modality video, and example v needs it"):
        adapter.encode([Example("v", "<video>What?", videos=((noise(0),),))])
    with pytest.raises(ExampleError, match="its text holds 0 <image> but it has 1 pictures"):
        adapter.encode([Example("v", "What?", (noise(0),))])
    with pytest.raises(AdapterError, match="not one token each"):
        adapter.choice_token_ids("Which?", ["perhaps", "B"])


class Ignoring(LlamaForCausalLM):
    def forward(self, inputs_embeds, attention_mask, use_cache, **_):
        return super().forward(inputs_embeds=inputs_embeds, attention_mask=attention_mask, use_cache=use_cache)


class Refusing(LlamaForCausalLM):
    def forward(self, inputs_embeds, attention_mask, use_cache):
        return super().forward(inputs_embeds=inputs_embeds, attention_mask=attention_mask, use_cache=use_cache)


@pytest.mark.parametrize("kind", [Ignoring, Refusing])
def test_a_model_that_keeps_all_logits_gives_the_same(adapter, kind):
    batch = adapter.encode(QUESTIONS)
    expected = adapter.forward(batch, logits=True)
    adapter.language_model.__class__ = kind
    assert torch.allclose(adapter.forward(batch, logits=True), expected, atol=1e-5)


def test_vectors_that_nothing_projected_are_refused(adapter):
    adapter.projector = nn.Identity()
    with pytest.raises(AdapterError, match=r"yields vectors that are 48 wide, and those of words are 64: what"):
        adapter.encode(QUESTIONS[:1])


def test_adapters_of_peft_are_named(adapter):
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    before = adapter.forward(adapter.encode(QUESTIONS), logits=True)
    adapter.language_model = peft.get_peft_model(adapter.language_model, settings)
    assert (adapter.info.peft, len(adapter.blocks())) == ("LORA-r4", 3)
    assert check(adapter).passed
    assert not torch.allclose(before, adapter.forward(adapter.encode(QUESTIONS), logits=True))


def test_a_name_can_be_given_where_it_is_measured(adapter):
    options = {"limit": 3, "metrics": "anisotropy", "progress": False}
    assert evaluate(adapter, "shapesqa", name="mine, step 500", **options).identity.model.name == "mine, step 500"
    assert adapter.info.name == "MyMLLM"
    with pytest.raises(MicroscopeError, match=r"MyMLLM is loaded already: give model args \(dtype\) where"):
        evaluate(adapter, "shapesqa", name="mine", model_args={"dtype": "float16"}, **options)


class AsPieces(OwnModel):
    """LLaVA put together from the pieces that its own processor makes."""

    def __init__(self, whole: Any) -> None:
        self.whole, self.language_model, self.tokenizer = whole, whole.model, whole.tokenizer

    def sequence(self, example):
        batch = self.whole.encode([example])
        vectors = self.language_model.get_image_features(batch.inputs["pixel_values"]).pooler_output
        for label, run in groupby(zip(batch.labels[0].tolist(), batch.tokens[0].tolist(), strict=True), lambda p: p[0]):
            yield LABELS[label], vectors[0] if label == IMAGE else [token for _, token in run]


def test_the_states_are_those_of_the_generic_adapter(tiny_adapter):
    whole = tiny_adapter("llava")
    options = {"limit": 6, "metrics": "anisotropy", "progress": False}
    results = [evaluate(one, "shapesqa", batch_size=3, **options) for one in (whole, AsPieces(whole))]
    assert [score.value for score in results[0].scores] == [score.value for score in results[1].scores]
    assert results[0].accuracy == results[1].accuracy
    examples = [QUESTIONS[0], replace(QUESTIONS[0], id="longer", text=QUESTIONS[0].text * 2, images=(noise(5),))]
    examples[1] = replace(examples[1], text=examples[1].text.replace("<image>", "", 1))
    batches = [one.encode(examples) for one in (whole, AsPieces(whole))]
    logits = [one.forward(batch, logits=True) for one, batch in zip((whole, AsPieces(whole)), batches, strict=True)]
    assert np.array_equal(batches[0].labels, batches[1].labels) and torch.equal(*logits)


class Plain(OwnModel):
    """Nothing of transformers: bytes, and blocks of linear maps."""

    modalities = frozenset({"text"})
    trained = False

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(256, 8), nn.Linear(8, 256)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def sequence(self, example):
        yield "special", [0]
        yield "text", torch.tensor(list(example.text.encode()))

    def blocks(self):
        return list(self.layers)

    def embed(self, ids):
        return self.table(ids)

    def run(self, inputs_embeds, attention_mask, positions):
        return self.head(self.layers[1](self.layers[0](inputs_embeds)))

    def words(self, ids):
        return bytes(ids).decode()

    def choice_token_ids(self, prompt, choices):
        return [ord(choice) for choice in choices]


def test_a_model_without_transformers_needs_no_more_than_the_page_says():
    adapter = Plain.load({}, device="cpu")
    report = check(adapter)
    assert report.passed, str(report)
    info = measured_model(adapter)
    assert (info.trained, info.n_layers, info.hidden_size, info.attention) == (False, 2, 8, None)
    batch = adapter.encode([Example("a", "ab"), Example("b", "abc")])
    assert batch.labels.tolist() == [[SPECIAL, TEXT, TEXT, PADDING], [SPECIAL, TEXT, TEXT, TEXT]]
    assert adapter.forward(batch, logits=True).shape == (2, 256)
    assert not torch.equal(adapter.fresh_weights(1).layers[0].weight, adapter.layers[0].weight)
    assert json.loads(json.dumps(batch.prompts)) == ["\0ab", "\0abc"]


@pytest.mark.parametrize("how", [check, lambda model: evaluate(model, TextTask(4), metrics="anisotropy")])
def test_a_training_goes_on_with_what_a_measured_pass_has_left(how):
    adapter = Plain.load({}, device="cpu")
    adapter.layers[0] = Remembering(adapter.layers[0])
    how(adapter)
    adapter.layers[0].train()(torch.ones(1, 3, 8, requires_grad=True)).sum().backward()
    assert adapter.layers[0].block.weight.grad is not None
