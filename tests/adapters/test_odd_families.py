"""The generic adapter with the real processors of families whose pictures are no placeholders in a causal sequence.

Cross-attention (Llama 3.2 Vision, Idefics, Pix2Struct, Donut), encoder-decoders (Florence-2, T5Gemma 2), a picture in
front of the text (GIT), positions marked by a mask (Kosmos-2) and codes (Chameleon). What the adapter makes of an
example is held against direct calls of processor and model, written as their documentation has them.
"""

from __future__ import annotations

import functools
import inspect
import json
import shutil
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from microscope_bench.adapters.base import IMAGE, LABELS, STRUCTURE, TEXT
from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.check import check
from microscope_bench.check.captured_pass import capture
from microscope_bench.errors import AdapterError
from microscope_bench.example import IMAGE_PLACEHOLDER, Example
from tests.tiny.checkpoints import ODD
from tests.tiny.questions import PICTURE_QUESTIONS, TALL, TEXT_QUESTIONS, WIDE, picture, question

CROSS_ATTENTION = ("mllama", "idefics", "pix2struct", "donut")
ENCODER_DECODER = ("florence2", "t5gemma2")
SKIPPED = {"idefics": {"boundaries equal transformers' hidden states"}}  # it writes into the stream between blocks

# The texts are 29 and 41 bytes: "What is it?\nA. x\nB. y\nAnswer:" and the same with "Which of the two is it?". The
# pictures are 60 × 40 and 40 × 80 (width × height). In order: image, structure, special, text, template.
EXPECTED = {
    # <|image|> stays one token; <s>, two headers of two tokens, end of turn; "user", "assistant", two times "\n\n"
    "mllama": [(0, 1, 6, 29, 4 + 9 + 4), (0, 1, 6, 41, 4 + 9 + 4)],
    "idefics": [(0, 3, 1, 29), (0, 3, 1, 41)],  # <fake_token_around_image><image><fake_token_around_image>; <s>
    # 64 pixels in strides of 4, 2, 2, 2 are 2 × 2, and their mean before them; <s> and </s>
    "florence2": [(5, 0, 2, 29), (5, 0, 2, 41)],
    # 4 × 4 patches pooled to 4; start and end; <s>; two line breaks before and two after count as text
    "t5gemma2": [(4, 2, 1, 29 + 4), (4, 2, 1, 41 + 4)],
    "git": [(17, 0, 1, 29), (17, 0, 1, 41)],  # 4 × 4 patches and the class token of its tower; [CLS]
    "kosmos_2": [(64, 2, 1, 29), (64, 2, 1, 41)],  # 64 latents; <image> and </image>; <s>
    "pix2struct": [(0, 0, 1, 29), (0, 0, 1, 41)],  # the decoder's start token
    # 32 pixels halved three times are 4 × 4 codes; <racm3:break> and <eoss>; <s> and the end of turn
    "chameleon": [(16, 2, 2, 29), (16, 2, 2, 41)],
    "donut": [(0, 0, 0, 29), (0, 0, 0, 41)],
}


def counts(labels):
    """How many positions of each label a row of labels has, padding left out."""
    return {LABELS[label]: n for label, n in Counter(labels.tolist()).items() if LABELS[label] != "padding"}


def final_labels(adapter, examples):
    return capture(adapter, tuple(examples)).labels


def argument_given_to(model, path, name, run):
    """The named argument that a module of the model is called with while ``run`` runs."""
    seen = []

    def keep(module, args, kwargs):
        seen.append(inspect.signature(module.forward).bind(*args, **kwargs).arguments[name])

    handle = model.get_submodule(path).register_forward_pre_hook(keep, with_kwargs=True)
    try:
        run()
    finally:
        handle.remove()
    return seen[0]


def direct(adapter, example, answer=""):
    """What the family's documentation passes to the model for a picture, its prompt and an answer, without adapter."""
    words = example.text.replace(IMAGE_PLACEHOLDER, "")
    family, processor, (shown,) = adapter.info.name, adapter.processor, example.images
    options = {"return_tensors": "pt"}
    if family == "mllama":
        header = "<|start_header_id|>{}<|end_header_id|>\n\n".format
        words = f"<s>{header('user')}<|image|>{words}<|eot_id|>{header('assistant')}{answer}"
        return processor(images=shown, text=words, add_special_tokens=False, **options)
    words += answer
    if family == "idefics":
        return processor(text=[[shown, words]], **options)
    if family == "pix2struct":  # generate() puts the start token in front of a prompt
        inputs = processor(images=shown, text=words, add_special_tokens=False, **options)
        start = torch.full((1, 1), adapter.model.config.decoder_start_token_id)
        inputs["decoder_input_ids"] = torch.cat([start, inputs["decoder_input_ids"]], dim=1)
        inputs["decoder_attention_mask"] = torch.ones_like(inputs["decoder_input_ids"])
        return inputs
    if family == "donut":
        pixels = processor.image_processor(shown, **options)["pixel_values"]
        ids = processor.tokenizer(words, add_special_tokens=False, **options)["input_ids"]
        return {"pixel_values": pixels, "decoder_input_ids": ids}
    if family == "git":
        ids = processor.tokenizer(words, add_special_tokens=False)["input_ids"]
        pixels = processor.image_processor(shown, **options)["pixel_values"]
        return {"input_ids": torch.tensor([[processor.tokenizer.cls_token_id, *ids]]), "pixel_values": pixels}
    return processor(images=shown, text=(processor.image_token if family == "t5gemma2" else "") + words, **options)


@pytest.mark.parametrize("family", ODD)
def test_contract(family, tiny_adapter):
    report = check(tiny_adapter(family), PICTURE_QUESTIONS)
    assert report.passed, str(report)
    assert {c.name for c in report.checks if c.status == "skipped"} == SKIPPED.get(family, set())


@pytest.mark.parametrize("family", ODD)
def test_positions_of_each_label(family, tiny_adapter):
    adapter = tiny_adapter(family)
    for example, expected in zip(PICTURE_QUESTIONS, EXPECTED[family], strict=True):
        named = dict(zip(("image", "structure", "special", "text", "template"), expected, strict=False))
        (labels,) = capture(adapter, (example,)).batch.labels
        assert counts(labels) == {name: n for name, n in named.items() if n}


@pytest.mark.parametrize(
    ("family", "processor", "image_processor"),
    [
        ("mllama", "MllamaProcessor", "MllamaImageProcessor"),
        ("idefics", "IdeficsProcessor", "IdeficsImageProcessor"),
        ("florence2", "Florence2Processor", "CLIPImageProcessor"),
        ("t5gemma2", "Gemma3Processor", "Gemma3ImageProcessor"),
        ("git", "GitProcessor", "CLIPImageProcessor"),
        ("kosmos_2", "Kosmos2Processor", "CLIPImageProcessor"),
        ("pix2struct", "Pix2StructProcessor", "Pix2StructImageProcessor"),
        ("chameleon", "ChameleonProcessor", "ChameleonImageProcessor"),
        ("donut", "DonutProcessor", "DonutImageProcessor"),
    ],
)
def test_identity(family, processor, image_processor, tiny_adapter):
    adapter = tiny_adapter(family)
    info, processing = adapter.info, adapter.processing
    assert processing.processor == processor
    assert processing.image_processor.removesuffix("Pil") == image_processor
    assert (processing.chat_template_sha256 is not None) == (family == "mllama")
    assert (info.n_layers, info.hidden_size) == (5 if family == "mllama" else 4, 32)


@pytest.mark.parametrize(("family", "model_type"), [("kosmos_2", "kosmos-2"), ("donut", "vision-encoder-decoder")])
def test_processors_that_no_mapping_names_are_found_by_the_files(family, model_type, tiny, tiny_adapter):
    assert tiny_adapter(family).model.config.model_type == model_type
    assert PROCESSOR_MAPPING_NAMES.get(model_type) is None
    named = json.loads((tiny(family) / "processor_config.json").read_text())["processor_class"]
    assert type(tiny_adapter(family).processor).__name__ == named


@pytest.mark.parametrize("family", [f for f in ODD if f not in (*ENCODER_DECODER, "chameleon")])
def test_no_prompt_ends_with_the_token_that_ends_an_answer(family, tiny_adapter):
    """The tokenizers of BERT, BART and T5 close a text with it, after which a decoder has nothing more to say."""
    adapter = tiny_adapter(family)
    ends = {adapter.tokenizer.eos_token_id, adapter.tokenizer.sep_token_id}
    batch = adapter.encode(PICTURE_QUESTIONS)
    for prompt, tokens in zip(batch.prompts, batch.tokens, strict=True):
        assert tokens[-1] not in ends
        assert prompt.endswith(adapter.tokenizer.decode(tokens[-3:]))


@pytest.mark.parametrize(
    ("family", "prompt"),
    [
        ("mllama", "<s><|start_header_id|>user<|end_header_id|>\n\n<|image|>{}<|eot_id|>"),
        ("idefics", "<fake_token_around_image><image><fake_token_around_image>{}"),
        ("florence2", "{}</s>"),
        ("t5gemma2", "<start_of_image>{}"),
        ("git", "[CLS]{}"),
        ("kosmos_2", "{}"),
        ("pix2struct", "<pad>{}"),
        ("chameleon", "<image>{}<reserved08706>"),
        ("donut", "{}"),
    ],
)
def test_prompts_are_what_the_model_reads(family, prompt, tiny_adapter):
    (seen,) = tiny_adapter(family).encode(PICTURE_QUESTIONS[:1]).prompts
    asked = "<|start_header_id|>assistant<|end_header_id|>\n\n" if family == "mllama" else ""
    assert seen == prompt.format("What is it?\nA. x\nB. y\nAnswer:") + asked


# Where the first cross-attention stands: before the first block, in the first block, in the block with index 1.
@pytest.mark.parametrize(("family", "first"), [("idefics", 0), ("pix2struct", 1), ("donut", 1), ("mllama", 2)])
def test_cross_attention_brings_the_picture_into_a_stream_of_text(family, first, tiny_adapter):
    adapter = tiny_adapter(family)
    assert set(adapter.unplaced) == {"image"}
    one, other = (capture(adapter, (question("q", picture(60, 40, seed=seed)),)) for seed in (1, 2))
    assert not (one.labels == IMAGE).any()
    differ = [not torch.equal(a, b) for a, b in zip(one.boundaries, other.boundaries, strict=True)]
    assert differ == [layer >= first for layer in range(len(adapter.blocks()) + 1)]


READS_STATES = {
    "mllama": ("model.language_model", "cross_attention_states"),
    "idefics": ("model.gated_cross_attn_layers.0", "image_hidden_states"),
    "pix2struct": ("decoder", "encoder_hidden_states"),
    "donut": ("decoder", "encoder_hidden_states"),
}


@pytest.mark.parametrize("family", CROSS_ATTENTION)
def test_the_projector_tap_is_what_the_text_attends_to(family, tiny_adapter):
    adapter = tiny_adapter(family)
    path, name = READS_STATES[family]
    tapped = adapter.tapped("projector")
    for example in PICTURE_QUESTIONS:
        probe = capture(tapped, (example,))
        run = functools.partial(adapter.forward, adapter.encode([example]), logits=False)
        states = argument_given_to(adapter.model, path, name, run)
        (watched,) = probe.boundaries
        assert torch.equal(watched, states.reshape(1, -1, 32))
        assert (probe.labels == IMAGE).all()  # all of it depends on the picture: the tower attends to what fills up too
        # 4 tiles of 4 × 4 patches and a class token; 4 latents; 2048 patches; 16 × 8 patches merged 2 × 2
        assert probe.labels.shape == (1, {"mllama": 4 * 17, "idefics": 4, "pix2struct": 2048, "donut": 8 * 4}[family])


# (image, structure) of what enters the tower, for the 60 × 40 and the 40 × 80 picture.
IN_THE_TOWER = {
    # 4 tiles of 16 patches, a class token and 7 to fill up: 60 × 40 pixels as they are on 2 × 2 tiles, 8 × 5 patches;
    # 40 × 80 shrunk to 32 × 64 on 1 × 2 tiles, 4 × 8 patches
    "mllama": [(40, 4 * 24 - 40), (32, 4 * 24 - 32)],
    "idefics": [(16, 1), (16, 1)],
    # of patches of 4 × 4 pixels there are 15 × 10 and 10 × 20, and 2048 allow √(2048 / 150) = 3.695 and 3.2 times as
    # many in a row and in a column: 55.4 × 36.95 and 32 × 64
    "pix2struct": [(55 * 36, 2048 - 55 * 36), (32 * 64, 0)],
}


@pytest.mark.parametrize("family", IN_THE_TOWER)
def test_the_vision_tap_tells_patches_from_what_fills_up(family, tiny_adapter):
    tapped = tiny_adapter(family).tapped("vision")
    seen = [final_labels(tapped, [example])[0] for example in PICTURE_QUESTIONS]
    assert [(int((row == IMAGE).sum()), int((row == STRUCTURE).sum())) for row in seen] == IN_THE_TOWER[family]


def test_mllama_without_a_picture_leaves_out_its_cross_attention(tiny_adapter):
    adapter = tiny_adapter("mllama")
    assert adapter.optional_blocks() == {1, 3}
    report = check(adapter, TEXT_QUESTIONS)
    assert report.passed, str(report)
    assert {c.name for c in report.checks if c.status == "skipped"} == {"labels agree with what the media change"}
    ran = []
    handles = [
        block.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
        for layer, block in enumerate(adapter.blocks())
    ]
    try:
        text = capture(adapter, TEXT_QUESTIONS)
        assert ran == [0, 2, 4]
        ran.clear()
        seen = capture(adapter, PICTURE_QUESTIONS)
        assert ran == [0, 1, 2, 3, 4]
    finally:
        for handle in handles:
            handle.remove()
    unchanged = [[torch.equal(a, b) for a, b in pairwise(probe.boundaries)] for probe in (text, seen)]
    assert unchanged == [[False, True, False, True, False], [False] * 5]


def test_mllama_takes_batches_of_equal_numbers_of_pictures(tiny_adapter):
    """Text that may see no picture attends to all that the batch has, the zeros that fill it up too."""
    adapter = tiny_adapter("mllama")
    two = (question("two", WIDE, TALL), question("also two", TALL, WIDE, text="Which of the two is it?"))
    report = check(adapter, two)
    assert report.passed, str(report)
    for mixed in ((question("none"), question("one", TALL)), (two[0], question("one", TALL))):
        with pytest.raises(AdapterError, match=r"cannot mix prompts .*batch_size 1"):
            adapter.encode(mixed)


def test_mllama_lets_text_attend_to_the_tiles_of_its_picture(tiny_adapter):
    batch = tiny_adapter("mllama").encode(PICTURE_QUESTIONS)
    mask = batch.inputs["cross_attention_mask"][:, :, 0]  # (B, S, tiles)
    for row, (length, tiles) in enumerate(zip(batch.lengths(), (4, 2), strict=True)):
        (start,) = np.flatnonzero(batch.labels[row] == STRUCTURE)
        assert (mask[row, :start] == 0).all()
        assert mask[row, start:length].sum(dim=-1).tolist() == [tiles] * (length - start)


@pytest.mark.parametrize("family", ["idefics", "t5gemma2", "chameleon"])
def test_rows_with_no_one_and_two_pictures_share_a_batch(family, tiny_adapter):
    mixed = (question("none"), question("one", TALL), question("two", WIDE, TALL))
    report = check(tiny_adapter(family), mixed)
    assert report.passed, str(report)


def test_idefics_keeps_the_place_of_a_picture_in_the_text(tiny_adapter):
    adapter = tiny_adapter("idefics")
    example = Example("between", f"Before{IMAGE_PLACEHOLDER}after", images=(WIDE,))
    batch = adapter.encode([example])
    shown = adapter.tokenizer.decode(batch.tokens[0])
    assert shown == "<s>Before<fake_token_around_image><image><fake_token_around_image>after"
    mask = batch.inputs["image_attention_mask"][0, :, 0]  # from the picture on the text sees it
    assert mask.tolist() == [0] * 8 + [1] * (len(batch.tokens[0]) - 8)  # <s>, six letters, the mark before


@pytest.mark.parametrize("family", ["florence2", "kosmos_2", "pix2struct", "donut"])
def test_rows_without_a_picture_are_refused_where_model_or_processor_need_one(family, tiny_adapter):
    with pytest.raises(AdapterError, match="no prompt without a picture"):
        tiny_adapter(family).encode(TEXT_QUESTIONS)


@pytest.mark.parametrize("family", ["florence2", "git", "kosmos_2", "pix2struct", "donut"])
def test_a_second_picture_is_refused_where_a_prompt_has_place_for_one(family, tiny_adapter):
    with pytest.raises(AdapterError, match="takes one picture in a prompt and example two has 2"):
        tiny_adapter(family).encode((question("two", WIDE, TALL),))


def test_a_processor_that_makes_no_tokens_of_a_prompt_is_named(tiny, tmp_path):
    """TrOCR's gives a text back as training target alone, for its models transcribe without a prompt."""
    copy = shutil.copytree(tiny("donut"), tmp_path / "trocr")
    file = copy / "processor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "processor_class": "TrOCRProcessor"}))
    adapter = HFAdapter.load({"pretrained": str(copy)}, device="cpu")
    with pytest.raises(AdapterError, match="TrOCRProcessor makes no tokens of a prompt"):
        adapter.encode(PICTURE_QUESTIONS)


def test_git_without_a_picture_is_a_language_model(tiny_adapter):
    adapter = tiny_adapter("git")
    report = check(adapter, TEXT_QUESTIONS)
    assert report.passed, str(report)
    with pytest.raises(AdapterError, match="cannot mix prompts"):
        adapter.encode((question("none"), question("one", TALL)))


@pytest.mark.parametrize("family", ENCODER_DECODER)
def test_the_encoder_is_the_stream_and_the_decoder_answers(family, tiny_adapter):
    adapter = tiny_adapter(family)
    path = {"florence2": "model.language_model.encoder.layers", "t5gemma2": "model.encoder.text_model.layers"}[family]
    assert adapter.blocks() == list(adapter.model.get_submodule(path))
    # BART answers begin </s><s>: generate() forces the second (forced_bos_token_id); Gemma's begin <s>
    start = {"florence2": ["</s>", "<s>"], "t5gemma2": ["<s>"]}[family]
    answer = torch.tensor([adapter.tokenizer.convert_tokens_to_ids(start)])
    norm = getattr(adapter.model.get_submodule(path.removesuffix(".layers")), "norm", None)  # BART's has none
    together = capture(adapter, PICTURE_QUESTIONS)
    for row, example in enumerate(PICTURE_QUESTIONS):
        assert {IMAGE, TEXT} <= set(together.labels[row].tolist())
        inputs = direct(adapter, example)
        with torch.inference_mode():
            output = adapter.model(**inputs, decoder_input_ids=answer, use_cache=False)
        torch.testing.assert_close(together.logits[row], output.logits[0, -1].float(), atol=1e-5, rtol=0)
        alone = capture(adapter, (example,))
        assert alone.batch.tokens[0].tolist() == inputs["input_ids"][0].tolist()
        with torch.inference_mode():
            last = norm(alone.boundaries[-1]) if norm else alone.boundaries[-1]
        torch.testing.assert_close(last, output.encoder_last_hidden_state, atol=1e-5, rtol=0)


def test_git_puts_the_picture_first_and_answers_after_the_text(tiny_adapter):
    adapter = tiny_adapter("git")
    probe = capture(adapter, PICTURE_QUESTIONS)
    assert (probe.labels[:, :17] == IMAGE).all()
    assert not (probe.labels[:, 17:] == IMAGE).any()
    for row, example in enumerate(PICTURE_QUESTIONS):
        with torch.inference_mode():
            logits = adapter.model(**direct(adapter, example), use_cache=False).logits[0]
        assert len(logits) == probe.batch.lengths()[row]
        torch.testing.assert_close(probe.logits[row], logits[-1].float(), atol=1e-5, rtol=0)


def test_kosmos_2_has_its_latents_where_the_processor_says(tiny_adapter):
    adapter = tiny_adapter("kosmos_2")
    probe = capture(adapter, PICTURE_QUESTIONS)
    marked = probe.batch.inputs["image_embeds_position_mask"].numpy() == 1
    assert np.array_equal(probe.labels == IMAGE, marked)
    for row, tokens in enumerate(probe.batch.tokens):
        assert adapter.tokenizer.convert_ids_to_tokens(tokens[[0, 1, 66]].tolist()) == ["<s>", "<image>", "</image>"]
        assert np.flatnonzero(probe.labels[row] == STRUCTURE).tolist() == [1, 66]


def test_chameleon_has_codes_of_its_vocabulary_where_the_picture_stands(tiny_adapter):
    adapter = tiny_adapter("chameleon")
    (example,) = PICTURE_QUESTIONS[:1]
    probe = capture(adapter, (example,))
    codes = [index for token, index in adapter.tokenizer.get_vocab().items() if token.startswith("IMGIMG")]
    assert len(codes) == 16
    table = adapter.model.get_input_embeddings().weight[codes]
    at = probe.boundaries[0][0, torch.from_numpy(probe.labels[0] == IMAGE)]
    assert (at[:, None] == table[None]).all(dim=-1).any(dim=1).all()
    placeholder = adapter.model.get_input_embeddings().weight[adapter.processor.image_token_id]
    assert not (at == placeholder).all(dim=-1).any()


@pytest.mark.parametrize("family", [*CROSS_ATTENTION, "git", *ENCODER_DECODER])
def test_letters_from_one_pass_equal_scoring_each_choice_alone(family, tiny_adapter):
    adapter = tiny_adapter(family)
    probe = capture(adapter, PICTURE_QUESTIONS)
    start = {"florence2": ["</s>", "<s>"], "t5gemma2": ["<s>"]}.get(family, [])
    for row, example in enumerate(PICTURE_QUESTIONS):
        ids = adapter.choice_token_ids(probe.batch.prompts[row], example.choices)
        one_pass = probe.logits[row].log_softmax(-1)[ids]
        for choice, token, expected in zip(example.choices, ids, one_pass, strict=True):
            assert adapter.tokenizer.decode([token]).strip() == choice
            if start:  # the letter goes to the decoder, which has read nothing else
                answer = torch.tensor([[*adapter.tokenizer.convert_tokens_to_ids(start), token]])
                inputs = {**direct(adapter, example), "decoder_input_ids": answer}
            else:
                inputs = direct(adapter, example, answer=choice if family == "mllama" else f" {choice}")
                answer = inputs["decoder_input_ids" if "decoder_input_ids" in inputs else "input_ids"]
            assert answer[0, -1] == token
            with torch.inference_mode():
                logits = adapter.model(**inputs, use_cache=False).logits[0].float()
            torch.testing.assert_close(logits[-2].log_softmax(-1)[token], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["mllama", "pix2struct"])
def test_a_picture_that_does_not_reach_the_text_is_no_cross_attention(name, tiny):
    class Blind(HFAdapter):
        def process(self, text, **options):
            encoded = dict(super().process(text, **options))
            shown = "flattened_patches" if name == "pix2struct" else "pixel_values"
            return {**encoded, shown: torch.ones_like(encoded[shown])}

    report = check(Blind.load({"pretrained": str(tiny(name))}, device="cpu"))
    (follows,) = (c for c in report.checks if c.name == "labels agree with what the media change")
    assert follows.status == "failed" and follows.seen.endswith("other media change the stream nowhere")
