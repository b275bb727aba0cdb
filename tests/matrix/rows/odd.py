"""Cross-attention, encoder-decoders, prefixes, masks: what fits in no other table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tests.matrix.media import Medium, Tensors, frames, ones, pictures, pixels
from tests.matrix.row import Row
from tests.tiny.shrink import stand_in_tokenizer

IMAGE = stand_in_tokenizer().convert_tokens_to_ids("<image>")
VIDEO = stand_in_tokenizer().convert_tokens_to_ids("<video>")
OTHER_STATES = ("boundaries equal transformers' hidden states",)


def image_positions(ids: Tensor, mask: Tensor) -> Tensor:
    """bool (B, S): where the placeholders stand."""
    return ids == IMAGE


def flattened(tokens: int, **more: Any) -> Medium:
    """(pictures, 16, 2 + 192): 4 x 4 patches, each after its row and column."""

    def tensors(batch: Sequence[Sequence[Any]]) -> Tensors:
        rows = torch.arange(1, 5).repeat_interleave(4)[:, None].float()
        columns = torch.arange(1, 5).repeat(4)[:, None].float()
        cut = [pixels(image, 32, 32).unfold(1, 8, 8).unfold(2, 8, 8) for one in batch for image in one]
        patches = [torch.cat([rows, columns, p.permute(1, 2, 0, 3, 4).reshape(16, -1)], dim=1) for p in cut]
        return {"flattened_patches": torch.stack(patches), **{key: make(batch) for key, make in more.items()}}

    return Medium(tokens, tensors)


def attends(*shape: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Makes a mask (B, S, *shape) that lets every text position see the pictures."""
    return lambda ids, mask: torch.ones(*ids.shape, *shape, dtype=torch.long)


def tiled(batch: Sequence[Sequence[Any]]) -> Tensors:
    """(B, pictures, 2 tiles, 3, 32, 32)."""
    rows = [[torch.stack([pixels(image, 32, 32)] * 2) for image in images] for images in batch]
    shape = (len(rows), len(rows[0]))
    return {
        "pixel_values": torch.stack([torch.stack(row) for row in rows]),
        "aspect_ratio_ids": torch.full(shape, 2),
        "aspect_ratio_mask": torch.ones(*shape, 2, dtype=torch.long),
    }


TILES = Medium(0, tiled)
MLLAMA = {
    "text_config.cross_attention_layers": [1],
    "vision_config.max_num_tiles": 2,
    "vision_config.supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
    "vision_config.intermediate_layers_indices": [0],
    "vision_config.vision_output_dim": 64,
    "vision_config.num_global_layers": 1,
}
FLAT = flattened(0, attention_mask=ones(16))
DECODER_IDS = {"decoder_input_ids": lambda ids, mask: ids, "decoder_attention_mask": lambda ids, mask: mask}
QUERIES = replace(pictures(4), prepended=True)
INSTRUCTED = replace(pictures(4, qformer_input_ids=ones(3)), prepended=True)
INSTRUCTED_VIDEO = replace(
    frames(16, 4, name="pixel_values", qformer_input_ids=ones(3), qformer_attention_mask=ones(3)), prepended=True
)
FLORENCE = {
    "text_config.encoder_layers": 4,
    "text_config.decoder_layers": 2,
    "vision_config.depths": [1, 1, 1, 1],
    "vision_config.embed_dim": [8, 16, 16, 32],
    "vision_config.num_heads": [2, 2, 2, 4],
    "vision_config.num_groups": [2, 2, 2, 4],
    "vision_config.window_size": 4,
}
BLIP = {"image_token_index": IMAGE, "num_query_tokens": 4}

ROWS = [
    Row("blip", {"image": pictures(0)}, skips=OTHER_STATES),
    Row("blip-2", {"image": QUERIES}, BLIP),
    Row("instructblip", {"image": INSTRUCTED}, BLIP),
    Row("evolla", unsupported="reads proteins"),
    Row("instructblipvideo", {"video": INSTRUCTED_VIDEO}, BLIP | {"video_token_index": VIDEO}),
    Row("florence2", {"image": replace(pictures(2), prepended=True)}, FLORENCE, without_taps=("vision",)),
    Row("git", {"image": pictures(0)}),
    Row("mistral4", config={"num_key_value_heads": 4, "qk_head_dim": 16, "head_dim": 16}),
    Row("mllama", {"image": TILES}, MLLAMA, {"cross_attention_mask": attends(1, 2)}),
    Row(
        "kosmos-2",
        {"image": replace(pictures(4), prepended=True)},
        {"text_config.layers": 4, "latent_query_num": 4},
        {"image_embeds_position_mask": image_positions},
    ),
    Row(
        "kosmos-2.5",
        {"image": flattened(4)},
        {"text_config.layers": 4, "latent_query_num": 4, "vision_config.patch_embed_hidden_size": 192},
        {"image_embeds_position_mask": image_positions},
    ),
    Row("pi0", unsupported="robot policy"),
    Row("pix2struct", {"image": FLAT}, {"vision_config.patch_embed_hidden_size": 192}, DECODER_IDS),
    Row("pp_formulanet", {"image": pictures(0)}),
    Row("t5gemma2", {"image": pictures(4)}, {"encoder.mm_tokens_per_image": 4}),
    Row("udop", unsupported="boxes"),
    Row("vision-encoder-decoder", {"image": pictures(0)}),
    Row(
        "idefics",
        {"image": pictures(0, per_example=True)},
        more={"image_attention_mask": attends(1)},
        skips=OTHER_STATES,
    ),
]
