"""Prompts reach the model whole, whatever the checkpoint's files say of lengths, and a task's words are words."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import BertTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from microscope_bench.adapters.base import LABELS, PADDING, TEXT
from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.adapters.presets import load_model
from microscope_bench.adapters.tokenizing import NoWordsError, PlainWords, special_ids, whole_prompts
from microscope_bench.check import check
from microscope_bench.errors import AdapterError, ExampleError
from microscope_bench.example import WORD_MARK, Example, as_words
from microscope_bench.system import bounded_templates
from microscope_bench.zoo.shipped import shipped_model
from tests.tiny.checkpoints import MULTIMODAL, TEXT_ONLY, saying
from tests.tiny.questions import PICTURE_QUESTIONS, TALL, TEXT_QUESTIONS, WIDE, question

ODD = ("mllama", "idefics", "florence2", "t5gemma2", "git", "kosmos_2", "chameleon", "donut")
FAMILIES = (*MULTIMODAL, *TEXT_ONLY, *ODD)
CUTTING = {"truncation": True, "max_length": 16}
SAVED = {
    "cut": CUTTING,
    "length alone": {"max_length": 16},
    "cut on the left": {**CUTTING, "truncation_side": "left", "stride": 2, "model_max_length": 16},
    "padded": {"padding": "max_length", "max_length": 512, "padding_side": "left", "pad_to_multiple_of": 64},
}


def examples_for(adapter):
    return TEXT_QUESTIONS if adapter.modalities == {"text"} else PICTURE_QUESTIONS


def assert_equal_batches(found, expected):
    assert np.array_equal(found.labels, expected.labels) and found.prompts == expected.prompts
    assert all(np.array_equal(a, b) for a, b in zip(found.tokens, expected.tokens, strict=True))
    assert found.inputs.keys() == expected.inputs.keys()
    assert found.inputs["attention_mask" if "attention_mask" in found.inputs else "decoder_attention_mask"].equal(
        expected.inputs["attention_mask" if "attention_mask" in found.inputs else "decoder_attention_mask"]
    )


@pytest.mark.parametrize("settings", SAVED.values(), ids=SAVED)
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_that_is_saved_of_lengths_applies(family, settings, tiny, tiny_adapter, tmp_path):
    expected = tiny_adapter(family)
    adapter = HFAdapter.load({"pretrained": str(saying(tiny(family), tmp_path / family, settings))}, device="cpu")
    before = copy.deepcopy(adapter.tokenizer.init_kwargs)
    examples = examples_for(adapter)
    assert_equal_batches(adapter.encode(examples), expected.encode(examples))
    assert adapter.tokenizer.init_kwargs == before and "_encode_plus" not in vars(adapter.tokenizer)
    long = replace(examples[0], text=examples[0].text + " and so on" * 100)
    assert adapter.encode([long]).lengths()[0] > 1000


@pytest.mark.parametrize("model", ["zoo-fuyu", "zoo-omnifusion", "zoo-qformer"])
def test_nor_for_the_zoo(model, tmp_path):
    folder = saying(shipped_model(model), tmp_path / "copy", {"max_length": 16, "padding": "max_length", **CUTTING})
    expected = load_model(model, device="cpu")
    adapter = load_model("omnifusion" if model == "zoo-omnifusion" else "hf", {"pretrained": str(folder)}, "cpu")
    assert_equal_batches(adapter.encode(PICTURE_QUESTIONS[:1]), expected.encode(PICTURE_QUESTIONS[:1]))


def test_what_a_processor_asks_for_does_not_apply_either(tiny, monkeypatch):
    adapter = HFAdapter.load({"pretrained": str(tiny("llava"))}, device="cpu")
    expected = adapter.encode(PICTURE_QUESTIONS)
    asked = {**CUTTING, "padding": "max_length", "pad_to_multiple_of": 7}
    adapter.processor.text_kwargs = dict(asked)
    assert_equal_batches(adapter.encode(PICTURE_QUESTIONS), expected)
    assert adapter.processor.text_kwargs == asked
    monkeypatch.setattr(type(adapter.processor), "text_kwargs", asked, raising=False)
    del adapter.processor.text_kwargs
    defaults = {"text_kwargs": dict(asked)}
    monkeypatch.setattr(type(adapter.processor).valid_processor_kwargs, "_defaults", defaults, raising=False)
    assert_equal_batches(adapter.encode(PICTURE_QUESTIONS), expected)


def test_a_failure_inside_leaves_the_tokenizer_as_it_was(tiny_adapter):
    tokenizer = tiny_adapter("llama").tokenizer
    with pytest.raises(ZeroDivisionError), whole_prompts(tokenizer):
        raise ZeroDivisionError
    assert "_encode_plus" not in vars(tokenizer)


@pytest.mark.parametrize("side", ["right", "left"])
def test_check_finds_an_adapter_that_cuts(side, tiny_adapter):
    class Cutting(HFAdapter):
        def prepare(self, examples):
            batch = super().prepare(examples)
            kept = slice(0, 600) if side == "right" else slice(-600, None)
            tokens = tuple(row[kept] for row in batch.tokens)
            return replace(batch, tokens=tokens, labels=batch.labels[:, kept])

    adapter = copy.copy(tiny_adapter("llama"))
    (found,) = [c for c in check(adapter, TEXT_QUESTIONS).checks if c.name == "prompts arrive whole"]
    assert found.status == "passed"
    adapter.__class__ = Cutting
    (found,) = [c for c in check(adapter, TEXT_QUESTIONS).checks if c.name == "prompts arrive whole"]
    assert found.status == "failed" and "lengths" not in found.seen and "cuts or pads" in found.hint


FOREIGN = "<image> <video> <audio> <image_soft_token> <|image_pad|> <|im_end|> </s> <bos> [SEP] <start_of_image>"


def own_marks(adapter):
    """The strings that a model's tokenizer and processor take for something else than words."""
    tokens = [str(adapter.tokenizer.added_tokens_decoder[i]) for i in special_ids(adapter.tokenizer)]
    named = [value for key, value in vars(adapter.processor or adapter).items() if key.endswith("_token")]
    return sorted({token for token in (*tokens, *named) if isinstance(token, str)})


def counts(batch):
    return {name: int((batch.labels == LABELS.index(name)).sum()) for name in LABELS}


@pytest.mark.parametrize("family", FAMILIES)
def test_placeholders_and_marks_in_a_question_are_words(family, tiny_adapter):
    adapter = tiny_adapter(family)
    pictures = () if adapter.modalities == {"text"} else (TALL,)
    plain = adapter.encode([question("plain", *pictures, text="Which one?")])
    for words in (FOREIGN, *own_marks(adapter), "".join(own_marks(adapter))):
        batch = adapter.encode([question("words", *pictures, text=f"Which one? {words} What?")])
        here, there = counts(batch), counts(plain)
        assert {**here, "text": 0} == {**there, "text": 0} and here["text"] > there["text"], words
        assert {name: value.shape for name, value in batch.media.items()} == {
            name: value.shape for name, value in plain.media.items()
        }
        assert f"Which one? {words} What?" in batch.prompts[0] and WORD_MARK not in batch.prompts[0]
        labels = batch.labels[0][batch.labels[0] != PADDING]
        if len(labels) == len(batch.tokens[0]) and family not in ("git",):  # its tokenizer knows lower case alone
            assert words in adapter.tokenizer.decode(batch.tokens[0][labels == TEXT].tolist())
        adapter.forward(batch, logits=True)


@pytest.mark.parametrize("text", ["<image>What is <image>?", "What is <image>?", "<image><image><image>"])
def test_the_first_placeholders_are_the_places_of_pictures(text, tiny_adapter):
    for family in ("llava", "qwen2_vl", "gemma3", "blip_2"):
        adapter = tiny_adapter(family)
        batch = adapter.encode([Example("q", text, (WIDE,))])
        assert counts(batch)["image"] == counts(adapter.encode([Example("q", "<image>What?", (WIDE,))]))["image"]
        assert batch.prompts[0].count("<image>") >= text.count("<image>") - 1


def test_a_placeholder_before_the_place_is_a_word_where_it_is_told(tiny_adapter):
    adapter = tiny_adapter("qwen2_vl")
    text = f"{as_words('What is <image>?', '<image>')}<image>"
    (prompt,) = adapter.encode([Example("q", text, (WIDE,))]).prompts
    assert "What is <image>?<|vision_start|>" in prompt


def test_words_that_are_none_change_nothing(tiny_adapter):
    """The tokenizer is not even asked in another way where a prompt holds no mark."""
    adapter = tiny_adapter("llava")
    words = PlainWords(adapter.tokenizer, adapter.processor)
    for text in ("Which?", "a < b > c", "<imag>", "image", "<s", ""):
        assert words.marked(text) == text


def tokenizer_of(model, *, normalizer=None, pre_tokenizer=None, decoder=None, normalized=False):
    backend = Tokenizer(model)
    backend.normalizer, backend.pre_tokenizer, backend.decoder = normalizer, pre_tokenizer, decoder
    backend.add_special_tokens([AddedToken(mark, normalized=normalized) for mark in ("<s>", "<image>", "<unk>")])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", unk_token="<unk>")


PIECES = [*"abcdefghijklmnopqrstuvwxyz<>/?▁", "<unk>", "<s>", "<image>"]
BYTES = {piece: index for index, piece in enumerate(PIECES)}
SPACES = normalizers.Replace(" ", "▁")
KINDS = {
    "Llama": (models.BPE(BYTES, [], unk_token="<unk>"), {"normalizer": SPACES}),
    "Metaspace": (models.BPE(BYTES, [], unk_token="<unk>"), {"pre_tokenizer": pre_tokenizers.Metaspace()}),
    "Unigram": (models.Unigram([(p, -1.0) for p in PIECES], unk_id=31), {"normalizer": SPACES}),
}


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tokenizer_reads_marks_as_words(kind, normalized):
    model, parts = KINDS[kind]
    tokenizer = tokenizer_of(model, normalized=normalized, decoder=decoders.Metaspace(), **parts)
    before = tokenizer.backend_tokenizer.to_str()
    words = PlainWords(tokenizer, None)
    with whole_prompts(tokenizer):
        ids = tokenizer(words.marked("what is <image>? a <s>"), add_special_tokens=False)["input_ids"]
        assert special_ids(tokenizer).isdisjoint(ids)
        assert tokenizer.decode(ids).strip() == "what is <image>? a <s>"
    assert tokenizer.backend_tokenizer.to_str() == before


def test_a_tokenizer_that_cannot_is_named(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(["[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]", "[", "sep", "]", "a"]))
    tokenizer = BertTokenizer(str(tmp_path / "vocab.txt"))
    assert "[" + WORD_MARK in PlainWords(tokenizer, None).marked("a [SEP]")
    with pytest.raises(NoWordsError, match="holds '</s>', which ByT5Tokenizer cannot read as words"):
        PlainWords(ByT5Tokenizer(), None).marked("a </s>")


def test_one_that_cannot_skips_the_example(tiny_adapter, monkeypatch):
    adapter = tiny_adapter("llava")
    monkeypatch.setattr("microscope_bench.adapters.tokenizing._backend", lambda tokenizer: None)
    with pytest.raises(ExampleError, match=r"example words: its text holds '<image>', which .* cannot read as words"):
        adapter.encode([question("words", TALL, text="<image>?")])


TEMPLATES = {
    "no picture": "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}",
    "strings": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
}


@pytest.mark.parametrize("family", MULTIMODAL)
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_without_the_picture_is_named(template, family, tiny, tmp_path):
    folder = shutil.copytree(tiny(family), tmp_path / "copy")
    (folder / "chat_template.jinja").write_text(TEMPLATES[template])
    adapter = HFAdapter.load({"pretrained": str(folder)}, device="cpu")
    if family in ("paligemma", "blip_2") and template == "no picture":  # its processor puts the picture in front
        assert counts(adapter.encode(PICTURE_QUESTIONS[:1]))["image"] > 0
        return
    with pytest.raises(AdapterError, match=r"its chat template .*chat_template\.jinja.*use_chat_template=false"):
        adapter.encode(PICTURE_QUESTIONS)
    raw = adapter.with_template(False)
    assert counts(raw.encode(PICTURE_QUESTIONS[:1]))["image"] > 0


ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{{ MORE }}{% endfor %}{% endfor %}"
TOO_MUCH = {
    "no end": ENDLESS,
    "no end inside a generation": f"{{% generation %}}{ENDLESS}{{% endgeneration %}}",
    "no end after a system turn": f"{{% if messages[0].role == 'system' %}}{ENDLESS}{{% endif %}}",
    "one large text": "{{ 'a' * 10**10 }}",
    "doubling": "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
    "long": "{{ 'a' * 2000000 }}",
}
TOO_MUCH_SAID = r"^copy: its chat template .* (does not end within|writes more|makes more|asks for too) .*\.jinja"


@pytest.mark.parametrize("template", TOO_MUCH)
def test_a_template_that_takes_too_much_is_refused(template, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(bounded_templates, "SECONDS", 1.0)
    folder = shutil.copytree(tiny("llava"), tmp_path / "copy")
    (folder / "chat_template.jinja").write_text(TOO_MUCH[template])
    with pytest.raises(AdapterError, match=TOO_MUCH_SAID):
        HFAdapter.load({"pretrained": str(folder)}, device="cpu")
    raw = HFAdapter.load({"pretrained": str(folder), "use_chat_template": "false"}, device="cpu")
    assert raw.encode(PICTURE_QUESTIONS[:1]).prompts == ("<image>What is it?\nA. x\nB. y\nAnswer:",)
