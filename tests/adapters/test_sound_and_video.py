"""The generic adapter on tiny checkpoints that hear or watch, by their own processors.

Without torchvision processors come without their video half; then the tests of videos are skipped.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file

from microscope_bench.adapters.base import AUDIO, IMAGE, STRUCTURE, VIDEO
from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.check import check
from microscope_bench.check.captured_pass import capture, distance, rows
from microscope_bench.errors import AdapterError, ExampleError
from microscope_bench.example import Audio, Example
from tests.adapters.media_cases import (
    BRIEF,
    EXPECTED,
    IDENTITY,
    LENGTHY,
    LONG,
    OF,
    RATE,
    SHORT,
    SKIPPED,
    SYSTEM,
    WATCHES,
    having,
    label_counts,
    marked,
    media_of,
    recording,
    with_video,
)
from tests.tiny.checkpoints import SOUND_AND_VIDEO
from tests.tiny.questions import TALL, WIDE, question
from tests.tiny.tokenizer import byte_tokenizer


@pytest.mark.parametrize("family", marked(SOUND_AND_VIDEO))
def test_contract(family, tiny_adapter):
    adapter = tiny_adapter(family)
    report = check(adapter)
    assert report.passed, str(report)
    assert {c.name for c in report.checks if c.status == "skipped"} == SKIPPED.get(family, set())
    # each further modality is checked apart
    again = {c.name.rpartition(" (")[2].rstrip(")") for c in report.checks if c.name.endswith(")")}
    taken = [modality for modality in ("image", "video", "audio") if modality in adapter.modalities]
    assert again == set(taken[1:])


@pytest.mark.parametrize("family", marked(SOUND_AND_VIDEO))
def test_modalities_and_identity(family, tiny_adapter):
    adapter = tiny_adapter(family)
    with_all = {"text", *EXPECTED[family]}
    assert adapter.modalities == (with_all if WATCHES else with_all - {"video"})
    processor, images = IDENTITY[family]
    deaf = "WithoutVideo" if "video" in with_all and not WATCHES else ""
    assert adapter.processing.processor == processor + deaf
    assert adapter.processing.image_processor == (images if images is None or WATCHES else f"{images}Pil")
    assert adapter.info.adapter == "hf" and adapter.info.hidden_size == 32 and len(adapter.blocks()) == 4
    assert adapter.processing.chat_template_sha256 is not None


@pytest.mark.parametrize("family", marked(having("image")))
def test_positions_of_pictures(family, tiny_adapter):
    assert label_counts(tiny_adapter(family), OF["image"], IMAGE, STRUCTURE) == EXPECTED[family]["image"]


@pytest.mark.parametrize("family", marked(having("audio")))
def test_positions_of_sound(family, tiny_adapter):
    assert label_counts(tiny_adapter(family), OF["audio"], AUDIO, STRUCTURE) == EXPECTED[family]["audio"]


@with_video
@pytest.mark.parametrize("family", marked(having("video")))
def test_every_frame_of_a_video_is_seen(family, tiny_adapter):
    """The checkpoints configure a choice of two frames; the task's own choice of frames stands."""
    adapter = tiny_adapter(family)
    assert adapter.processor.video_processor.do_sample_frames
    counts = [label_counts(adapter, [example], VIDEO, STRUCTURE)[0] for example in OF["video"]]
    assert counts == EXPECTED[family]["video"]


@with_video
@pytest.mark.parametrize("family", marked(["qwen2_vl", "qwen3_vl", "qwen2_5_omni", "gemma4"]))
def test_videos_of_different_length_share_a_batch(family, tiny_adapter):
    adapter = tiny_adapter(family)
    assert label_counts(adapter, OF["video"], VIDEO, STRUCTURE) == EXPECTED[family]["video"]
    assert_alone_as_together(adapter, OF["video"])


@with_video
@pytest.mark.parametrize("family", ["llava_next_video", "llava_onevision", "internvl"])
def test_videos_of_different_length_are_refused_where_the_processor_stacks_them(family, tiny_adapter):
    adapter = tiny_adapter(family)
    with pytest.raises(AdapterError, match=r"one by one but not together .*Use --batch_size 1"):
        adapter.encode(OF["video"])
    cut = question("cut", videos=(LENGTHY[:2],), text="Which of the two is it?")
    assert_alone_as_together(adapter, (OF["video"][0], cut))


@with_video
@pytest.mark.parametrize("family", marked(["smolvlm"]))
def test_a_video_does_not_tell_how_long_its_neighbour_is(family, tiny_adapter):
    """This processor writes the number of frames of the batch's longest video into every prompt."""
    assert tiny_adapter(family).max_batch == 1


@pytest.mark.parametrize("family", ["qwen2_audio", "voxtral", "qwen2_5_omni", "gemma4"])
def test_sounds_of_different_length_share_a_batch(family, tiny_adapter):
    assert_alone_as_together(tiny_adapter(family), OF["audio"])


@pytest.mark.parametrize("family", marked(["phi4_multimodal"]))
def test_sounds_are_heard_alone_where_the_encoder_attends_to_padding(family, tiny_adapter):
    adapter = tiny_adapter(family)
    assert adapter.max_batch == 1
    alone, together = (capture(adapter, examples) for examples in (OF["audio"][1:], OF["audio"]))
    moved = distance(
        rows(together.boundaries[0][1], together.labels[1] == AUDIO),
        rows(alone.boundaries[0][0], alone.labels[0] == AUDIO),
    )
    assert moved > 1e-3  # once this fails, the override can go


@pytest.mark.parametrize("family", marked(having("audio")))
def test_rows_with_no_one_and_two_sounds(family, tiny_adapter):
    adapter = tiny_adapter(family)
    examples = (question("none"), question("one", audios=(SHORT,)), question("two", audios=(LONG, SHORT)))
    long, short = (count for count, _ in EXPECTED[family]["audio"])
    assert label_counts(adapter, examples, AUDIO) == [(0,), (short,), (long + short,)]
    if adapter.max_batch is None:
        assert_alone_as_together(adapter, examples)


@pytest.mark.parametrize("family", marked(having("audio")))
def test_sound_of_another_rate_is_refused(family, tiny_adapter):
    examples = (OF["audio"][0], question("slow", audios=(recording(1, rate=8000),)))
    with pytest.raises(ExampleError, match=rf"slow: its sound has 8000 samples per second and {family} takes 16000"):
        tiny_adapter(family).encode(examples)


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_vl"])
def test_a_model_that_does_not_hear_refuses_sound(family, tiny_adapter):
    with pytest.raises(AdapterError, match=r"has no modality audio: it takes .*Example long has sound"):
        tiny_adapter(family).encode(OF["audio"])


@pytest.mark.skipif(WATCHES, reason="torchvision is installed")
@pytest.mark.parametrize("family", ["gemma4", "qwen2_5_omni", "llava_next_video"])
def test_without_torchvision_videos_are_refused(family, tiny_adapter):
    with pytest.raises(AdapterError, match=r"has no modality video: it takes .*Example brief has a video"):
        tiny_adapter(family).encode(OF["video"])


@pytest.mark.parametrize("family", marked(["qwen2_5_omni", "gemma4", "phi4_multimodal"]))
def test_a_picture_and_sound_in_one_prompt(family, tiny_adapter, request):
    if family == "phi4_multimodal":
        reason = "where all hidden states are asked for, transformers may give its vision tower none (None.size)"
        request.applymarker(pytest.mark.xfail(reason=reason, strict=False))
    adapter = tiny_adapter(family)
    examples = (
        question("first", WIDE, audios=(LONG,)),
        question("second", TALL, audios=(SHORT,), text="Which of the two is it?"),
    )
    pictures, sounds = ([count for count, _ in EXPECTED[family][modality]] for modality in ("image", "audio"))
    assert label_counts(adapter, examples, IMAGE, VIDEO, AUDIO) == [
        (image, 0, audio) for image, audio in zip(pictures, sounds, strict=True)
    ]
    assert adapter.encode(examples[:1]).media.keys() == media_of(family, "image", "audio")
    report = check(adapter, examples)
    assert report.passed, str(report)


@with_video
@pytest.mark.parametrize("family", ["qwen2_5_omni", "gemma4"])
def test_a_picture_a_video_and_sound_in_one_prompt(family, tiny_adapter):
    adapter = tiny_adapter(family)
    examples = (
        question("first", WIDE, videos=(BRIEF,), audios=(LONG,)),
        question("second", TALL, videos=(LENGTHY,), audios=(SHORT,), text="Which of the two is it?"),
    )
    expected = [tuple(EXPECTED[family][modality][row][0] for modality in ("image", "video", "audio")) for row in (0, 1)]
    assert label_counts(adapter, examples, IMAGE, VIDEO, AUDIO) == expected
    assert adapter.encode(examples).media.keys() == media_of(family, "image", "video", "audio")
    report = check(adapter, examples)
    assert report.passed, str(report)


@with_video
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "llava_next_video", "llava_onevision"])
def test_a_picture_and_a_video_in_one_prompt(family, tiny_adapter):
    examples = (
        question("first", WIDE, videos=(BRIEF,)),
        question("second", TALL, videos=(LENGTHY[:2],), text="Which of the two is it?"),
    )
    adapter = tiny_adapter(family)
    pictures = [count for count, _ in EXPECTED[family]["image"]]
    # of the second video two frames alone: one pair of Qwen's, 4 positions each of LLaVA's
    videos = [8, 10 if "qwen" in family else 8]
    assert label_counts(adapter, examples, IMAGE, VIDEO) == list(zip(pictures, videos, strict=True))
    report = check(adapter, examples)
    assert report.passed, str(report)


@with_video
@pytest.mark.parametrize("family", marked(["internvl", "smolvlm"]))
def test_a_picture_beside_a_video_is_refused_where_frames_stand_as_pictures(family, tiny_adapter):
    with pytest.raises(AdapterError, match="turns the frames of a video into pictures, and example both has both"):
        tiny_adapter(family).encode([question("both", WIDE, videos=(BRIEF,))])


@pytest.mark.parametrize("family", marked(SOUND_AND_VIDEO))
def test_media_hold_the_media_alone(family, tiny_adapter):
    """No mask, no size, no time: only what changes with every pixel and sample."""
    adapter = tiny_adapter(family)
    for modality in adapter.modalities - {"text"}:
        (name,) = media_of(family, modality)
        first, second = OF[modality]
        again = replace(first, **{f"{modality}s": getattr(second, f"{modality}s")})
        one, other = adapter.encode([first]).media, adapter.encode([again]).media
        assert one.keys() == {name}
        assert one[name].shape != other[name].shape or not torch.equal(one[name], other[name])


@pytest.mark.parametrize("name", ["qwen2_audio", "qwen2_5_omni"])
def test_sound_that_its_processor_would_cut_is_refused(name, tiny_adapter):
    adapter = tiny_adapter(name)
    window = adapter.processor.feature_extractor.n_samples
    long = Example("long", "<audio>What?", audios=(Audio(np.zeros(window + 1, dtype=np.float32), RATE),))
    with pytest.raises(ExampleError, match=rf"example long: its sound has {window + 1} samples .* cuts it at {window}"):
        adapter.encode([long])
    fits = replace(long, audios=(Audio(np.zeros(window, dtype=np.float32), RATE),))
    assert (adapter.encode([fits]).labels == AUDIO).any()


def test_sound_longer_than_a_window_of_voxtral_is_two_windows(tiny_adapter):
    adapter = tiny_adapter("voxtral")
    examples = (question("over", audios=(recording(31),)), OF["audio"][1])
    assert label_counts(adapter, examples, AUDIO) == [(2 * 375,), (375,)]
    assert adapter.encode(examples).media["input_features"].shape == (3, 16, 3000)
    assert_alone_as_together(adapter, examples)


def test_sound_reaches_the_encoder_as_the_feature_extractor_makes_it(tiny_adapter):
    """In the order of the examples, padded to the window, not cut."""
    adapter = tiny_adapter("qwen2_audio")
    features = adapter.encode(OF["audio"]).media["input_features"]
    for row, sound in enumerate((LONG, SHORT)):
        made = adapter.processor.feature_extractor(sound.samples, sampling_rate=RATE, return_tensors="pt")
        assert torch.equal(features[row], made["input_features"][0])
    mask = adapter.encode(OF["audio"]).inputs["feature_attention_mask"]
    assert mask.sum(dim=1).tolist() == [150, 70]


@with_video
def test_frames_reach_the_encoder_in_order(tiny_adapter):
    adapter = tiny_adapter("llava_onevision")
    forward, backward = (
        adapter.encode([question("video", videos=(frames,))]).media["pixel_values_videos"]
        for frames in (LENGTHY, LENGTHY[::-1])
    )
    assert forward.shape == (1, 5, 3, 32, 32)
    assert torch.equal(forward.flip(1), backward) and not torch.equal(forward, backward)


@pytest.mark.parametrize(
    ("family", "begins", "ends"),
    [
        (
            "qwen2_audio",
            f"{SYSTEM}<|im_start|>user\nAudio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\nWhat",
            "Answer:<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "qwen2_5_omni",
            f"{SYSTEM}<|im_start|>user\n<|audio_bos|><|AUDIO|><|audio_eos|>What",
            "Answer:<|im_end|>\n<|im_start|>assistant\n",
        ),
        ("voxtral", "<s>[INST][BEGIN_AUDIO][AUDIO]What", "Answer:[/INST]"),
        ("gemma4", "<s><|turn>user\n<|audio|>What", "Answer:<turn|>\n<|turn>model\n"),
        pytest.param(
            "phi4_multimodal",
            "<|user|><|audio|>What",
            "Answer:<|end|><|assistant|>",
            marks=pytest.mark.skipif(not WATCHES, reason="its processor needs torchvision"),
        ),
    ],
)
def test_prompts_follow_the_chat_template(family, begins, ends, tiny_adapter):
    adapter = tiny_adapter(family)
    batch = adapter.encode(OF["audio"][:1])
    assert batch.prompts[0].startswith(begins) and batch.prompts[0].endswith(ends)
    bos = adapter.tokenizer.bos_token_id
    assert (batch.tokens[0] == bos).sum() == (family in ("voxtral", "gemma4", "phi4_multimodal"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "is a quantised omni model"),
        ({"microscope_bench_untrained": True}, None),
    ],
)
def test_what_the_whole_omni_model_says_of_itself_holds_for_its_part(changes, message, tiny, tmp_path):
    folder = shutil.copytree(tiny("qwen2_5_omni"), tmp_path / "omni")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    if message is None:
        assert not HFAdapter.load({"pretrained": str(folder)}, device="cpu").info.trained
        return
    with pytest.raises(AdapterError, match=message):
        HFAdapter.load({"pretrained": str(folder)}, device="cpu")


def test_of_an_omni_model_the_part_that_reads_is_loaded(tiny_adapter):
    adapter = tiny_adapter("qwen2_5_omni")
    assert adapter.info.architecture == "Qwen2_5OmniThinkerForConditionalGeneration"
    assert not [name for name, _ in adapter.model.named_modules() if "talker" in name or "token2wav" in name]


@pytest.mark.parametrize(
    ("config", "processor", "files", "package"),
    [
        (
            "GraniteSpeechConfig",
            "GraniteSpeechProcessor",
            {"preprocessor_config.json": {"feature_extractor_type": "GraniteSpeechFeatureExtractor"}},
            "torchaudio",
        ),
        (
            "SmolVLMConfig",
            "SmolVLMProcessor",
            {
                "preprocessor_config.json": {"image_processor_type": "SmolVLMImageProcessor"},
                "video_preprocessor_config.json": {"video_processor_type": "SmolVLMVideoProcessor"},
            },
            "num2words",
        ),
        (
            "Phi4MultimodalConfig",
            "Phi4MultimodalProcessor",
            {
                "preprocessor_config.json": {
                    "image_processor_type": "Phi4MultimodalImageProcessor",
                    "feature_extractor_type": "Phi4MultimodalFeatureExtractor",
                }
            },
            "torchvision",
        ),
    ],
)
def test_a_missing_package_is_named(config, processor, files, package, tmp_path):
    if find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    getattr(transformers, config)().save_pretrained(tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    byte_tokenizer(image_token="<|image|>", audio_token="<|audio|>").save_pretrained(tmp_path)
    for name, content in {**files, "processor_config.json": {}}.items():
        (tmp_path / name).write_text(json.dumps({**content, "processor_class": processor}))
    with pytest.raises(AdapterError, match=rf"needs {package}: pip install .*{package}"):
        HFAdapter.load({"pretrained": str(tmp_path)}, device="cpu")


def assert_alone_as_together(adapter, examples):
    """Each example has the labels and, but for the last bits, the states that it has alone."""
    together = capture(adapter, tuple(examples))
    assert len({len(tokens) for tokens in together.batch.tokens}) > 1  # so that something is padded
    for row, example in enumerate(examples):
        alone = capture(adapter, (example,))
        real = together.batch.labels[row] != 0
        assert np.array_equal(together.labels[row][real], alone.labels[0])
        for here, there in zip(together.boundaries, alone.boundaries, strict=True):
            assert distance(rows(here[row], real), there[0]) < 1e-4
