"""A model is measured in evaluation mode and uncompiled, and comes out of it as it went in."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from microscope_bench.adapters.evaluation_mode import evaluation_mode, random_states_kept, unwrapped
from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.adapters.pinned_checkpoint import Checkpoint
from microscope_bench.adapters.presets import load_model
from microscope_bench.check import check
from microscope_bench.errors import AdapterError, CaptureError, MicroscopeError
from tests.tiny.families import llama
from tests.tiny.questions import PICTURE_QUESTIONS, TEXT_QUESTIONS
from tests.toy import WIDTH, TextTask, ToyAdapter, ToyTask, run


class Dropping(ToyAdapter):
    """The toy with dropout and a norm that counts; its modules are in all sorts of places."""

    def __init__(self, fails=False):
        super().__init__()
        self.fails = fails
        self.parts = {"norms": [nn.BatchNorm1d(WIDTH)]}
        for layer in self.layers:
            layer.mlp.append(nn.Dropout(0.5))

    def modules(self):
        roots = (self.embedding, self.eye, self.layers, self.head, self.parts["norms"][0])
        return [module for root in roots for module in root.modules()]

    def forward(self, batch, *, logits):
        assert not torch.is_grad_enabled() and not any(module.training for module in self.modules())
        if self.fails:
            raise CaptureError("it fails")
        self.parts["norms"][0](torch.randn(4, WIDTH))
        return super().forward(batch, logits=logits)


def values(result):
    return [score.value for score in result.scores]


@pytest.mark.parametrize("training", [True, False])
def test_training_mode_changes_nothing_and_is_restored_for_each_module(training):
    expected = run(adapter=ToyAdapter(), task=ToyTask(40))
    adapter = Dropping()
    for module in adapter.modules():
        module.training = training
    adapter.layers[0].mlp.training = not training  # one of its own
    before = [(module, module.training) for module in adapter.modules()]
    hooks = [len(module._forward_hooks) for module in adapter.modules()]
    found = run(adapter=adapter, task=ToyTask(40), mainflow=True)
    assert values(found)[: len(values(expected))] == values(expected) or found.identity != expected.identity
    assert values(run(adapter=adapter, task=ToyTask(40))) == values(expected)
    assert [(module, module.training) for module in adapter.modules()] == before
    assert [len(module._forward_hooks) for module in adapter.modules()] == hooks
    assert adapter.parts["norms"][0].num_batches_tracked == 0 and torch.is_grad_enabled()


def test_it_is_restored_where_the_run_raises():
    adapter = Dropping(fails=True)
    with pytest.raises(CaptureError, match="it fails"):
        run(adapter=adapter, task=ToyTask(4))
    assert all(module.training for module in adapter.modules())
    with pytest.raises(KeyboardInterrupt), evaluation_mode(adapter):
        raise KeyboardInterrupt
    assert all(module.training for module in adapter.modules())


def test_check_and_taps_look_at_it_in_evaluation_mode():
    adapter = load_model("zoo-llava", device="cpu")
    adapter.model.train()
    for module in adapter.model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    report = check(adapter, PICTURE_QUESTIONS)
    assert report.passed, str(report)
    assert check(adapter.tapped("vision"), PICTURE_QUESTIONS).passed
    assert all(module.training for module in adapter.model.modules())
    assert adapter.model.config.get_text_config().use_cache


def in_memory(model, tokenizer):
    return HFAdapter(model, tokenizer, None, Checkpoint(Path(), "mine", "sha256-" + "0" * 16))


def compiled(how):
    model, tokenizer = llama()
    if how == "wrapped":
        return torch.compile(model), tokenizer
    if how == "in place":
        model.compile()
    if how == "its forward":
        model.forward = torch.compile(model.forward)
    if how == "its layers":
        for index, layer in enumerate(model.model.layers):
            model.model.layers[index] = torch.compile(layer)
    if how == "data parallel":
        return nn.DataParallel(model), tokenizer
    return model, tokenizer


@pytest.mark.parametrize("how", ["wrapped", "in place", "its forward", "its layers", "data parallel"])
def test_compiled_models_are_measured_uncompiled(how):
    expected = run(adapter=in_memory(*llama()), task=TextTask(20))
    found = run(adapter=in_memory(*compiled(how)), task=TextTask(20))
    assert values(found) == values(expected)
    assert found.identity.model.architecture == "LlamaForCausalLM"
    assert check(in_memory(*compiled(how)), TEXT_QUESTIONS).passed


class Peft(nn.Module):
    """Stands in for ``PeftModel``, by what of it is used."""

    def __init__(self, model, *, prompt_learning):
        super().__init__()
        self.base = model
        self.peft_config = {"default": SimpleNamespace(is_prompt_learning=prompt_learning)}

    def get_base_model(self):
        return self.base


def test_models_of_peft_are_taken_with_their_layers_or_refused():
    model, _ = llama()
    assert unwrapped(torch.compile(Peft(torch.compile(model), prompt_learning=False))) is model
    with pytest.raises(AdapterError, match=r"learned vectors .* model\.get_base_model\(\)"):
        unwrapped(Peft(model, prompt_learning=True))


def test_a_name_is_what_results_call_the_model(tiny):
    args = {"pretrained": str(tiny("llama"))}
    plain, named = load_model("hf", args, "cpu"), load_model("hf", {**args, "name": "Mine, step 500"}, "cpu")
    assert (named.info.name, named.info.repo, named.info.options) == ("Mine, step 500", "llama", {})
    assert plain.info.name == "llama" and named.info.revision == plain.info.revision
    assert load_model("zoo-llava", "name=first", "cpu").info.name == "first"
    for bad in ("", "two\nlines", "x" * 501):
        with pytest.raises(MicroscopeError, match="model arg name must be one line"):
            load_model("hf", {**args, "name": bad}, "cpu")


def test_random_states_of_all_gpus_come_back(monkeypatch):
    """Stand-ins, since a machine may have none: a model may draw on another GPU than the current one."""
    states = {0: "first", 1: "second"}
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(states))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_rng_state", states.get)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: states.update({device: state}))
    with random_states_kept():
        states.update({0: "drawn", 1: "drawn"})
    assert states == {0: "first", 1: "second"}
