"""Pictures at their own resolution, packed or in pieces, and models that take pictures, videos and sound alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tests.matrix.media import Medium, Tensors, count, each, ones, patches, pictures, sound
from tests.matrix.row import Row
from tests.tiny.shrink import stand_in_tokenizer

IMAGE, VIDEO, AUDIO = stand_in_tokenizer().convert_tokens_to_ids(["<image>", "<video>", "<audio>"])
VOCABULARY = len(stand_in_tokenizer())
MARK = stand_in_tokenizer().convert_tokens_to_ids("<mark0>")

Batch = Sequence[Sequence[Any]]


def changed(medium: Medium, change: Callable[[Tensor], Tensor], name: str) -> Medium:
    """The same medium with one of its tensors brought into another form."""

    def tensors(batch: Batch) -> Tensors:
        made = medium.tensors(batch)
        return {**made, name: change(made[name])}

    return Medium(medium.tokens, tensors, medium.frame)


def packed(tokens: int, n: int, *shape: int, name: str = "pixel_values", **more: Any) -> Medium:
    """Pieces of all media one after another: (media × n, *shape)."""
    return changed(sound(tokens, (n, *shape), name=name, **more), lambda whole: whole.flatten(0, 1), name)


def strip(tokens: int, n: int, name: str = "pixel_values", **more: Any) -> Medium:
    """Patches of all media side by side in one picture: (1, 3, 8, media × n × 8)."""
    whole = sound(tokens, (3, 8, n * 8), name=name, **more)
    return changed(whole, lambda rows: rows.permute(1, 2, 0, 3).flatten(2)[None], name)


def pieces(n: int) -> Callable[[Batch], Tensor]:
    """Makes n smaller pictures of every picture: (media × n, 3, 32, 32)."""
    return lambda batch: pictures(0, n=n).tensors(batch)["pixel_values"]


def codes(tokens: int, n: int, *shape: int, name: str, **more: Any) -> Medium:
    """Sounds as whole numbers below n: (sounds, *shape)."""
    whole = sound(tokens, shape, name=name, **more)
    return changed(whole, lambda values: ((values + 1) / 2 * (n - 1)).round().long(), name)


def numbers(*values: int) -> Callable[[Batch], Tensor]:
    """Makes the given numbers for every medium, in one row."""
    return lambda batch: each(*values)(batch).flatten()


def twice(*values: int) -> Callable[[Batch], Tensor]:
    """Makes two rows of the given numbers for every medium, one for each frame."""
    return lambda batch: each(*values)(batch).repeat_interleave(2, dim=0)


def pooled(patches: int, n: int) -> Callable[[Batch], Tensor]:
    """Makes (media × patches // n, n): which of the packed patches each position pools."""
    return lambda batch: torch.arange(count(batch) * patches).view(-1, n)


def grid(height: int, width: int, n: int = 1) -> Callable[[Batch], Tensor]:
    """Makes (media × n, height × width, 2): the column and row of every patch."""
    places = torch.tensor([(x, y) for y in range(height) for x in range(width)])
    return lambda batch: places.expand(n * count(batch), -1, -1)


VIDEO_PATCHES = patches((2, 4, 4), names=("pixel_values_videos", "video_grid_thw"))
MUSE = {"out_hidden_size": 128}
MINICPM = {"image_token_id": IMAGE, "video_token_id": VIDEO, "insert_layer_id": 0}
MINICPM_FRAME = ("image_start_id", "image_end_id")
GEMMA_TEXT = {
    "text_config.layer_types": [*["sliding_attention"] * 3, "full_attention"],
    "text_config.per_layer_config": {3: {"head_dim": 16}},
}
GEMMA = {**GEMMA_TEXT, "vision_config!": {}, "audio_config!": {}}
GEMMA_VISION = {"vision_config.pooling_kernel_size": 2, "vision_config.position_embedding_size": 16}
GEMMA_PICTURE = sound(4, (16, 192), name="pixel_values", image_position_ids=grid(4, 4))


def gemma_video(tokens: int, n: int, *shape: int, height: int, width: int) -> Medium:
    """Videos of n frames as Gemma 4 takes them: the frames' patches and where they stand."""
    more = {"video_position_ids": grid(height, width, n), "num_frames_per_video": numbers(n)}
    return packed(tokens, n, *shape, name="pixel_values_videos", **more)


def minicpm_media(tokens: int) -> dict[str, Medium]:
    """Pictures and videos of two frames as MiniCPM takes them: 8 × 8 patches each, of so many tokens."""
    return {
        "image": strip(tokens, 64, target_sizes=each(8, 8)),
        "video": strip(2 * tokens, 128, "pixel_values_videos", target_sizes_videos=twice(8, 8)),
    }


def molmo(tokens: int, name: str, **more: Any) -> Medium:
    """Crops of 4 × 4 patches as Molmo2 takes them; those of a video stand at the image placeholder too."""
    if "videos" in name:  # two placeholders of pictures where the video's own would be
        return sound(0, (16, 192), name=name, frame=("image_patch_id", "image_patch_id"), **more)
    return sound(tokens, (16, 192), name=name, **more)


ROWS = [
    Row(
        "kimi_k25",
        {
            "image": packed(4, 16, 3, 8, 8, image_grid_thw=each(1, 4, 4)),
            "video": packed(8, 32, 3, 8, 8, name="pixel_values_videos", video_grid_thw=twice(1, 4, 4)),
        },
        {"text_config.num_key_value_heads": 4},
    ),
    Row(
        "lfm2_vl",
        {
            "image": sound(4, (16, 192), name="pixel_values", spatial_shapes=each(4, 4), pixel_attention_mask=ones(16)),
        },
        {"text_config.layer_types": ["conv", "conv", "full_attention", "conv"]},
    ),
    Row(
        "lfm3_vl",
        {"image": patches(), "video": VIDEO_PATCHES},
        {"vision_config.layer_types": ["conv", "full_attention"]},
    ),
    Row(
        "minimax_m3_vl",
        {"image": patches(), "video": VIDEO_PATCHES},
        {"text_config.layer_types": ["full_attention", "minimax_m3_sparse"] * 2},
    ),
    Row("muse_glimmer", {"image": patches(), "video": VIDEO_PATCHES}, MUSE),
    Row(
        "muse_spark",
        {
            "image": patches(),
            "video": VIDEO_PATCHES,
            "audio": sound(4, (256,), name="input_values", input_values_mask=ones(256)),
        },
        MUSE
        | {
            "audio_config.patch_sizes": [16, 4],
            "audio_config.hidden_sizes": [16, 32],
            "audio_config.depths": [1, 1],
        },
    ),
    Row("minicpm_ocr", minicpm_media(16), MINICPM, without_taps=("vision",)),
    Row("minicpmv4_6", minicpm_media(4), MINICPM, without_taps=("vision",)),
    Row(
        "minicpmv4_7",
        {  # it finds a frame's positions by the marks around them
            "image": strip(4, 64, target_sizes=each(8, 8), frame=MINICPM_FRAME),
            "video": strip(4, 64, "pixel_values_videos", target_sizes_videos=each(8, 8), frame=MINICPM_FRAME),
        },
        MINICPM | {"image_start_id": MARK, "image_end_id": MARK + 1},
        without_taps=("vision",),
    ),
    Row(
        "step3p7",
        {
            "image": pictures(
                4 + 2, 64, pixel_values_local=pieces(2), num_local_patches=lambda batch: [2] * count(batch)
            ),
        },
        {"text_config.layer_types": ["full_attention", "sliding_attention"] * 2, "text_config.sliding_window": 128},
        without_taps=("vision", "projector"),
    ),
    Row(
        "molmo2",
        {
            "image": molmo(4, "pixel_values", image_token_pooling=pooled(16, 4), image_grids=each(0, 0, 2, 2)),
            "video": molmo(2, "pixel_values_videos", video_token_pooling=pooled(16, 8), video_grids=each(1, 2, 1)),
        },
        {
            "vision_config.image_size": [32, 32],
            "vision_config.num_position_embeddings": 16,
            "adapter_config.vision_feature_layer": [1, 0],
        },
    ),
    Row(
        "inkling2",
        {"image": packed(4, 4, 16, 16, 3, image_grid_thw=each(1, 2, 2))},
        {
            "text_config.n_layers_per_attn_res_block": 2,
            "text_config.layer_types": ["hybrid_sliding", "hybrid"] * 2,
        },
        skips=("boundaries equal transformers' hidden states",),
    ),
    Row(
        "inkling_mm_model",
        {
            "image": packed(4, 4, 2, 4, 4, 3),
            "audio": codes(4, 16, 4, 8, name="audio_input_ids", audio_input_ids_mask=ones(4)),
        },
        {
            "audio_config.n_mel_bins": 8,
            "audio_config.mel_vocab_size": 16,
            "vision_config.n_layers": 4,
            "vision_config.patch_size": 4,
            "text_config.layer_types": ["hybrid_sliding", "hybrid"] * 2,
        },
        without_taps=("vision", "projector"),
    ),
    Row(
        "nemotron_h_omni",
        {
            "image": packed(4, 16, 192, image_grid_hw=each(4, 4)),
            "audio": sound(4, (32, 16), input_features_mask=ones(32)),
        },
        {
            "image_token_id": IMAGE,
            "video_token_id": VIDEO,
            "audio_token_id": AUDIO,
            "audio_config!": {},
            "audio_config.projection_hidden_size": 32,
            "audio_config.projection_bias": False,
            "audio_config.subsampling_conv_channels": 8,
            "vision_config.max_img_size": 64,
            "text_config.mamba_head_dim": 8,
            "text_config.mamba_num_heads": 8,
            "text_config.n_groups": 2,
            "text_config.ssm_state_size": 16,
            "text_config.chunk_size": 16,
        },
    ),
    Row(
        "dots3_note",
        {
            "image": patches(dim=192),
            "video": patches((2, 4, 4), 192, names=("pixel_values_videos", "video_grid_thw")),
            "audio": sound(4, (16, 32), chunk_sample_lengths=numbers(5120)),
        },
        {
            "text_config.per_layer_config": {},
            "text_config.num_key_value_heads": 4,
            "text_config.head_dim": 16,
            "vision_config.per_layer_config": {},
            "vision_config.mlp_layer_types": ["dense", "sparse"],
            "vision_config.adapter_in_dim": 32,
            "vision_config.adapter_out_dim": 32,
            "audio_config.adapter_input_size": 32,
            "audio_config.adapter_out_dim": 32,
            "audio_config.feature_size": 16,
            "audio_config.downsample_hidden_size": 8,
            "audio_config.conv_output_size": 16,
        },
    ),
    Row(
        "gemma4",
        {
            "image": GEMMA_PICTURE,
            "video": gemma_video(8, 2, 16, 192, height=4, width=4),
            "audio": sound(8, (32, 16), input_features_mask=ones(32, dtype=torch.bool)),
        },
        GEMMA
        | GEMMA_VISION
        | {
            "text_config.vocab_size_per_layer_input": VOCABULARY,
            "text_config.hidden_size_per_layer_input": 8,
            "audio_config.subsampling_conv_channels": [16, 8],
            "audio_config.output_proj_dims": 32,
        },
    ),
    Row(
        "gemma4_unified",
        {
            "image": sound(4, (4, 768), name="pixel_values", image_position_ids=grid(2, 2)),
            "video": gemma_video(8, 2, 4, 768, height=2, width=2),
            "audio": sound(8, (8, 32), input_features_mask=ones(8, dtype=torch.bool)),
        },
        GEMMA
        | {
            "vision_config.pooling_kernel_size": 2,
            "vision_config.mm_embed_dim": 32,
            "vision_config.output_proj_dims": 32,
            "vision_config.mm_posemb_size": 16,
            "audio_config.audio_embed_dim": 32,
        },
        without_taps=("vision",),
    ),
    Row(
        "diffusion_gemma",
        {"image": GEMMA_PICTURE},
        GEMMA_TEXT
        | GEMMA_VISION
        | {
            "text_config.num_experts": 4,
            "text_config.top_k_experts": 2,
            "text_config.moe_intermediate_size": 32,
        },
        skips=("boundaries equal transformers' hidden states", "a batch equals its examples one by one"),
    ),
]
