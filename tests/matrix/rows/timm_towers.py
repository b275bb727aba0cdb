"""Architectures whose vision tower is a model of timm, made tiny by what ``timm.create_model`` is given."""

from __future__ import annotations

import torch

from tests.matrix.media import frames, ones, pictures, sound
from tests.matrix.row import Row
from tests.tiny.shrink import stand_in_tokenizer

IMAGE, AUDIO = stand_in_tokenizer().convert_tokens_to_ids(["<image>", "<audio>"])
NEEDS = ("timm", "torchvision")
PARALLEL = ("boundaries equal transformers' hidden states",)  # which keep the parallel residual streams apart

FASTVIT = {
    "layers": [1, 1],
    "embed_dims": [8, 32],
    "token_mixers": ["repmixer", "attention"],
    "inference_mode": True,
}
"""Two of its stages, one of each kind: 8 pixels to a position of 64 channels."""

PERCEPTION_ENCODER = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 4,
    "ref_feat_shape": [4, 4],
    "global_pool": "",
}
"""As in the checkpoints: no pooling, a class token that the model drops."""

MOBILENET = {"channel_multiplier": 0.0125, "num_features": 32, "msfa_output_resolution": 2}
"""Its smaller variant at its full depth, 8 channels wide, its last two stages fused to 2 x 2 positions of 32."""

GEMMA_3N = {
    "vision_soft_tokens_per_image": 4,
    "vision_config.architecture": "mobilenetv5_base",
    "vision_config.model_args": MOBILENET,
    "vision_config.vocab_offset": IMAGE,
    "audio_soft_tokens_per_image": 6,
    "audio_config.input_feat_size": 16,
    "audio_config.sscp_conv_channel_size": [8, 4],
    "audio_config.vocab_offset": AUDIO,
    "text_config.intermediate_size": 64,
    "text_config.layer_types": ["sliding_attention", "full_attention"] * 2,
    "text_config.num_kv_shared_layers": 2,
    "text_config.vocab_size_per_layer_input": IMAGE,
    "text_config.hidden_size_per_layer_input": 8,
    "text_config.laurel_rank": 8,
}
"""Media tokens behind the text's vocabulary, as in the checkpoints; sound of 4 positions and 2 that fill up."""

ROWS = [
    Row(
        "fast_vlm",
        {"image": pictures(4, 16)},
        {"vision_config.model_args": FASTVIT, "vision_config.hidden_size": 64},
        without_taps=("vision",),
        needs=NEEDS,
    ),
    Row(
        "perception_lm",
        {"image": pictures(8, per_example=True, n=2), "video": frames(16, 4)},
        {
            "vision_config.architecture": "vit_pe_core_large_patch14_336",
            "vision_config.model_args": PERCEPTION_ENCODER,
            "projector_pooling_ratio": 2,
        },
        needs=NEEDS,
    ),
    Row(
        "gemma3n",
        {
            "image": pictures(4, frame=("boi_token_id", "eoi_token_id")),
            "audio": sound(
                6, (64, 16), input_features_mask=ones(64, dtype=torch.bool), frame=("boa_token_id", "eoa_token_id")
            ),
        },
        GEMMA_3N,
        skips=PARALLEL,
        without_taps=("vision", "projector"),
        needs=NEEDS,
    ),
]
