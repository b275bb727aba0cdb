"""Packed patches with their grids, pictures and videos alike: Qwen2-VL and its kin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tests.matrix.media import Medium, count, ones, patches
from tests.matrix.row import Row
from tests.tiny.shrink import stand_in_tokenizer

IMAGE: int = stand_in_tokenizer().convert_tokens_to_ids("<image>")
VIDEO: int = stand_in_tokenizer().convert_tokens_to_ids("<video>")
EOS: int = stand_in_tokenizer().eos_token_id

VISION = ("vision_start_token_id", "vision_end_token_id")
STILL_MARKS = ("image_start_token_id", "image_end_token_id")
VIDEO_MARKS = ("video_start_token_id", "video_end_token_id")
NONE = (None, None)

ONE_FRAME, TWO_FRAMES = 3 * 8 * 8, 3 * 2 * 8 * 8  # the numbers in a patch: some architectures pair frames, some do not
VIDEOS = ("pixel_values_videos", "video_grid_thw")
HIDDEN_STATES = ("boundaries equal transformers' hidden states",)  # added to between blocks, or streams kept apart

MROPE = {"text_config.rope_parameters.mrope_section": [2, 1, 1]}
POSITIONS = {"vision_config.num_position_embeddings": 16}
DEEPSTACK = {**POSITIONS, "vision_config.deepstack_visual_indexes": [0, 1]}
WINDOWS = {"vision_config.window_size": 16, "vision_config.fullatt_block_indexes": [1]}


def both(
    grid: tuple[int, int, int] = (1, 4, 8), dim: int = TWO_FRAMES, marks: Any = (VISION, VISION), **more: Any
) -> dict[str, Medium]:
    """Pictures of four positions, and videos whose patches hold every number of their four frames.

    Args:
        grid: of a video; its first number is 1 where the processor frames each moment on its own.
        dim: numbers in a patch.
        marks: what frames a picture, and what frames a video.
        more: further tensors of videos.
    """
    video = patches(grid, dim, names=VIDEOS, frame=marks[1], **more)
    return {"image": patches(dim=dim, frame=marks[0]), "video": video}


def text(**values: Any) -> dict[str, Any]:
    """Values of the text configuration."""
    return {f"text_config.{key}": value for key, value in values.items()}


def in_squares(medium: Medium) -> Medium:
    """The same medium with every patch as (3, 8, 8)."""

    def tensors(batch: Sequence[Sequence[Any]]) -> dict[str, Any]:
        made = medium.tensors(batch)
        return {**made, "pixel_values": made["pixel_values"].unflatten(1, (3, 8, 8))}

    return replace(medium, tensors=tensors)


def images_in_videos(ids: Tensor, mask: Tensor) -> Tensor:
    """The image's token in videos too, as GLM writes it: only ``mm_token_type_ids`` tells which is which."""
    return ids.masked_fill(ids == VIDEO, IMAGE)


def media_and_marks(ids: Tensor, mask: Tensor) -> Tensor:
    """1 at media and at the marks beside them: the tokens that ERNIE sends to its vision experts."""
    media = (ids == IMAGE) | (ids == VIDEO)
    beside = media.clone()
    beside[:, 1:] |= media[:, :-1]
    beside[:, :-1] |= media[:, 1:]
    return beside.long()


def kept(batch: Sequence[Sequence[Any]]) -> Tensor:
    """Of the 16 positions of each video the 12 that VideoLLaMA 3 keeps, the last frame being like the one before."""
    return torch.tensor([True] * 12 + [False] * 4).repeat(count(batch))


GLM: dict[str, Any] = {
    "media": both(marks=(STILL_MARKS, VIDEO_MARKS)),
    "more": {"input_ids": images_in_videos},
}

ROWS = [
    Row("qwen2_vl", both((2, 4, 4)), MROPE),
    Row("qwen2_5_vl", both((2, 4, 4), second_per_grid_ts=ones(dtype=torch.float32)), {**MROPE, **WINDOWS}),
    Row("qwen3_vl", both(), DEEPSTACK, skips=HIDDEN_STATES),
    Row("qwen3_vl_moe", both(), DEEPSTACK, skips=HIDDEN_STATES),
    Row("qwen3_5", both(), POSITIONS),
    Row("qwen3_5_moe", both(), POSITIONS),
    Row(
        "qwen4_exp",
        both(),
        POSITIONS
        | text(indexer_n_heads=16, indexer_kv_heads=1, indexer_head_dim=8, indexer_budget=16, indexer_compress_ratio=4)
        | text(ple_layer_ids=[2], ple_embed_dim=32, ngram_vocab_size_base=64, eos_token_id=EOS, hc_lowrank=8),
    ),
    Row("glm4v", config=MROPE, **GLM),
    Row("glm4v_moe", config={**MROPE, "text_config.rope_parameters.partial_rotary_factor": 1.0}, **GLM),
    Row("glm46v", config=MROPE, **GLM),
    Row("glmga", config=MROPE, **GLM),
    Row("glm_ocr", config=MROPE, **GLM),
    Row(
        "glm5_next",
        config=text(num_key_value_heads=4, qk_rope_head_dim=0, linear_head_dim=8, linear_num_heads=4)
        | text(index_topk=16, index_kpool=4, index_head_dim=8, index_n_heads=16),
        skips=HIDDEN_STATES,
        **GLM,
    ),
    Row(
        "ernie4_5_vl_moe",
        {
            "image": patches(dim=ONE_FRAME, frame=STILL_MARKS),
            "video": replace(patches((4, 4, 4), ONE_FRAME, names=VIDEOS, frame=VIDEO_MARKS), tokens=8),
        },
        text(moe_intermediate_size=[32, 16]) | {"text_config.rope_parameters.mrope_section": [1, 1, 2]},
        more={"moe_mm_token_type_ids": media_and_marks},
    ),
    Row("exaone4_5", both((2, 4, 4), marks=(NONE, NONE)), WINDOWS),
    Row("cosmos3_edge", both((1, 8, 8), ONE_FRAME), {**MROPE, "vision_config.num_patches": 16}),
    Row("cosmos3_omni", both(), DEEPSTACK, skips=HIDDEN_STATES),
    Row(
        "cohere_compass",
        both(),
        DEEPSTACK
        | text(layer_types=["sliding_attention"] * 3 + ["full_attention"])
        | text(
            rope_parameters={
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
                "full_attention": None,
            }
        ),
        skips=HIDDEN_STATES,
    ),
    Row("hyperclovax_vision_v2", both((2, 4, 4), marks=(NONE, NONE)), WINDOWS),
    Row("paddleocr_vl", {"image": in_squares(patches(dim=ONE_FRAME, frame=VISION))}, MROPE),
    Row(
        "video_llama_3",
        {
            "image": patches(dim=ONE_FRAME, merge=1, image_merge_sizes=ones()),
            "video": replace(
                patches(
                    (4, 4, 4),
                    ONE_FRAME,
                    names=VIDEOS,
                    video_merge_sizes=lambda batch: 2 * ones()(batch),
                    video_compression_mask=kept,
                ),
                tokens=12,
            ),
        },
    ),
]
