"""Square pictures of one size (and videos of them), whose features stand in the sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tests.matrix.media import Medium, each, frames, ones, patches, pictures
from tests.matrix.row import Row
from tests.tiny.shrink import stand_in_tokenizer

_TOKENIZER = stand_in_tokenizer()
IMAGE_ID: int = _TOKENIZER.convert_tokens_to_ids("<image>")
"""What an image position holds in ``input_ids``."""
VIDEO_ID: int = _TOKENIZER.convert_tokens_to_ids("<video>")
"""The same of a video, unless its frames are written as pictures."""
N_CODES = 256
"""What a picture's position can be, where pictures become codes of a vocabulary."""

_SIZES: dict[str, Any] = {"image_sizes": each(32, 32)}
_TILES: dict[str, Any] = {"per_example": True, "n": 2, **_SIZES}  # the whole picture, then its only tile
_ONE_TILE = {"image_grid_pinpoints": [[32, 32]]}
_BOI_EOI = ("boi_token_index", "eoi_token_index")
_SPARSE = ["dense", "sparse", "sparse", "sparse"]


def _types(ids: Tensor, mask: Tensor) -> Tensor:
    """1 where a picture stands, 0 elsewhere."""
    return (ids == IMAGE_ID).long()


_FRAMES_ARE_PICTURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "input_ids": lambda ids, mask: ids.masked_fill(ids == VIDEO_ID, IMAGE_ID),
    "mm_token_type_ids": lambda ids, mask: ((ids == IMAGE_ID) | (ids == VIDEO_ID)).long(),
}
"""The frames of a video are written as pictures, and nothing in the processor's output tells them apart."""


def _flat(video: Medium) -> Medium:
    """The same video with the frames of all in a row, as if they were pictures."""

    def tensors(batch: Sequence[Sequence[Any]]) -> dict[str, Any]:
        return {name: value.flatten(0, 1) for name, value in video.tensors(batch).items()}

    return replace(video, tensors=tensors)


def _sam(path: str, **more: Any) -> dict[str, Any]:
    """A small SAM encoder for pictures of 64 pixels, whose last convolutions leave 2 x 2 positions."""
    values = {"image_size": 64, "output_channels": 8, "global_attn_indexes": [1], **more}
    return {f"{path}.{key}": value for key, value in values.items()}


def _codes(name: Callable[[int], str], number: str, vocabulary: str) -> dict[str, Any]:
    """A small encoder to codes that have ids of their own; the last id ends a row of them where one does (Emu3)."""
    end = len(_TOKENIZER) + N_CODES
    codes = {name(code): len(_TOKENIZER) + code for code in range(N_CODES)}
    return {
        "vocabulary_map": {"<image>": IMAGE_ID, **codes, "<|extra_200|>": end},
        "image_token_id": IMAGE_ID,
        vocabulary: end + 1,
        f"vq_config.{number}": N_CODES,
        "vq_config.base_channels": 32,
        "vq_config.num_res_blocks": 1,
    }


def _high_resolution(batch: Sequence[Sequence[Any]]) -> Tensor:
    """The same pictures, larger."""
    pixels: Tensor = pictures(0, 64).tensors(batch)["pixel_values"]
    return pixels


def _letters(code: int) -> str:
    """A code as Chameleon's tokenizer names it: 10 is ``IMGIMGBAZ``."""
    return "IMGIMG" + "".join(chr(ord("A") + int(digit)) for digit in str(code)) + "Z"


_VIT = {"vision_config.image_size": [32, 32], "vision_config.patch_size": [8, 8]}
_GEMMA3 = Row("", {"image": pictures(4, frame=_BOI_EOI)}, {"mm_tokens_per_image": 4}, {"token_type_ids": _types})
_IN_BETWEEN = ("boundaries equal transformers' hidden states",)  # the model writes between blocks

ROWS = [
    Row("aria", {"image": pictures(4)}, {"projector_patch_to_query_dict": {16: 4}}),
    Row("aya_vision", {"image": pictures(4)}),
    Row("cohere2_vision", {"image": pictures(4)}, {"alignment_intermediate_size": 64}),
    Row("deepseek_vl", {"image": pictures(16)}),
    Row(
        "deepseek_vl_hybrid",
        {"image": pictures(16, high_res_pixel_values=_high_resolution)},
        _sam("high_res_vision_config"),
    ),
    Row(
        "deepseek_ocr2",
        {"image": pictures(145, 64)},
        {
            **_sam("vision_config.sam_config", downsample_channels=[16, 32]),
            "text_config.mlp_layer_types": _SPARSE,
            "text_config.num_experts_per_tok": 2,
        },
    ),
    Row("unlimited_ocr", {"image": pictures(7, 64)}, _sam("vision_config.sam_config", downsample_channels=[16, 32])),
    replace(_GEMMA3, model_type="gemma3"),
    replace(_GEMMA3, model_type="shieldgemma2"),
    Row("got_ocr2", {"image": pictures(4, 64)}, _sam("vision_config")),
    Row("pp_chart2table", {"image": pictures(4, 64)}, _sam("vision_config")),
    Row(
        "internvl",
        {"image": pictures(4), "video": _flat(frames(16, 4, name="pixel_values"))},
        _VIT,
        more=_FRAMES_ARE_PICTURES,
    ),
    Row("qianfan_ocr", {"image": pictures(4)}, _VIT),
    Row(
        "janus",
        {"image": pictures(16)},
        {"vq_config.base_channels": 32, "vq_config.channel_multiplier": [1], "vq_config.num_embeddings": 16},
    ),
    Row("llama4", {"image": pictures(4, frame=_BOI_EOI)}, {"vision_config.intermediate_size": 128}),
    Row("llava", {"image": pictures(16)}),
    Row("llava_next", {"image": pictures(36, **_TILES)}, _ONE_TILE),
    Row("llava_next_video", {"image": pictures(36, **_TILES), "video": frames(16, 4)}, _ONE_TILE),
    Row("llava_onevision", {"image": pictures(36, **_TILES), "video": frames(17, 4)}, _ONE_TILE),
    Row("vipllava", {"image": pictures(16)}, {"vision_feature_layer": [-2, -1]}),
    Row("video_llava", {"image": pictures(16, name="pixel_values_images"), "video": frames(68, 4)}),
    Row("paligemma", {"image": pictures(16)}, more={"token_type_ids": lambda ids, mask: torch.zeros_like(ids)}),
    Row("ovis2", {"image": pictures(16)}, without_taps=("projector",)),
    Row("idefics2", {"image": pictures(8, per_example=True)}, {"perceiver_config.resampler_n_latents": 8}),
    Row("idefics3", {"image": pictures(4, per_example=True)}),
    Row(
        "smolvlm",
        {"image": pictures(4, per_example=True), "video": frames(16, 4, name="pixel_values")},
        more=_FRAMES_ARE_PICTURES,
        skips=("a batch equals its examples one by one", "a batch equals its examples one by one (video)"),
    ),
    Row(
        "granite4_vision",
        {"image": pictures(10, **_TILES)},
        {
            **_ONE_TILE,
            "downsample_rate": "1/2",
            "deepstack_layer_map": [[-1, 0]],
            "spatial_target_layers": [1, 2, 3],
            "vision_config.hidden_size": 64,
        },
        skips=_IN_BETWEEN,
        without_taps=("projector",),
    ),
    Row(
        "granite_docling",
        {"image": pictures(4, per_example=True, pixel_attention_mask=ones(1, dtype=torch.bool))},
        {"vision_config.scale_factor": 2, "vision_config.deepstack_visual_indexes": [0, 1]},
        skips=_IN_BETWEEN,
    ),
    Row("mistral3", {"image": pictures(4, **_SIZES)}),
    Row(
        "mistral_large4",
        {"image": pictures(4, **_SIZES)},
        {"text_config.num_key_value_heads": 4, "text_config.index_head_dim": 16, "text_config.index_n_heads": 4},
    ),
    Row("lighton_ocr", {"image": pictures(4, **_SIZES)}),
    Row("fuyu", {"image": replace(patches((1, 4, 4), 192, 1), prepended=True)}, without_taps=("vision",)),
    Row(
        "chameleon",
        {"image": pictures(4)},
        {
            **_codes(_letters, "num_embeddings", "vocab_size"),
            "vq_config.channel_multiplier": [1, 1, 1, 1, 1],
            "vq_config.latent_channels": 32,
        },
        without_taps=("vision", "projector"),
    ),
    Row(
        "emu3",
        {"image": pictures(6, 16, image_sizes=each(16, 16))},
        {
            **_codes("<|visual token {:06d}|>".format, "codebook_size", "text_config.vocab_size"),
            "vq_config.channel_multiplier": [1, 1, 1, 1],
            "vq_config.embed_dim": 8,
            "vq_config.temporal_downsample_factor": 2,
        },
        without_taps=("vision", "projector"),
    ),
    Row(
        "hunyuan_vl",
        {"image": replace(patches((1, 4, 4), 192, frame=("im_start_id", "im_end_id")), tokens=8)},
        {
            "text_config.head_dim": 8,
            "text_config.rope_parameters.mrope_section": [1, 1, 1, 1],
            "vision_config.num_key_value_heads": 4,
            "vision_config.max_image_size": 32,
        },
        skips=("a batch equals its examples one by one",),
    ),
]
