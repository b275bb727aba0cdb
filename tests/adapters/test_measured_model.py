"""The identity is of the weights and the code that are in memory, whatever the checkpoint and its name say."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.adapters.measured_model import measured_model
from microscope_bench.adapters.pinned_checkpoint import Checkpoint
from microscope_bench.adapters.weights_digest import weights_digest
from microscope_bench.controls import Run, with_control
from microscope_bench.errors import StoreError
from microscope_bench.identity import short_revision
from tests.toy import ToyAdapter, ToyTask, run


@pytest.fixture
def adapter(tiny) -> HFAdapter:
    return HFAdapter.load({"pretrained": str(tiny("llava"))}, device="cpu")


def test_an_unchanged_model_is_what_its_checkpoint_says(adapter):
    assert measured_model(adapter) == adapter.info
    assert measured_model(adapter.tapped("vision")) == adapter.tapped("vision").info
    with torch.inference_mode():
        adapter.model.model.language_model(torch.arange(8)[None])
    assert measured_model(adapter) == adapter.info


def scale_in_place(model: nn.Module) -> None:
    model.get_parameter("model.language_model.layers.1.mlp.down_proj.weight").data.mul_(1.5)


def last_bit(model: nn.Module) -> None:
    weight = model.get_parameter("model.vision_tower.embeddings.patch_embedding.weight")
    weight.data.view(torch.int32).flatten()[-1] ^= 1


def negate_everything(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data.neg_()


def exchange_two_rows(model: nn.Module) -> None:
    weight = model.get_input_embeddings().weight
    weight.data[[5, 6]] = weight.data[[6, 5]]


def exchange_two_layers(model: nn.Module) -> None:
    layers = model.model.language_model.layers
    layers[0], layers[1] = layers[1], layers[0]


def change_a_buffer(model: nn.Module) -> None:
    model.model.language_model.rotary_emb.inv_freq.mul_(2)


def another_dtype(model: nn.Module) -> None:
    model.bfloat16()


def a_new_module(model: nn.Module) -> None:
    model.model.multi_modal_projector.linear_1 = nn.Linear(*model.model.multi_modal_projector.linear_1.weight.T.shape)


@pytest.mark.parametrize(
    "change",
    [
        scale_in_place,
        last_bit,
        negate_everything,
        exchange_two_rows,
        exchange_two_layers,
        change_a_buffer,
        another_dtype,
        a_new_module,
    ],
)
def test_weights_that_changed_after_loading_are_told(change, adapter):
    change(adapter.model)
    revision = measured_model(adapter).revision
    assert revision == f"{adapter.info.revision}+weights-{weights_digest(adapter)}"
    assert short_revision(revision) == f"{adapter.info.revision[:15]}+weights-{weights_digest(adapter)[:8]}"


def test_weights_that_are_put_back_are_those_of_the_checkpoint(adapter):
    weight = adapter.model.get_input_embeddings().weight
    before = weight.detach().clone()
    weight.data.zero_()
    assert measured_model(adapter) != adapter.info
    weight.data = before
    assert measured_model(adapter) == adapter.info


def test_a_model_made_in_memory_has_its_weights_in_its_revision(tiny, adapter):
    checkpoint = Checkpoint(tiny("llava"), "mine", "draft")
    made = HFAdapter(adapter.model, adapter.tokenizer, adapter.processor, checkpoint)
    assert measured_model(made).revision == f"draft+weights-{weights_digest(adapter)}"


def test_the_untrained_control_of_a_checkpoint_is_that_of_its_revision(adapter):
    changed = with_control("untrained", Run(adapter, ToyTask(), 1, 0)).adapter
    assert measured_model(changed).revision == adapter.info.revision
    changed.model.get_input_embeddings().weight.data.zero_()
    assert "+weights-" in measured_model(changed).revision


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "interrupted"])
def test_a_store_of_other_weights_is_refused(kept, tmp_path):
    adapter = ToyAdapter(break_at=None if kept else 3)
    if kept:
        run(None, adapter, store=tmp_path / "store", keep_store=True)
    else:
        with pytest.raises(KeyboardInterrupt):
            run(None, adapter, store=tmp_path / "store")
    adapter.break_at = None
    adapter.layers[1].mlp[2].weight.data.mul_(1.01)
    with pytest.raises(StoreError, match=r"the states of another run \(different: identity\.model\.revision"):
        run(None, adapter, store=tmp_path / "store")


PLACES = {"attribute": lambda m: m, "list": lambda m: [m], "dict": lambda m: {"a": {"b": m}}}
PLACES["object"] = lambda m: SimpleNamespace(inner=SimpleNamespace(model=m))


@pytest.mark.parametrize("place", PLACES)
def test_a_module_is_found_wherever_an_adapter_holds_it(place):
    adapter, module = ToyAdapter(), nn.Linear(2, 2)
    adapter.held = PLACES[place](module)
    before = weights_digest(adapter)
    module.weight.data.add_(1)
    assert weights_digest(adapter) != before


def test_blocks_that_no_attribute_holds_are_found():
    class Elsewhere(ToyAdapter):
        def blocks(self):
            return list(ELSEWHERE)

    ELSEWHERE = nn.ModuleList([nn.Linear(2, 2)])
    adapter = Elsewhere()
    before = weights_digest(adapter)
    ELSEWHERE[0].weight.data.zero_()
    assert weights_digest(adapter) != before
