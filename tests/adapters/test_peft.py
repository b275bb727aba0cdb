"""A PEFT adapter beside a base model, or by itself: refused without the package, applied and named with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.adapters.measured_model import measured_model
from microscope_bench.adapters.pinned_checkpoint import Checkpoint, content_revision
from microscope_bench.adapters.presets import load_model
from microscope_bench.errors import AdapterError
from microscope_bench.identity import short_revision

FILES = ("adapter_config.json", "adapter_model.safetensors")
CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}


def add_lora(directory: Path, config: dict[str, object] = CONFIG, seed: int = 0) -> Path:
    """Writes a LoRA adapter, as the package does, for the queries and values of a checkpoint."""
    weights = load_file(directory / "model.safetensors")
    generator = torch.Generator().manual_seed(seed)
    lora = {}
    for name, weight in weights.items():
        if name.endswith(("q_proj.weight", "v_proj.weight")):
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            lora[f"{stem}.lora_A.weight"] = torch.randn(4, weight.shape[1], generator=generator)
            lora[f"{stem}.lora_B.weight"] = torch.randn(weight.shape[0], 4, generator=generator)
    (directory / FILES[0]).write_text(json.dumps(config))
    save_file(lora, directory / FILES[1], {"format": "pt"})
    return directory


@pytest.fixture
def copy(tiny, tmp_path):
    return add_lora(shutil.copytree(tiny("llama"), tmp_path / "copy"))


def load(directory: Path) -> HFAdapter:
    return HFAdapter.load({"pretrained": str(directory)}, device="cpu")


def test_without_the_package_it_is_refused(copy, monkeypatch):
    monkeypatch.setattr("transformers.utils.is_peft_available", lambda: False)
    with pytest.raises(
        AdapterError, match=r"copy has a PEFT adapter .*pip install 'microscope-bench\[peft\]'.*base model alone"
    ):
        load(copy)


def test_an_adapter_alone_says_what_to_do(copy, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    for file in FILES:
        shutil.copy(copy / file, alone)
    with pytest.raises(
        AdapterError, match=r"alone is a PEFT adapter whose adapter_config\.json names no base model\. .*peft=alone"
    ):
        load(alone)


def test_pickled_weights_of_an_adapter_are_not_loaded(copy):
    pytest.importorskip("peft", reason="needs peft: pip install 'microscope-bench[peft]'")
    torch.save(load_file(copy / FILES[1]), copy / "adapter_model.bin")
    (copy / FILES[1]).unlink()
    with pytest.raises(
        AdapterError, match=r"lacks 1 of the 2 files that its weights are in: adapter_model\.safetensors"
    ):
        load(copy)


def test_with_the_package_it_is_applied_and_in_the_identity(tiny, copy):
    pytest.importorskip("peft", reason="needs peft: pip install 'microscope-bench[peft]'")
    plain, with_lora = load(tiny("llama")), load(copy)
    assert (plain.info.peft, with_lora.info.peft) == (None, "LORA-r4")
    assert with_lora.info.revision == content_revision(copy) != plain.info.revision
    ids = torch.arange(8)[None]
    with torch.inference_mode():
        assert not torch.allclose(plain.model(ids).logits, with_lora.model(ids).logits)
    other = load(add_lora(copy, seed=1))
    assert other.info.revision != with_lora.info.revision
    other = load(add_lora(copy, {**CONFIG, "lora_alpha": 16}))
    assert other.info.revision != with_lora.info.revision


def test_an_adapter_of_another_model_is_refused(copy):
    pytest.importorskip("peft", reason="needs peft: pip install 'microscope-bench[peft]'")
    lora = load_file(copy / FILES[1])
    lora |= {name.replace("layers.0.", "layers.40."): value.clone() for name, value in lora.items()}
    save_file(lora, copy / FILES[1], {"format": "pt"})
    with pytest.raises(AdapterError, match=r"4 weights of the PEFT adapter of copy have no place in LlamaForCausalLM"):
        load(copy)


def test_a_wrapped_model_in_memory_is_named_by_its_layers_too(tiny, tmp_path):
    peft = pytest.importorskip("peft", reason="needs peft: pip install 'microscope-bench[peft]'")
    plain = load(tiny("llama"))
    wrapped = peft.get_peft_model(plain.model, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    made = HFAdapter(wrapped, plain.tokenizer, None, Checkpoint(tiny("llama"), "mine", "draft"))
    assert made.info.peft == "LORA-r2"


@pytest.fixture
def alone(tiny, copy, tmp_path):
    """The adapter of ``copy`` in a directory of its own, which names its base model."""
    directory = tmp_path / "alone"
    directory.mkdir()
    (directory / FILES[0]).write_text(json.dumps({**CONFIG, "base_model_name_or_path": str(tiny("llama"))}))
    shutil.copy(copy / FILES[1], directory)
    return directory


def logits(adapter):
    with torch.inference_mode():
        return adapter.model(torch.arange(8)[None]).logits


def test_an_adapter_of_its_own_is_put_onto_its_base_model(tiny, copy, alone):
    pytest.importorskip("peft", reason="needs peft: pip install 'microscope-bench[peft]'")
    beside, by_path = load(copy), load(alone)
    named = load_model("hf", {"pretrained": str(tiny("llama")), "peft": str(alone)}, "cpu")
    plain = load(tiny("llama"))
    assert torch.equal(logits(by_path), logits(beside)) and torch.equal(logits(named), logits(beside))
    assert not torch.equal(logits(plain), logits(beside))
    # one model, by whichever of the two it is named
    assert named.info == by_path.info and measured_model(named) == named.info
    assert (named.info.repo, named.info.peft, named.info.options) == ("llama+alone", "LORA-r4", {})
    base, _, digest = named.info.revision.partition("+peft-")
    assert base == plain.info.revision and short_revision(named.info.revision).endswith(f"+peft-{digest[:8]}")


def test_another_adapter_of_the_same_base_is_another_revision(alone):
    pytest.importorskip("peft", reason="needs peft: pip install 'microscope-bench[peft]'")
    first = load(alone).info.revision
    config = json.loads((alone / FILES[0]).read_text())
    (alone / FILES[0]).write_text(json.dumps({**config, "lora_alpha": 16}))
    assert load(alone).info.revision != first


def pickled(alone):
    torch.save(load_file(alone / FILES[1]), alone / "adapter_model.bin")
    (alone / FILES[1]).unlink()


def cut(alone):
    weights = load_file(alone / FILES[1])
    save_file(dict(list(weights.items())[1:]), alone / FILES[1], {"format": "pt"})


def of_a_larger_model(alone):
    weights = load_file(alone / FILES[1])
    more = {name.replace("layers.0.", "layers.40."): value.clone() for name, value in weights.items()}
    save_file(weights | more, alone / FILES[1], {"format": "pt"})


def of_another_width(alone):
    weights = {name: torch.cat([value, value]) for name, value in load_file(alone / FILES[1]).items()}
    save_file(weights, alone / FILES[1], {"format": "pt"})


def of_a_model_elsewhere(alone):
    (alone / FILES[0]).write_text(json.dumps({**CONFIG, "base_model_name_or_path": "/nowhere/base"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pickled, r"alone lacks adapter_model\.safetensors.*pickled weights \(\.bin\) are not loaded"),
        (cut, r"alone lacks 1 weights of its layers in LlamaForCausalLM, which would be random"),
        (of_a_larger_model, r"4 weights of the PEFT adapter alone have no place in LlamaForCausalLM .*layers\.40"),
        (of_another_width, r"the PEFT adapter alone onto llama cannot be loaded .*another model"),
        (of_a_model_elsewhere, r"alone is a PEFT adapter of /nowhere/base, which cannot be loaded.*pretrained=MODEL,"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(change, message, alone):
    pytest.importorskip("peft", reason="needs peft: pip install 'microscope-bench[peft]'")
    change(alone)
    with pytest.raises(AdapterError, match=message):
        load(alone)


def test_an_adapter_is_not_put_onto_an_adapter(alone, copy):
    with pytest.raises(AdapterError, match=r"alone is a PEFT adapter itself; give the model that peft=.* is for"):
        HFAdapter.load({"pretrained": str(alone), "peft": str(copy)}, device="cpu")


def test_an_adapter_of_its_own_needs_the_package_too(alone, monkeypatch):
    monkeypatch.setattr("transformers.utils.is_peft_available", lambda: False)
    with pytest.raises(AdapterError, match=r"the PEFT adapter alone .*pip install 'microscope-bench\[peft\]'"):
        load(alone)
