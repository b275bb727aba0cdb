"""Tiny models that hear: real processors, encoders of 16 mel bins and at most two seconds, prompts as published."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import transformers as hf

from tests.tiny import families
from tests.tiny.families import HIDDEN, LAYERS
from tests.tiny.tokenizer import byte_tokenizer

MEL_BINS = 16
SECONDS = 2
"""What a Whisper encoder hears at a time; published ones hear 30 seconds."""

_ASK_CHATML = "<|im_start|>assistant\n"
_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"


def chat(media: Mapping[str, str], turn: str, after: str, ask: str, before: str = "") -> str:
    """A chat template that writes the given text for a part of each kind."""
    branches = "".join(f"{{% elif part.type == {kind!r} %}}{text}" for kind, text in media.items())
    part = f"{{% if part.type == 'text' %}}{{{{ part.text }}}}{branches}{{% endif %}}"
    parts = f"{{% for part in m.content %}}{part}{{% endfor %}}"
    return (
        f"{before}{{% for m in messages %}}{turn}{parts}{{{{ {after!r} }}}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ {ask!r} }}}}{{% endif %}}"
    )


def chatml(media: Mapping[str, str], before: str = "") -> str:
    """The turns of Qwen and its kin."""
    start = "{{ '<|im_start|>' + m.role + '\\n' }}"
    return chat(media, start, "<|im_end|>\n", _ASK_CHATML, f"{{{{ {before!r} }}}}" if before else "")


def _whisper_encoder(config: type[Any], **extra: Any) -> Any:
    return config(
        num_mel_bins=MEL_BINS,
        encoder_layers=2,
        encoder_attention_heads=4,
        encoder_ffn_dim=64,
        d_model=HIDDEN,
        **extra,
    )


def _whisper_features() -> Any:
    return hf.WhisperFeatureExtractor(feature_size=MEL_BINS, chunk_length=SECONDS)


def without_video(kind: type[Any], **parts: Any) -> Any:
    """A processor of this class without its video half, though the class sets itself up with all of them."""
    every = list(kind.get_attributes())
    rest = [name for name in every if name != "video_processor"]

    class Built(kind):  # type: ignore[misc]
        names = every

        @classmethod
        def get_attributes(cls) -> list[str]:
            return list(cls.names)

        def check_argument_for_proper_class(self, name: str, argument: Any) -> Any:
            return None if argument is None else super().check_argument_for_proper_class(name, argument)

    Built.__name__ = kind.__name__
    processor = Built(video_processor=None, **parts)
    del processor.video_processor
    Built.names = rest
    return processor


def qwen2_audio() -> tuple[Any, Any]:
    # published tokenizers know these marks as special tokens alone, not by name
    tokenizer = byte_tokenizer("<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>", bos=False)
    config = hf.Qwen2AudioConfig(
        text_config=families._text(hf.Qwen2Config, tokenizer).to_dict(),
        audio_config=_whisper_encoder(hf.Qwen2AudioEncoderConfig, max_source_positions=50 * SECONDS).to_dict(),
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    processor = hf.Qwen2AudioProcessor(_whisper_features(), tokenizer)  # writes its own chat template
    return hf.Qwen2AudioForConditionalGeneration(config), processor


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
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    tower = families._tower(out_hidden_size=HIDDEN, patch_size=8, window_size=32, fullatt_block_indexes=[1])
    thinker = {
        "text_config": families._text(hf.Qwen2_5OmniTextConfig, tokenizer, rope_parameters=rope).to_dict(),
        "vision_config": families._qwen_tower(tower),
        "audio_config": _whisper_encoder(hf.Qwen2_5OmniAudioEncoderConfig, output_dim=HIDDEN).to_dict(),
        "image_token_index": tokenizer.image_token_id,
        "audio_token_index": tokenizer.audio_token_id,
        "video_token_index": tokenizer.video_token_id,
        "audio_start_token_id": tokenizer.audio_bos_token_id,
        "audio_end_token_id": tokenizer.audio_eos_token_id,
        "vision_start_token_id": tokenizer.vision_bos_token_id,
        "vision_end_token_id": tokenizer.vision_eos_token_id,
    }
    config = hf.Qwen2_5OmniConfig(thinker_config=thinker, enable_audio_output=False)
    media = {
        "image": "<|vision_bos|><|IMAGE|><|vision_eos|>",
        "video": "<|vision_bos|><|VIDEO|><|vision_eos|>",
        "audio": "<|audio_bos|><|AUDIO|><|audio_eos|>",
    }
    processor = without_video(
        hf.Qwen2_5OmniProcessor,
        image_processor=_qwen_pictures(),
        feature_extractor=_whisper_features(),
        tokenizer=tokenizer,
        chat_template=chatml(media, before=_SYSTEM),
    )
    return hf.Qwen2_5OmniForConditionalGeneration(config), processor


def _qwen_pictures() -> Any:
    return hf.Qwen2VLImageProcessorPil(patch_size=8, merge_size=2, size={"shortest_edge": 256, "longest_edge": 4096})


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
    text = families._text(
        hf.Gemma4TextConfig,
        tokenizer,
        layer_types=[*["sliding_attention"] * 3, "full_attention"],
        head_dim=8,
        per_layer_config={3: {"head_dim": 16}},
        sliding_window=128,
        vocab_size_per_layer_input=len(tokenizer),
        hidden_size_per_layer_input=8,
    )
    vision = families._tower(
        num_key_value_heads=2, head_dim=8, patch_size=8, pooling_kernel_size=2, position_embedding_size=64
    )
    sound = families._tower(subsampling_conv_channels=[16, 8], output_proj_dims=HIDDEN)
    del sound["intermediate_size"]
    config = hf.Gemma4Config(
        text_config=text.to_dict(),
        vision_config=vision,
        audio_config=sound,
        boi_token_id=tokenizer.boi_token_id,
        eoi_token_id=tokenizer.eoi_token_id,
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
        boa_token_id=tokenizer.boa_token_id,
        eoa_token_index=tokenizer.eoa_token_id,
        audio_token_id=tokenizer.audio_token_id,
    )
    template = chat(
        {"image": "<|image|>", "video": "<|video|>", "audio": "<|audio|>"},
        turn="{{ '<|turn>' + m.role + '\\n' }}",
        after="<turn|>\n",
        ask="<|turn>model\n",
        before="{{ bos_token }}",
    )
    processor = without_video(
        hf.Gemma4Processor,
        feature_extractor=hf.Gemma4AudioFeatureExtractor(feature_size=MEL_BINS),
        image_processor=hf.Gemma4ImageProcessorPil(patch_size=8, pooling_kernel_size=2, max_soft_tokens=70),
        tokenizer=tokenizer,
        chat_template=template,
        image_seq_length=70,
    )
    return hf.Gemma4ForConditionalGeneration(config), processor


_TEKKEN_MARKS = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"]
_TEKKEN_MARKS += ["[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]"]
_TEKKEN_MARKS += ["[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"]
_TEKKEN_MARKS += [f"<SPECIAL_{rank}>" for rank in range(len(_TEKKEN_MARKS), 100)]
_TEKKEN_MARKS[24:26] = ["[AUDIO]", "[BEGIN_AUDIO]"]
_TEKKEN_MARKS[32:35] = ["[ARGS]", "[CALL_ID]", "[TRANSCRIBE]"]


def voxtral() -> tuple[Any, Any]:
    """With the feature extractor alone: a published checkpoint has Mistral's tokenizer file, see :func:`_tekken`.

    It hears windows of 30 seconds, because its processor does not take them from the checkpoint.
    """
    sound = families._tower(num_mel_bins=MEL_BINS, max_source_positions=1500) | {"intermediate_size": 4 * HIDDEN}
    text = hf.LlamaConfig(
        vocab_size=len(tekken()["special_tokens"]) + len(tekken()["vocab"]),
        hidden_size=HIDDEN,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=families.CONTEXT,
    )
    config = hf.VoxtralConfig(text_config=text.to_dict(), audio_config=sound, audio_token_id=24)
    extractor = hf.WhisperFeatureExtractor(feature_size=MEL_BINS, processor_class="VoxtralProcessor")
    return hf.VoxtralForConditionalGeneration(config), extractor


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
