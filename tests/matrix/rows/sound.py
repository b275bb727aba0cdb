"""Sound: an audio encoder or codec before a decoder, alone or beside pictures and video."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.matrix.media import Medium, count, each, ones, patches, pictures, sound
from tests.matrix.row import Row
from tests.tiny.shrink import stand_in_tokenizer

AUDIO_TOKEN, *MARKS = stand_in_tokenizer().convert_tokens_to_ids(["<audio>", "<mark21>", "<mark22>", "<mark23>"])
"""The stand-in's placeholder for sound and three marks that shrinking gives to nothing, for what has no default id."""

DEEPSTACK = ("boundaries equal transformers' hidden states",)
"""What ``check`` leaves out where features are added between blocks."""

WHISPER: dict[str, Any] = {"audio_config.max_source_positions": 32}
"""Whisper's encoder reads windows of one length, twice as many frames as these positions."""

GRANITE: dict[str, Any] = {"encoder_config.input_dim": 16, "projector_config.num_hidden_layers": 2}

NEMOTRON: dict[str, Any] = {
    "text_config.layers_block_type": ["linear_attention", "moe", "full_attention", "moe"],
    "text_config.mamba_num_heads": 4,
    "text_config.mamba_head_dim": 8,
    "text_config.ssm_state_size": 8,
    "text_config.n_groups": 1,
    "text_config.chunk_size": 16,
    "audio_config.diarization_config.head_config.hidden_size": 16,
    "audio_config.diarization_config.head_config.audio_hidden_size": 32,
    "word_timestamp_config.vocab_size": 32,
    "word_timestamp_config.blank_token_id": 31,
}
"""Every kind of Nemotron-H's blocks, and the diarization model that runs beside the encoder."""

PHI: dict[str, Any] = {
    "vision_config.crop_size": 32,
    "audio_config.input_size": 16,
    "audio_config.nemo_final_size": 2,
    "audio_config.nemo_conv_channels": 8,
    "audio_config.ext_pw_out_channel": 32,
    "audio_config.depthwise_separable_out_channel": 32,
}

VIBEVOICE = {
    f"{part}_tokenizer_encoder_config.{key}": value
    for part in ("acoustic", "semantic")
    for key, value in (("num_filters", 2), ("downsampling_ratios", [2, 4]), ("depths", [1, 1, 2]))
}
"""The two convolutional codecs, 8 samples to a position."""

OMNI: dict[str, Any] = {
    "text_config.rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
    "vision_start_token_id": MARKS[0],
    "vision_end_token_id": MARKS[1],
}
"""Qwen's thinkers; only their checkpoints name the marks, their configuration classes do not."""
OMNI_2 = OMNI | {"vision_config.fullatt_block_indexes": [1]}
OMNI_3 = OMNI | {
    "audio_end_token_id": MARKS[2],
    "audio_config.downsample_hidden_size": 8,
    "vision_config.deepstack_visual_indexes": [0, 1],
    "vision_config.num_position_embeddings": 16,
}


def thinker(config: dict[str, Any]) -> dict[str, Any]:
    """The same of the omni model whose thinker it is; its talker, which no prompt reaches, is not built."""
    return {"enable_audio_output": False, **{f"thinker_config.{path}": value for path, value in config.items()}}


def sizes(tokens: int) -> Callable[[Any], torch.Tensor]:
    """Makes a vector that holds the positions of each medium."""
    return lambda batch: torch.full((count(batch),), tokens)


def omni(tokens: int, frames: int) -> dict[str, Medium]:
    """The three media of Qwen's thinkers, each between its marks."""
    vision, names = ("vision_start_token_id", "vision_end_token_id"), ("pixel_values_videos", "video_grid_thw")
    speech = ("audio_start_token_id", "audio_end_token_id")
    return {
        "image": patches(frame=vision),
        "video": patches((2, 4, 4), names=names, frame=vision, video_second_per_grid=ones(dtype=torch.float)),
        "audio": sound(tokens, (16, frames), frame=speech, feature_attention_mask=ones(frames)),
    }


def masked(tokens: int, *shape: int, length: int, name: str = "input_features_mask", **more: Any) -> dict[str, Medium]:
    """Sound of this shape beside a mask of this length."""
    more[name] = ones(length)
    return {"audio": sound(tokens, shape, **more)}


def granite() -> dict[str, Medium]:
    """Two windows of 15 frames, three queries each, and a mask of positions, not of frames."""
    return {"audio": sound(6, (30, 16), input_features_mask=ones(6, dtype=torch.bool))}


def vibevoice() -> dict[str, Medium]:
    """A waveform between marks."""
    marks, real = ("audio_bos_token_id", "audio_eos_token_id"), ones(64, dtype=torch.bool)
    return {"audio": sound(8, (1, 64), name="input_values", frame=marks, padding_mask=real)}


def phi() -> dict[str, Medium]:
    """A picture as a whole and in one crop, four positions each, and five learned ones; sound beside its length."""
    crops: dict[str, Any] = {"n": 2, "image_sizes": each(32, 32), "image_attention_mask": ones(2, 4, 4)}
    speech: dict[str, Any] = {"audio_attention_mask": ones(64), "audio_embed_sizes": sizes(8)}
    return {
        "image": pictures(13, name="image_pixel_values", per_example=True, **crops),
        "audio": sound(8, (64, 16), name="audio_input_features", **speech),
    }


ROWS = [
    Row(
        "fun_asr_nano",
        masked(8, 8, 28, length=8),
        {
            "audio_config.num_mel_bins": 4,
            "audio_config.num_timestamp_prediction_layers": 1,
            "adaptor_config.num_hidden_layers": 2,
            "adaptor_config.intermediate_size": 8,
        },
    ),
    Row("glmasr", masked(8, 16, 64, length=64), {"audio_config.intermediate_size": 128}),
    Row("granite_speech", granite(), GRANITE),
    Row(
        "granite_speech_plus",
        granite(),
        GRANITE | {"encoder_config.cat_hidden_layers": [1], "projector_config.encoder_hidden_size": 64},
    ),
    Row("kyutai_speech_to_text", unsupported="takes no prompt"),
    Row("moss_transcribe_diarize", masked(8, 16, 64, length=64, padding_mask=ones(64)), WHISPER),
    Row("nemo_speechlm", masked(8, 64, 16, length=64), NEMOTRON),
    Row(
        "phi4_multimodal",
        phi(),
        PHI,
        skips=("a batch equals its examples one by one", "a batch equals its examples one by one (audio)"),
    ),
    Row("qwen2_5_omni", omni(16, 64), thinker(OMNI_2)),
    Row("qwen2_5_omni_thinker", omni(16, 64), OMNI_2),
    Row("qwen2_audio", masked(16, 16, 64, length=64, name="feature_attention_mask"), WHISPER),
    Row("qwen3_asr", masked(13, 16, 100, length=100), {"audio_config.downsample_hidden_size": 8}),
    Row("qwen3_omni_moe", omni(13, 100), thinker(OMNI_3), skips=DEEPSTACK),
    Row("qwen3_omni_moe_thinker", omni(13, 100), OMNI_3, skips=DEEPSTACK),
    Row("vibevoice_asr", vibevoice(), VIBEVOICE),
    Row(
        "voxtral",
        {"audio": sound(8, (16, 64))},
        WHISPER | {"audio_config.intermediate_size": 128, "audio_token_id": AUDIO_TOKEN},
    ),
    Row("voxtral_realtime", unsupported="takes no prompt"),
]
