"""Tiny models that hear: real processors, encoders of 16 mel bins and at most two seconds, prompts as published."""

from __future__ import annotations

import base64
from typing import Any

import transformers as hf

from tests.tiny.chat import chat, chatml
from tests.tiny.families import qwen_pictures, without_video
from tests.tiny.models import tiny_model
from tests.tiny.shrink import HIDDEN
from tests.tiny.tokenizer import byte_tokenizer

MEL_BINS = 16
SECONDS = 2
"""What a Whisper encoder hears at a time; published ones hear 30 seconds."""

_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"


def _whisper_features() -> Any:
    return hf.WhisperFeatureExtractor(feature_size=MEL_BINS, chunk_length=SECONDS)


def qwen2_audio() -> tuple[Any, Any]:
    # published tokenizers know these marks as special tokens alone, not by name
    tokenizer = byte_tokenizer("<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>", bos=False)
    overrides = {
        "audio_token_index": tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
        "audio_config.max_source_positions": 50 * SECONDS,
    }
    processor = hf.Qwen2AudioProcessor(_whisper_features(), tokenizer)  # writes its own chat template
    return tiny_model("qwen2_audio", tokenizer, **overrides), processor


def qwen2_5_omni() -> tuple[Any, Any]:
    tokenizer = byte_tokenizer(
        "<|im_start|>",
        "<|im_end|>",
        bos=False,
        image_token="<|IMAGE|>",
        audio_token="<|AUDIO|>",
        video_token="<|VIDEO|>",
        vision_bos_token="<|vision_bos|>",
        vision_eos_token="<|vision_eos|>",
        audio_bos_token="<|audio_bos|>",
        audio_eos_token="<|audio_eos|>",
    )
    overrides = {
        "thinker_config.audio_start_token_id": tokenizer.audio_bos_token_id,
        "thinker_config.audio_end_token_id": tokenizer.audio_eos_token_id,
        "thinker_config.vision_start_token_id": tokenizer.vision_bos_token_id,
        "thinker_config.vision_end_token_id": tokenizer.vision_eos_token_id,
    }
    media = {
        "image": "<|vision_bos|><|IMAGE|><|vision_eos|>",
        "video": "<|vision_bos|><|VIDEO|><|vision_eos|>",
        "audio": "<|audio_bos|><|AUDIO|><|audio_eos|>",
    }
    return tiny_model("qwen2_5_omni", tokenizer, **overrides), without_video(
        hf.Qwen2_5OmniProcessor,
        image_processor=qwen_pictures(),
        feature_extractor=_whisper_features(),
        tokenizer=tokenizer,
        chat_template=chatml(media, before=_SYSTEM),
    )


def gemma4() -> tuple[Any, Any]:
    tokenizer = byte_tokenizer(
        "<|turn>",
        "<turn|>",
        image_token="<|image|>",
        boi_token="<|image>",
        eoi_token="<image|>",
        audio_token="<|audio|>",
        boa_token="<|audio>",
        eoa_token="<audio|>",
        video_token="<|video|>",
    )
    overrides = {
        "text_config.vocab_size_per_layer_input": len(tokenizer),
        "vision_config.position_embedding_size": 64,
    }
    template = chat(
        {"image": "<|image|>", "video": "<|video|>", "audio": "<|audio|>"},
        turn="{{ '<|turn>' + m.role + '\\n' }}",
        after="<turn|>\n",
        ask="<|turn>model\n",
        before="{{ bos_token }}",
    )
    return tiny_model("gemma4", tokenizer, **overrides), without_video(
        hf.Gemma4Processor,
        feature_extractor=hf.Gemma4AudioFeatureExtractor(feature_size=MEL_BINS),
        image_processor=hf.Gemma4ImageProcessorPil(patch_size=8, pooling_kernel_size=2, max_soft_tokens=70),
        tokenizer=tokenizer,
        chat_template=template,
        image_seq_length=70,
    )


def phi4_multimodal() -> tuple[Any, Any]:
    tokenizer = byte_tokenizer("<|user|>", "<|assistant|>", "<|end|>", image_token="<|image|>", audio_token="<|audio|>")
    overrides = {
        # its processor writes 256 positions for the whole picture whatever its size: 32 × 32 patches, as published
        "vision_config.image_size": 256,
        "vision_config.crop_size": 256,
        "vision_config.image_token_id": tokenizer.image_token_id,
        "audio_config.audio_token_id": tokenizer.audio_token_id,
    }
    template = chat(
        {"image": "<|image|>", "audio": "<|audio|>"},
        turn="{{ '<|' + m.role + '|>' }}",
        after="<|end|>",
        ask="<|assistant|>",
    )
    return tiny_model("phi4_multimodal", tokenizer, **overrides), hf.Phi4MultimodalProcessor(
        hf.Phi4MultimodalImageProcessor(size={"height": 256, "width": 256}, patch_size=8, dynamic_hd=4),
        hf.Phi4MultimodalFeatureExtractor(feature_size=MEL_BINS),
        tokenizer,
        chat_template=template,
    )


_TEKKEN_MARKS = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"]
_TEKKEN_MARKS += ["[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]"]
_TEKKEN_MARKS += ["[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"]
_TEKKEN_MARKS += [f"<SPECIAL_{rank}>" for rank in range(len(_TEKKEN_MARKS), 100)]
_TEKKEN_MARKS[24:26] = ["[AUDIO]", "[BEGIN_AUDIO]"]
_TEKKEN_MARKS[32:35] = ["[ARGS]", "[CALL_ID]", "[TRANSCRIBE]"]


def voxtral() -> tuple[Any, Any]:
    """With the feature extractor alone: a published checkpoint has Mistral's tokenizer file, see :func:`tekken`.

    It hears windows of 30 seconds, because its processor does not take them from the checkpoint.
    """
    ranks = {mark: rank for rank, mark in enumerate(_TEKKEN_MARKS)}
    overrides = {
        "text_config.vocab_size": len(tekken()["special_tokens"]) + len(tekken()["vocab"]),
        "text_config.bos_token_id": ranks["<s>"],
        "text_config.eos_token_id": ranks["</s>"],
        "text_config.pad_token_id": ranks["<pad>"],
        "audio_config.max_source_positions": 1500,
        "audio_config.intermediate_size": 4 * HIDDEN,
        "audio_token_id": ranks["[AUDIO]"],
    }
    extractor = hf.WhisperFeatureExtractor(feature_size=MEL_BINS, processor_class="VoxtralProcessor")
    return tiny_model("voxtral", byte_tokenizer(), **overrides), extractor


def tekken() -> dict[str, Any]:
    """The content of Mistral's ``tekken.json``: marks by their published numbers, bytes, blank + capital letter."""
    words = [bytes([byte]) for byte in range(256)] + [b" " + bytes([byte]) for byte in range(ord("A"), ord("Z") + 1)]
    return {
        "config": {
            "pattern": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s+",
            "num_vocab_tokens": len(words),
            "default_vocab_size": len(words) + 100,
            "default_num_special_tokens": 100,
            "version": "v11",
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(word).decode(), "token_str": word.decode("latin-1")}
            for rank, word in enumerate(words)
        ],
        "special_tokens": [
            {"rank": rank, "token_str": mark, "is_control": True} for rank, mark in enumerate(_TEKKEN_MARKS)
        ],
        "audio": {
            "sampling_rate": 16000,
            "frame_rate": 12.5,
            "chunk_length_s": 30.0,
            "audio_encoding_config": {"num_mel_bins": MEL_BINS, "hop_length": 160, "window_size": 400},
        },
    }
