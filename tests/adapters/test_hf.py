"""The generic adapter on tiny checkpoints of real architectures."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from microscope_bench.adapters.base import IMAGE, PADDING, STRUCTURE, TEXT
from microscope_bench.adapters.decoder import find_final_norm
from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.capture.hooks import run_pass
from microscope_bench.check import check
from microscope_bench.errors import AdapterError, ExampleError, MicroscopeError, UnknownNameError
from tests.adapters.media_cases import label_counts
from tests.tiny.checkpoints import MULTIMODAL, TEXT_ONLY
from tests.tiny.questions import PICTURE_QUESTIONS, TALL, TEXT_QUESTIONS, WIDE, question
from tests.tiny.shrink import LAYERS

# (image, structure) positions of the 60 × 40 and of the 40 × 80 picture. Towers see 32 × 32 pixels in 8 × 8 patches.
EXPECTED = {
    "llava": [(16, 0), (16, 0)],  # 4 × 4 patches, whatever the size
    "llava_next": [(16 + 6 * 8, 6), (16 + 8 * 4, 8)],  # base picture + unpadded 2 × 2 or 2 × 1 tiles, a newline per row
    "qwen2_vl": [(2 * 4, 2), (5 * 2, 2)],  # native size, rounded, in squares of 16 pixels; start and end
    "qwen2_5_vl": [(2 * 4, 2), (5 * 2, 2)],
    "qwen3_vl": [(2 * 4, 2), (5 * 2, 2)],
    "idefics3": [(5 * 4, 14), (3 * 4, 10)],  # 4 or 2 tiles and the whole, 4 tokens each; tags and line breaks
    "paligemma": [(16, 0), (16, 0)],
    "gemma3": [(4, 2), (4, 2)],  # pooled to 4; start and end
    "internvl": [(5 * 4, 2), (3 * 4, 2)],  # 4 or 2 tiles and a thumbnail, 4 tokens each; start and end
    "blip_2": [(4, 0), (4, 0)],  # 4 queries
}


def capture(adapter, examples):
    batch = adapter.encode(examples)
    boundaries = []
    logits = run_pass(adapter, batch, lambda layer, hidden: boundaries.append(hidden.clone()), logits=True)
    return batch, boundaries, logits


@pytest.mark.parametrize("family", MULTIMODAL + TEXT_ONLY)
def test_contract(family, tiny_adapter):
    adapter = tiny_adapter(family)
    report = check(adapter, TEXT_QUESTIONS if family in TEXT_ONLY else PICTURE_QUESTIONS)
    assert report.passed, str(report)
    skipped = {c.name for c in report.checks if c.status == "skipped"}
    if family == "qwen3_vl":
        assert skipped == {"boundaries equal transformers' hidden states"}
    elif family in TEXT_ONLY:
        assert skipped == {"labels agree with what the media change"}
    else:
        assert not skipped


@pytest.mark.parametrize("family", MULTIMODAL)
def test_positions_of_each_label(family, tiny_adapter):
    assert label_counts(tiny_adapter(family), PICTURE_QUESTIONS, IMAGE, STRUCTURE) == EXPECTED[family]


@pytest.mark.parametrize("family", TEXT_ONLY)
def test_text_only_models_have_text_alone(family, tiny_adapter):
    adapter = tiny_adapter(family)
    assert adapter.modalities == {"text"}
    assert all(image == 0 and text > 20 for image, text in label_counts(adapter, TEXT_QUESTIONS, IMAGE, TEXT))
    with pytest.raises(AdapterError, match=r"no modality image.*Example wide has a picture"):
        adapter.encode(PICTURE_QUESTIONS)


def test_deepstack_differs_from_transformers_exactly_where_it_writes(tiny_adapter):
    adapter = tiny_adapter("qwen3_vl")
    batch, boundaries, _ = capture(adapter, PICTURE_QUESTIONS)
    with torch.inference_mode():
        states = adapter.model(**batch.inputs, use_cache=False, output_hidden_states=True).hidden_states
        last = find_final_norm(adapter.model, adapter.blocks())(boundaries[-1])
    equal = [torch.equal(a, b) for a, b in zip([*boundaries[:-1], last], states, strict=True)]
    assert equal == [True, False, False, True, True]  # two injections, after blocks 1 and 2
    image = torch.from_numpy(batch.labels == IMAGE)
    assert torch.equal(boundaries[1][~image], states[1][~image])


def test_newlines_of_llava_next_are_structure(tiny_adapter):
    adapter = tiny_adapter("llava_next")
    batch, boundaries, _ = capture(adapter, PICTURE_QUESTIONS)
    refined = adapter.refine_labels(batch, boundaries[0])
    newline = adapter.model.model.image_newline
    assert (boundaries[0][torch.from_numpy(refined == STRUCTURE)] == newline).all()
    assert not (boundaries[0][torch.from_numpy(refined == IMAGE)] == newline).all(dim=-1).any()
    assert np.array_equal(np.isin(refined, [IMAGE, STRUCTURE]), batch.labels == IMAGE)


@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_vl", "gemma3", "internvl", "blip_2", "llama", "gpt2"])
def test_letters_from_one_pass_equal_scoring_each_choice_alone(family, tiny_adapter):
    adapter = tiny_adapter(family)
    examples = TEXT_QUESTIONS if family in TEXT_ONLY else PICTURE_QUESTIONS
    batch, _, logits = capture(adapter, examples)
    for row, example in enumerate(examples):
        prompt = batch.prompts[row]
        ids = adapter.choice_token_ids(prompt, example.choices)
        one_pass = logits[row].log_softmax(-1)[ids]
        delimiter = "" if prompt.endswith("\n") else " "
        for choice, token, expected in zip(example.choices, ids, one_pass, strict=True):
            has_bos = prompt.startswith(adapter.tokenizer.bos_token)
            options = {"return_tensors": "pt", "add_special_tokens": not has_bos}
            text = prompt + delimiter + choice
            if example.images:
                inputs = adapter.processor(text=[text], images=[list(example.images)], **options)
            else:
                inputs = adapter.tokenizer([text], **options)
            assert inputs["input_ids"][0, -1] == token
            with torch.inference_mode():
                scored = adapter.model(**inputs).logits.float()[0, -2].log_softmax(-1)[token]
            torch.testing.assert_close(scored, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", [f for f in MULTIMODAL if f not in ("paligemma", "blip_2")])
def test_rows_with_no_one_and_two_pictures_share_a_batch(family, tiny_adapter):
    mixed = (question("none"), question("one", TALL), question("two", WIDE, TALL))
    report = check(tiny_adapter(family), mixed)
    assert report.passed, str(report)


@pytest.mark.parametrize(
    ("family", "message"), [("paligemma", "no prompt without a picture"), ("blip_2", "no prompt without a picture")]
)
def test_rows_without_pictures_are_refused_where_the_processor_would_spoil_them(family, message, tiny_adapter):
    with pytest.raises(AdapterError, match=message):
        tiny_adapter(family).encode((question("one", TALL), question("none")))


def test_bos_comes_once_whoever_writes_it(tiny_adapter):
    for family in ("llava", "llava_next", "llama"):  # the tokenizer, the processor's template, the tokenizer's template
        adapter = tiny_adapter(family)
        batch = adapter.encode(TEXT_QUESTIONS)
        for tokens in batch.tokens:
            assert tokens[0] == adapter.tokenizer.bos_token_id
            assert (tokens == adapter.tokenizer.bos_token_id).sum() == 1


def test_padding_is_on_the_right_and_lengths_count_the_rest(tiny_adapter):
    batch = tiny_adapter("internvl").encode(PICTURE_QUESTIONS)  # a processor that pads on the left by default
    assert [len(tokens) for tokens in batch.tokens] == batch.lengths().tolist()
    for row, length in enumerate(batch.lengths()):
        assert (batch.labels[row, :length] != PADDING).all() and (batch.labels[row, length:] == PADDING).all()


def test_prompts_follow_the_chat_template_unless_told_otherwise(tiny, tiny_adapter):
    assert tiny_adapter("llava").encode(PICTURE_QUESTIONS[:1]).prompts == (
        "user: <image>\nWhat is it?\nA. x\nB. y\nAnswer:\nassistant:",
    )
    raw = HFAdapter.load({"pretrained": str(tiny("qwen2_vl")), "use_chat_template": "false"}, device="cpu")
    assert raw.encode(PICTURE_QUESTIONS[:1]).prompts == ("<|image_pad|>What is it?\nA. x\nB. y\nAnswer:",)
    assert raw.processing.chat_template_sha256 is None
    assert tiny_adapter("paligemma").encode(PICTURE_QUESTIONS[:1]).prompts[0].endswith("Answer:\n")
    with pytest.raises(AdapterError, match="no chat template"):
        HFAdapter.load({"pretrained": str(tiny("gpt2")), "use_chat_template": "true"}, device="cpu")


@pytest.mark.parametrize(
    ("template", "cause"),
    [
        ("{% if %}", "TemplateSyntaxError: Expected an expression"),
        ("{{ messages[0].nothing.at_all }}", "UndefinedError: .* has no attribute 'nothing'"),
        ("{{ raise_exception('only system turns\nplease') }}", "TemplateError: only system turns"),
        ("{{ 'user: ' + messages[0].content }}", "TypeError: can only concatenate str"),
    ],
)
def test_a_broken_chat_template_is_named(template, cause, tiny, tmp_path):
    copy = shutil.copytree(tiny("llava"), tmp_path / "copy")
    (copy / "chat_template.jinja").write_text(template)
    adapter = HFAdapter.load({"pretrained": str(copy)}, device="cpu")
    with pytest.raises(AdapterError, match=rf"^copy: its chat template .*{cause}.*chat_template\.jinja") as raised:
        adapter.encode(PICTURE_QUESTIONS)
    assert "use_chat_template=false" in str(raised.value) and "please" not in str(raised.value)


def test_identity(tiny_adapter):
    adapter = tiny_adapter("qwen2_vl")
    info, processing = adapter.info, adapter.processing
    assert (info.name, info.repo, info.adapter) == ("qwen2_vl", "qwen2_vl", "hf")
    assert info.architecture == "Qwen2VLForConditionalGeneration"
    assert (info.n_layers, info.hidden_size, info.dtype, processing.context_length) == (LAYERS, 32, "float32", 4096)
    assert info.revision.startswith("sha256-") and len(processing.chat_template_sha256) == 64
    assert processing.processor in ("Qwen2VLProcessor", "Qwen2VLProcessorWithoutVideo")
    assert processing.image_processor in ("Qwen2VLImageProcessor", "Qwen2VLImageProcessorPil")
    assert info.trained and info.quantization is None and info.attention == "sdpa"


def test_dtype_attention_and_length_are_the_callers_choice(tiny):
    args = {"pretrained": str(tiny("llava")), "dtype": "bfloat16", "attn_implementation": "eager", "max_length": "99"}
    adapter = HFAdapter.load(args, device="cpu")
    assert (adapter.info.dtype, adapter.info.attention, adapter.processing.context_length) == ("bfloat16", "eager", 99)
    assert all(v.dtype == torch.bfloat16 for v in adapter.encode(PICTURE_QUESTIONS).media.values())
    assert check(adapter, PICTURE_QUESTIONS).passed


def test_the_dtype_is_that_of_the_stream_where_parts_of_the_model_keep_another(tiny):
    adapter = HFAdapter.load({"pretrained": str(tiny("blip_2")), "dtype": "float16"}, device="cpu")
    assert adapter.model.query_tokens.dtype == torch.float32  # kept by transformers, and the first of its parameters
    _, (entering, *_), _ = capture(adapter, PICTURE_QUESTIONS)
    assert (adapter.info.dtype, entering.dtype) == ("float16", torch.float16)


def test_untrained_checkpoints_say_so(tiny, tmp_path):
    copy = changed_config(tiny("llama"), tmp_path / "copy", "config.json", microscope_bench_untrained=True)
    adapter = HFAdapter.load({"pretrained": str(copy)}, device="cpu")
    assert not adapter.info.trained
    adapter.model.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["microscope_bench_untrained"] is True


def test_a_processor_that_does_not_expand_the_image_token_is_named(tiny, tmp_path):
    copy = changed_config(tiny("llava"), tmp_path / "copy", "processor_config.json", patch_size=32)
    adapter = HFAdapter.load({"pretrained": str(copy)}, device="cpu")
    batch = adapter.encode(PICTURE_QUESTIONS)
    with pytest.raises(AdapterError, match=r"does not expand the image token.*model\.language_model\.layers \(4\)"):
        adapter.forward(batch, logits=False)
    short = replace(batch, labels=batch.labels[:, :-1])
    with pytest.raises(AdapterError, match=r"\d+ labels but block 1 saw \d+ positions.*does not expand"):
        adapter.check_labels(short, torch.zeros(*batch.labels.shape, 32))


def test_a_model_whose_image_positions_nothing_names_says_so(tiny, tmp_path):
    copy = changed_config(tiny("blip_2"), tmp_path / "copy", "config.json", image_token_index=None, image_token_id=None)
    adapter = HFAdapter.load({"pretrained": str(copy)}, device="cpu")
    assert adapter.modalities == {"text"}
    with pytest.raises(AdapterError, match=r"names image_token_id, so its positions are unknown; add that to config"):
        adapter.encode(PICTURE_QUESTIONS)
    assert "not image (its processor prepares image" in check(adapter).found["modalities"]


def test_text_and_pictures_that_do_not_fit_are_one_examples_error(tiny_adapter):
    adapter = tiny_adapter("llava")
    lacking = replace(PICTURE_QUESTIONS[1], text="What is it?")
    with pytest.raises(ExampleError, match="example tall: its text holds 0 <image> but it has 1 pictures"):
        adapter.encode((PICTURE_QUESTIONS[0], lacking))
    broken = replace(PICTURE_QUESTIONS[1], images=("not a picture",))
    with pytest.raises(ExampleError, match=r"example tall: .*in the processor"):
        adapter.encode((PICTURE_QUESTIONS[0], broken))


def test_choices_of_more_than_one_token_are_refused(tiny_adapter):
    with pytest.raises(AdapterError, match="not one token each"):
        tiny_adapter("llama").choice_token_ids("Answer:", ["yes", "no"])


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ({"pretraind": "x"}, UnknownNameError, r"unknown model arg 'pretraind'\. Did you mean pretrained\?$"),
        ({}, AdapterError, "needs a model"),
        ({"pretrained": "HERE", "dtype": "bfloat"}, UnknownNameError, "Did you mean bfloat16"),
        ({"pretrained": "HERE", "use_chat_template": "maybe"}, MicroscopeError, "must be true or false"),
        (
            {"pretrained": "HERE", "trust_remote_code": "true"},
            UnknownNameError,
            "unknown model arg 'trust_remote_code'",
        ),
        ({"pretrained": "HERE", "max_length": "-1"}, MicroscopeError, "max_length must be at least 1"),
        ({"pretrained": "HERE", "attn_implementation": "nonsense"}, AdapterError, "nonsense"),
        ({"pretrained": "HERE", "revision": "main"}, AdapterError, "is a directory"),
    ],
)
def test_bad_arguments(args, error, message, tiny):
    args = {key: value.replace("HERE", str(tiny("llama"))) for key, value in args.items()}
    with pytest.raises(error, match=message):
        HFAdapter.load(args, device="cpu")


def test_unknown_device(tiny):
    with pytest.raises(MicroscopeError, match="device 'cud' is not available"):
        HFAdapter.load({"pretrained": str(tiny("llama"))}, device="cud")


def changed_config(source, copy, file, **changes):
    """A copy of a checkpoint with some keys of one JSON file changed."""
    shutil.copytree(source, copy)
    content = json.loads((copy / file).read_text())
    (copy / file).write_text(json.dumps({**content, **changes}))
    return copy
