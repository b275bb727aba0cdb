"""The default configuration of an architecture, made tiny by the names of its sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from transformers import CONFIG_MAPPING

from microscope_bench.example import PLACEHOLDERS
from tests.tiny.tokenizer import byte_tokenizer

HIDDEN, LAYERS, HEADS = 32, 4, 4

SIZES: dict[str, Any] = {
    **dict.fromkeys(
        ("hidden_size", "d_model", "out_hidden_size", "encoder_hidden_size", "word_embed_proj_dim"), HIDDEN
    ),
    **dict.fromkeys(("decoder_hidden_size", "text_hidden_size", "vision_hidden_size", "projection_dim"), HIDDEN),
    **dict.fromkeys(("projector_hidden_size", "vision_output_dim", "projector_input_dim"), HIDDEN),
    **dict.fromkeys(("projector_output_dim", "output_dim", "patch_embed_hidden_size", "moe_hidden_size"), HIDDEN),
    **dict.fromkeys(("projection_hidden_size", "projection_intermediate_size", "audio_hidden_size"), HIDDEN),
    **dict.fromkeys(("embed_dim", "hidden_dim", "image_text_hidden_size", "embedding_size"), HIDDEN),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "mlp_dim", "d_ff"), 64),
    **dict.fromkeys(("moe_intermediate_size", "intermediate_size_mlp", "dense_intermediate_size"), 32),
    **dict.fromkeys(("shared_intermediate_size", "shared_expert_intermediate_size", "share_expert_dim"), 32),
    **dict.fromkeys(("moe_shared_expert_intermediate_size", "shared_experts_intermediate_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "decoder_layers", "num_decoder_layers"), LAYERS),
    **dict.fromkeys(("depth", "encoder_layers", "num_blocks", "n_layers", "layers", "conf_num_hidden_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "encoder_attention_heads", "attention_heads"), HEADS),
    **dict.fromkeys(("decoder_attention_heads", "swa_num_attention_heads", "linear_num_value_heads"), HEADS),
    **dict.fromkeys(("num_sliding_attention_heads", "conf_num_attention_heads"), HEADS),
    **dict.fromkeys(("num_key_value_heads", "swa_num_key_value_heads", "linear_num_key_heads"), 2),
    **dict.fromkeys(("head_dim", "linear_key_head_dim", "linear_value_head_dim", "v_head_dim", "d_kv"), 8),
    **dict.fromkeys(("swa_head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "dim_head"), 8),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank"), 16),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "moe_num_shared_experts"), 1),
    **dict.fromkeys(("image_size", "img_size"), 32),
    "patch_size": 8,
    "max_position_embeddings": 4096,
    "sliding_window": 128,
    "num_mel_bins": 16,
    "pad_token_id": None,
}
"""Key → tiny value, wherever in the configuration it stands with a number (in vision parts 2 layers, see below)."""

_VISION = re.compile(r"vision|visual|audio|speech|encoder_config|qformer|acoustic|semantic")
_TOKEN = re.compile(r"_(token_id|token_index|patch_id|id)$")
_MARK = "<mark0>"


def stand_in_tokenizer() -> Any:
    """A tokenizer of 256 bytes and some marks, the placeholders of all modalities among them."""
    marks = [f"<mark{number}>" for number in range(24)]
    return byte_tokenizer(*marks, image_token="<image>", video_token="<video>", audio_token="<audio>")


def tiny_config(model_type: str, tokenizer: Any, overrides: Mapping[str, Any] = {}) -> Any:
    """The architecture's default configuration with tiny sizes and the tokenizer's ids.

    A key such as ``image_token_id`` gets the tokenizer's token of that name; of the stand-in, which has no names for
    most, one of the marks.

    Args:
        model_type: its key in transformers' mapping.
        tokenizer: from :func:`stand_in_tokenizer`, or that of a processor.
        overrides: dotted path → value, what shrinking by name gets wrong; applied last. A path that ends in ``!`` is
            a top-level key given to the configuration class's constructor, before anything is shrunk.
    """
    kind = CONFIG_MAPPING[model_type]
    parts = {key.partition(".")[0]: value for key, value in overrides.items() if key.endswith("!")}
    tree = kind(**{key.rstrip("!"): value for key, value in parts.items()}).to_dict()
    _shrink(tree, "", tokenizer, _TokenIds(tokenizer))
    for path, value in overrides.items():
        *parents, key = path.rstrip("!").split(".")
        if path.endswith("!"):
            continue
        node = tree
        for parent in parents:
            node = node[parent]
        node[key] = value
    return kind.from_dict(tree)


class _TokenIds:
    """Which id a key of the configuration gets."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        has_marks = _MARK in tokenizer.get_vocab()
        self.marks = iter(range(tokenizer.convert_tokens_to_ids(_MARK), len(tokenizer))) if has_marks else None
        self.known: dict[str, int] = {}

    def of(self, key: str) -> int | None:
        """The id of the token that the key names; None where the tokenizer has no such token."""
        name = _TOKEN.sub("", key)
        if self.marks is None or (name in PLACEHOLDERS and not key.endswith(f"{name}_id")):
            return getattr(self.tokenizer, f"{name}_token_id", None)
        if key not in self.known:
            self.known[key] = next(self.marks)
        return self.known[key]


def _shrink(tree: dict[str, Any], path: str, tokenizer: Any, ids: _TokenIds) -> None:
    in_vision = bool(_VISION.search(path))
    depth = next((tree[k] for k in ("num_hidden_layers", "depth", "encoder_layers") if isinstance(tree.get(k), int)), 0)
    for key, value in tree.items():
        if isinstance(value, dict):
            if not str(key).startswith(("rope", "id2label", "label2id")):
                _shrink(value, f"{path}.{key}", tokenizer, ids)
        elif isinstance(value, list) and depth > LAYERS and len(value) == depth:
            tree[key] = value[: 2 if in_vision else LAYERS]
        elif not isinstance(key, str) or isinstance(value, bool) or not isinstance(value, int):
            continue
        elif key == "vocab_size":
            tree[key] = len(tokenizer)
        elif key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            tree[key] = getattr(tokenizer, key)
        elif key == "decoder_start_token_id":
            tree[key] = tokenizer.bos_token_id
        elif _TOKEN.search(key):
            found = ids.of(key)
            tree[key] = value if found is None else found
        elif key in SIZES:
            small = SIZES[key]
            tree[key] = min(2, LAYERS) if in_vision and small == LAYERS and "layers" in key else small
