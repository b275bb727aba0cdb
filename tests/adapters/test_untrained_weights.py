"""Untrained twins: every weight drawn anew, everything else as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.adapters.omnifusion.adapter import OmniFusionAdapter
from microscope_bench.adapters.untrained_weights import seeded_initialisation, untrained_twin
from microscope_bench.errors import AdapterError
from microscope_bench.zoo.shipped import untrained_checkpoint
from tests.tiny.checkpoints import MULTIMODAL, TEXT_ONLY


def load(name, tiny, dtype="auto"):
    if name == "omnifusion":
        return OmniFusionAdapter.load(
            {"pretrained": str(untrained_checkpoint("zoo-omnifusion-untrained")), "dtype": dtype}, device="cpu"
        )
    return HFAdapter.load({"pretrained": str(tiny(name)), "dtype": dtype}, device="cpu")


def twin_of(model, seed=0):
    with seeded_initialisation(seed):
        return untrained_twin(model)


def tiny_llama(cls=LlamaForCausalLM, **config):
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    return cls(LlamaConfig(vocab_size=10, **sizes, **config))


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
@pytest.mark.parametrize("name", [*MULTIMODAL, *TEXT_ONLY, "omnifusion"])
def test_the_checkpoints_weights_are_gone_and_the_rest_stays(name, dtype, tiny):
    adapter = load(name, tiny, dtype)
    with torch.no_grad():
        for parameter in adapter.model.parameters():
            parameter.add_(10.0)  # no weight starts there, no norm's ones either
    fresh = adapter.fresh_weights(0)
    before, after = (dict(one.model.named_parameters()) for one in (adapter, fresh))
    assert before.keys() == after.keys()
    for key, old in before.items():
        new = after[key]
        assert (new.shape, new.dtype, new.device) == (old.shape, old.dtype, old.device)
        assert (new != old).all(), key
        assert new.isfinite().all()
    buffers = dict(fresh.model.named_buffers())
    assert all(torch.equal(buffer, buffers[key]) for key, buffer in adapter.model.named_buffers())
    assert fresh.info.trained is False
    assert (fresh.info.attention, fresh.info.dtype) == (adapter.info.attention, adapter.info.dtype)
    assert not fresh.model.training


@pytest.mark.parametrize("name", ["llava_next", "omnifusion"])
def test_equal_seeds_give_equal_weights(name, tiny):
    adapter = load(name, tiny)
    first, again, other = (adapter.fresh_weights(seed).model.state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(tensor, again[key]) for key, tensor in first.items())
    drawn = [key for key, tensor in first.items() if tensor.is_floating_point() and tensor.unique().numel() > 2]
    same = [key for key in drawn if torch.equal(first[key], other[key])]
    assert drawn and all("inv_freq" in key for key in same), same


def test_the_spread_is_that_of_the_architecture():
    weights = twin_of(tiny_llama(initializer_range=0.5)).model.embed_tokens.weight
    assert weights.std().item() == pytest.approx(0.5, rel=0.3)


def test_parts_in_another_precision_stay_in_it():
    model = tiny_llama().to(torch.bfloat16)
    model.model.norm.float()
    twin = twin_of(model)
    assert twin.model.norm.weight.dtype == torch.float32
    assert twin.model.embed_tokens.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_stay_tied(tied):
    twin = twin_of(tiny_llama(tie_word_embeddings=tied))
    assert (twin.lm_head.weight is twin.model.embed_tokens.weight) is tied


def test_the_callers_random_numbers_go_on_as_before():
    torch.manual_seed(5)
    expected = torch.rand(3)
    model = tiny_llama()
    torch.manual_seed(5)
    twin_of(model)
    assert torch.equal(torch.rand(3), expected)
    assert not torch.are_deterministic_algorithms_enabled()


def test_eager_attention_stays_eager(tiny):
    args = {"pretrained": str(tiny("llava_next")), "attn_implementation": "eager"}
    fresh = HFAdapter.load(args, device="cpu").fresh_weights(0)
    layers = fresh.model.model.language_model.layers
    assert {layer.self_attn.config._attn_implementation for layer in layers} == {"eager"}


class Forgetful(LlamaForCausalLM):
    """An architecture that leaves one of its weights as the memory happens to be."""

    def __init__(self, config):
        super().__init__(config)
        self.gate = nn.Parameter(torch.empty(4))


def test_weights_that_the_architecture_does_not_initialise_are_refused():
    with pytest.raises(AdapterError, match="Forgetful does not initialise 1 of its weights: gate"):
        twin_of(tiny_llama(Forgetful))


def test_a_model_that_its_configuration_does_not_describe_is_refused():
    model = tiny_llama()
    model.lm_head = nn.Linear(8, 12, bias=False)
    with pytest.raises(AdapterError, match=r"1 weights are missing or of another shape .*lm_head\.weight"):
        twin_of(model)


def test_quantised_and_spread_models_are_refused():
    model = tiny_llama()
    model.lm_head.to("meta")
    with pytest.raises(AdapterError, match="without device_map"):
        twin_of(model)
    model.config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(AdapterError, match="without quantisation"):
        twin_of(model)
