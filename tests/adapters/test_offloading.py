"""Big models: spread over devices, offloaded, quantised."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.adapters.offloading import device_options, input_device, offloading_fails
from microscope_bench.adapters.pinned_checkpoint import Checkpoint
from microscope_bench.adapters.quantization import quantised_modules, quantization_name, refuse_unscaled
from microscope_bench.adapters.weights_digest import weights_digest
from microscope_bench.capture.hooks import run_pass
from microscope_bench.check import check
from microscope_bench.errors import AdapterError, UnknownNameError
from tests.tiny.questions import PICTURE_QUESTIONS


def boundaries(adapter, *, logits: bool) -> list[torch.Tensor]:
    kept: list[torch.Tensor] = []
    run_pass(adapter, adapter.encode(PICTURE_QUESTIONS), lambda _, hidden: kept.append(hidden.clone()), logits=logits)
    return kept


@pytest.mark.parametrize("family", ["llava_next", "qwen3_vl", "blip_2"])
@pytest.mark.filterwarnings("ignore:The following device_map keys")
def test_what_lies_on_disk_gives_the_same_bits(family, tiny, tiny_adapter, tmp_path):
    pytest.importorskip("accelerate")
    args = {"device_map": "auto", "max_memory": "cpu:60KB", "offload_folder": str(tmp_path / "offloaded")}
    offloaded, plain = HFAdapter.load({"pretrained": str(tiny(family)), **args}), tiny_adapter(family)
    assert "disk" in offloaded.model.hf_device_map.values()
    assert any(parameter.device.type == "meta" for parameter in offloaded.model.parameters())
    assert offloaded.info == plain.info  # where the weights lie is not part of which model it is
    assert weights_digest(offloaded) == weights_digest(plain)
    for logits in (True, False, False):  # a pass that ends after the last block leaves the next one as it was
        for mine, theirs in zip(boundaries(offloaded, logits=logits), boundaries(plain, logits=logits), strict=True):
            assert torch.equal(mine, theirs)
    report = check(offloaded, PICTURE_QUESTIONS)
    assert report.passed, str(report)


def test_fresh_weights_of_a_model_that_is_spread_are_refused(tiny, tmp_path):
    pytest.importorskip("accelerate")
    args = {"device_map": "auto", "max_memory": "cpu:60KB", "offload_folder": str(tmp_path)}
    adapter = HFAdapter.load({"pretrained": str(tiny("llava")), **args})
    with pytest.raises(AdapterError, match="spread over several devices"):
        adapter.fresh_weights(0)


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ({"max_memory": "cpu:1GiB"}, AdapterError, "need device_map=auto"),
        ({"offload_folder": "somewhere"}, AdapterError, "need device_map=auto"),
        ({"device_map": "auto"}, AdapterError, "leave --device cpu out"),
        ({"device_map": "auto", "max_memory": "1GiB"}, AdapterError, r"is not device:size;device:size"),
        ({"quantization": "bnb-4bits"}, UnknownNameError, "Did you mean bnb-4bit"),
    ],
)
def test_bad_arguments(args, error, message, tiny):
    with pytest.raises(error, match=message):
        HFAdapter.load({"pretrained": str(tiny("llava")), **args}, device="cpu")


@pytest.mark.parametrize(("name", "package"), [("bnb-8bit", "bitsandbytes"), ("torchao-int8", "torchao")])
def test_a_missing_package_is_named(name, package, tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.quantization", None)
    with pytest.raises(AdapterError, match=f"needs {package} .*pip install {package}"):
        HFAdapter.load({"pretrained": str(tiny("llava")), "quantization": name}, device="cpu")


MODULES = {"model.layers.0.q_proj": "Linear8bitLt", "model.layers.1.q_proj": "Linear8bitLt"}


def test_quantisations_that_differ_in_anything_have_different_names():
    base = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    names = [
        quantization_name({**base, **more}, MODULES)
        for more in ({}, {"bnb_4bit_quant_type": "fp4"}, {"load_in_4bit": False})
    ]
    names.append(quantization_name(base, {**MODULES, "model.tower.0": "Linear8bitLt"}))
    names.append(quantization_name(base, {name.replace("q_", "k_"): kind for name, kind in MODULES.items()}))
    assert len(set(names)) == 5
    assert names[0].startswith("bitsandbytes-4bit@") and names[2].startswith("bitsandbytes@")
    assert names[3].endswith(",layers:Linear8bitLt:2,tower:Linear8bitLt:1")


def test_the_name_of_a_quantisation_says_neither_where_weights_lie_nor_what_was_wished_to_be_left_out():
    base = {"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_skip_modules": ["lm_head", "vision"]}
    moved = {"llm_int8_enable_fp32_cpu_offload": True, "llm_int8_skip_modules": ["vision"]}
    assert quantization_name({**base, **moved}, MODULES) == quantization_name(base, MODULES)


class Stored(nn.Module):
    """A module of a quantised model, as the libraries have them."""

    def __init__(self, weight: torch.Tensor, buffer: bool) -> None:
        super().__init__()
        if buffer:
            self.register_buffer("qweight", weight)
        else:
            self.weight = nn.Parameter(weight, requires_grad=False)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.float8_e4m3fn])
@pytest.mark.parametrize("buffer", [False, True])
def test_what_was_quantised_is_counted_from_the_modules(dtype, buffer, tiny):
    adapter = HFAdapter.load({"pretrained": str(tiny("llava"))}, device="cpu")
    assert quantised_modules(adapter.model) == {}
    adapter.model.model.language_model.layers[0].mlp = Stored(torch.zeros(4, 4, dtype=dtype), buffer)
    adapter.model.model.vision_tower.encoder.layers[0].mlp = Stored(torch.zeros(4, 4, dtype=dtype), buffer)
    made = HFAdapter(adapter.model, adapter.tokenizer, adapter.processor, Checkpoint(tiny("llava"), "mine", "draft"))
    assert made.info.quantization.startswith("quantised@")
    assert made.info.quantization.endswith(",language_model:Stored:1,vision_tower:Stored:1")


@pytest.mark.parametrize(
    ("name", "package", "counted"),
    [
        ("bnb-8bit", "bitsandbytes", ",language_model:Linear8bitLt:28,multi_modal_projector:Linear8bitLt:2,"),
        ("bnb-4bit", "bitsandbytes", ",language_model:Linear4bit:28,multi_modal_projector:Linear4bit:2,"),
        ("torchao-int8", "torchao", ",language_model:Int8Tensor:28,multi_modal_projector:Int8Tensor:2,"),
    ],
)
def test_a_real_quantisation_is_counted_and_its_weights_stay_those_that_were_loaded(name, package, counted, tiny):
    pytest.importorskip(package, reason=f"needs {package}: make matrix")
    adapter = HFAdapter.load({"pretrained": str(tiny("llava")), "quantization": name}, device="cpu")
    assert counted in adapter.info.quantization
    assert weights_digest(adapter) == adapter.loaded_weights
    with suppress(RuntimeError):  # the layers of a tiny model are too small for four bits
        adapter.forward(adapter.encode(PICTURE_QUESTIONS[:1]), logits=True)
    assert weights_digest(adapter) == adapter.loaded_weights
    scale = next(m for n, m in adapter.model.named_modules() if n.endswith("down_proj")).weight
    with torch.no_grad():
        next(tensor for tensor in tensors_of(scale)).flatten()[0] += 1
    assert weights_digest(adapter) != adapter.loaded_weights


def tensors_of(tensor):
    """The tensors that a quantised one is made of, or itself."""
    if hasattr(tensor, "__tensor_flatten__"):
        return [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]
    return [tensor.data]


def test_plain_weights_that_are_called_quantised_are_refused(tiny, tmp_path):
    copy = shutil.copytree(tiny("llama"), tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(AdapterError, match=r"config\.json of copy says that bitsandbytes .* but they are plain; take"):
        HFAdapter.load({"pretrained": str(copy)}, device="cpu")


@pytest.mark.parametrize("method", ["bitsandbytes", "fp8", "compressed-tensors"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_weights_of_eight_bits_without_scales_are_refused_and_not_called_plain(method, dtype, tiny, tmp_path):
    copy = shutil.copytree(tiny("llama"), tmp_path / "copy")
    weights = {name: weight.to(dtype) for name, weight in load_file(copy / "model.safetensors").items()}
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((copy / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "load_in_8bit": method == "bitsandbytes"}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(AdapterError, match=rf"that {method} has .* have no scale beside them .* fetch the checkpoint"):
        HFAdapter.load({"pretrained": str(copy)}, device="cpu")


@pytest.mark.parametrize(
    ("weight", "scale"),
    [
        ("U8", "weight.absmax"),
        ("U8", "weight.quant_state.bitsandbytes__nf4"),
        ("I8", "SCB"),
        ("F8_E4M3", "weight_scale_inv"),
        ("I8", "weight_scale"),
    ],
)
def test_weights_with_scales_are_left_to_transformers(weight, scale):
    config = SimpleNamespace(quantization_config={"quant_method": "bitsandbytes"})
    refuse_unscaled("copy", config, {"a.weight": weight, f"a.{scale}": "F32"})
    with pytest.raises(AdapterError, match=r"1 of them have no scale beside them \(b\.weight of "):
        refuse_unscaled("copy", config, {"a.weight": weight, f"a.{scale}": "F32", "b.weight": weight})


def test_memory_is_given_by_the_number_of_a_gpu_or_the_name_of_a_place():
    assert device_options("auto", "0:20GiB;1:8GiB;cpu:60GiB", "folder") == {
        "device_map": "auto",
        "max_memory": {0: "20GiB", 1: "8GiB", "cpu": "60GiB"},
        "offload_folder": "folder",
    }


@pytest.mark.parametrize(
    ("places", "device"),
    [
        ({"embed": "disk", "layers.0": "cuda:0", "layers.1": "cuda:1"}, "cuda:0"),
        ({"embed": "cpu", "layers.0": "disk"}, "cpu"),
    ],
)
def test_inputs_of_a_model_that_is_offloaded_go_where_its_first_weights_are_brought(places, device):
    weights = torch.nn.Embedding(4, 2, device="meta")
    model = SimpleNamespace(get_input_embeddings=lambda: weights, hf_device_map=places)
    assert input_device(model) == torch.device(device)


def test_only_an_empty_tensor_of_an_offloaded_model_is_laid_to_offloading():
    offloaded, plain = torch.nn.Linear(2, 2, device="meta"), torch.nn.Linear(2, 2)
    of_meta, other = RuntimeError("Tensor on device meta is not on cpu"), RuntimeError("out of memory")
    assert "cannot be offloaded" in str(offloading_fails("model", offloaded, of_meta))
    for model, error in ((offloaded, other), (plain, of_meta), (plain, other)):
        assert offloading_fails("model", model, error) is None


def test_torchao_int8(tiny, tiny_adapter, tmp_path):
    pytest.importorskip("torchao", reason="needs torchao: make matrix")
    quantised, plain = (
        HFAdapter.load({"pretrained": str(tiny("llava")), **args}, device="cpu")
        for args in ({"quantization": "torchao-int8"}, {})
    )
    assert plain.info.quantization is None and quantised.info.quantization.startswith("torchao@")
    assert check(quantised, PICTURE_QUESTIONS).passed
    mine, theirs = boundaries(quantised, logits=False)[-1], boundaries(plain, logits=False)[-1]
    relative = float((mine - theirs).norm() / theirs.norm())
    assert 1e-5 < relative < 0.1  # another model, but a near one
    quantised.model.save_pretrained(tmp_path / "quantised")
    quantised.processor.save_pretrained(tmp_path / "quantised")
    config = json.loads((tmp_path / "quantised" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "torchao"
    again = HFAdapter.load({"pretrained": str(tmp_path / "quantised")}, device="cpu")
    assert again.info.quantization == quantised.info.quantization
    assert torch.equal(boundaries(again, logits=False)[-1], mine)
    with pytest.raises(AdapterError, match="is quantised"):
        quantised.fresh_weights(0)


def test_an_architecture_that_accelerate_cannot_offload_says_so(tiny, tmp_path):
    pytest.importorskip("accelerate")
    args = {"device_map": "auto", "max_memory": "cpu:60KB", "offload_folder": str(tmp_path / "offloaded")}
    adapter = HFAdapter.load({"pretrained": str(tiny("mllama")), **args})
    with pytest.raises(AdapterError, match=r"cannot be offloaded by accelerate as it is .*max_memory"):
        adapter.forward(adapter.encode(PICTURE_QUESTIONS[:1]), logits=True)
