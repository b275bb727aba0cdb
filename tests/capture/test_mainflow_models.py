"""The skip-free chain of real architectures, tiny and with random weights."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
import transformers as hf
from torch import nn

from microscope_bench.adapters.base import TEXT
from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.capture.mainflow import Mainflow, find_mainflow, mainflow_hooks
from microscope_bench.errors import MainflowError
from tests.capture.chains import chain_of
from tests.tiny.checkpoints import MULTIMODAL, TEXT_ONLY
from tests.tiny.questions import PICTURE_QUESTIONS, TEXT_QUESTIONS


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_chain_of_a_tiny_llama_is_its_parts_run_by_hand_without_skips(tiny, attention):
    """By hand: one example at a time, no padding, attention as softmax over a causal mask."""
    adapter = HFAdapter.load({"pretrained": str(tiny("llama")), "attn_implementation": attention}, device="cpu")
    batch = adapter.encode(TEXT_QUESTIONS)
    seen, _ = chain_of(adapter, batch)
    decoder = adapter.model.model
    assert len({len(tokens) for tokens in batch.tokens}) == 2, "one of the examples is padded in the batch"
    for row, tokens in enumerate(batch.tokens):
        ids = torch.from_numpy(tokens)[None]
        length, real = ids.shape[1], torch.from_numpy(batch.labels[row] != 0)
        with torch.no_grad():
            flow = decoder.embed_tokens(ids)
            torch.testing.assert_close(seen["boundary", 0][row, real], flow[0])
            cos, sin = decoder.rotary_emb(flow, torch.arange(length)[None])
            for layer, block in enumerate(decoder.layers, start=1):
                x, attn = block.input_layernorm(flow)[0], block.self_attn
                q, k, v = (
                    project(x).view(length, -1, attn.head_dim).transpose(0, 1)
                    for project in (attn.q_proj, attn.k_proj, attn.v_proj)
                )
                q, k = (
                    y * cos + torch.cat([-y[..., y.shape[-1] // 2 :], y[..., : y.shape[-1] // 2]], -1) * sin
                    for y in (q, k)
                )
                k, v = (y.repeat_interleave(len(q) // len(y), dim=0) for y in (k, v))
                weights = (q @ k.mT * attn.head_dim**-0.5).masked_fill(
                    ~torch.ones(length, length).tril().bool(), -torch.inf
                )
                x = attn.o_proj((weights.softmax(-1) @ v).transpose(0, 1).reshape(length, -1))
                flow = block.mlp(block.post_attention_layernorm(x))[None]
                torch.testing.assert_close(seen["mainflow", layer][row, real], flow[0], rtol=1e-4, atol=1e-5)


REFUSED = {
    "gemma3": "block 1 (Gemma3DecoderLayer) has parts beside norm, attention, norm and MLP: "
    "pre_feedforward_layernorm, post_feedforward_layernorm",
    "qwen3_vl": "what enters block 2 (Qwen3VLTextDecoderLayer) is not what left the block before it",
}


@pytest.mark.parametrize("family", [*MULTIMODAL, *TEXT_ONLY])
def test_which_families_have_a_main_flow(tiny_adapter, family):
    adapter = tiny_adapter(family)
    batch = adapter.encode(TEXT_QUESTIONS if family in TEXT_ONLY else PICTURE_QUESTIONS)
    assert find_mainflow(adapter, batch) == Mainflow(REFUSED.get(family))


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("Mixtral", {"num_local_experts": 2}, None),
        ("Phi3", {}, None),
        ("GPTNeoX", {"use_parallel_residual": False}, None),
        (
            "GPTNeoX",
            {},
            "what enters post_attention_layernorm is not the stream with what leaves attention added to it",
        ),
        ("Granite", {"residual_multiplier": 0.5}, "what enters post_attention_layernorm is not the stream"),
        (
            "OPT",
            {"ffn_dim": 64, "do_layer_norm_before": False},
            "what enters self_attn_layer_norm is not the block's input",
        ),
        ("Cohere", {}, "not made of norm, attention, norm and MLP .* but of self_attn, mlp, input_layernorm"),
        ("Phi", {}, "not made of norm"),
        ("Olmo2", {}, "not made of norm"),
        ("Gemma2", {"head_dim": 8}, "parts beside norm, attention, norm and MLP: pre_feedforward_layernorm"),
    ],
)
def test_which_text_decoders_have_a_main_flow(name, options, reason):
    sizes = {"vocab_size": 16, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "word_embed_proj_dim": 32}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = getattr(hf, f"{name}Config")(**sizes, **heads, **tokens, **options)
    model = hf.AutoModelForCausalLM.from_config(config).eval()
    blocks = next(m for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and n.endswith("layers"))
    seen = []
    refused = pytest.raises(MainflowError, match=reason) if reason else contextlib.nullcontext()
    with (
        torch.inference_mode(),
        refused,
        mainflow_hooks(
            list(blocks), np.full((1, 5), TEXT, np.int8), lambda layer, state: seen.append((layer, state.shape))
        ),
    ):
        model(input_ids=torch.arange(3, 8)[None], use_cache=False)
    assert seen == ([] if reason else [(1, (1, 5, 32)), (2, (1, 5, 32))])


def test_what_stands_in_the_padding_reaches_no_state(tiny_adapter):
    adapter = tiny_adapter("llama")
    batch = adapter.encode(TEXT_QUESTIONS)
    padding = torch.from_numpy(batch.labels == 0)
    reference, _ = chain_of(adapter, batch)

    def overflow(module, args, output):
        return output.masked_fill(padding[..., None], torch.inf)

    handle = adapter.model.model.embed_tokens.register_forward_hook(overflow)
    try:
        seen, _ = chain_of(adapter, batch)
    finally:
        handle.remove()
    assert not seen["boundary", 1][padding].isfinite().any()
    for layer in range(1, 5):
        assert torch.equal(seen["mainflow", layer][~padding], reference["mainflow", layer][~padding])
