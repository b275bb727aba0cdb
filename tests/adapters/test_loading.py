"""Pinning: hub ids to commits, directories to content hashes; and checkpoints that must be refused."""

from __future__ import annotations

import json
import re
import shutil
from importlib.util import find_spec
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import constants, errors
from safetensors.torch import load_file, save_file
from transformers import LlavaConfig

from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.adapters.model_args import DTYPES
from microscope_bench.adapters.pinned_checkpoint import content_revision, resolve_checkpoint
from microscope_bench.adapters.weight_places import loading_dtype
from microscope_bench.errors import AdapterError, ExampleError, UnknownNameError
from microscope_bench.example import Audio, Example
from tests.tiny.questions import WIDE

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(tiny, tmp_path, monkeypatch):
    """A hub cache in its real layout, holding one model, in offline mode."""
    repo = tmp_path / "models--org--tiny"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    shutil.copytree(tiny("llava"), repo / "snapshots" / COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return repo


@pytest.fixture
def online(hub_cache, monkeypatch):
    """The same cache with a hub that answers as the test says; records what was asked of it."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
    hub = SimpleNamespace(answer=lambda: SimpleNamespace(sha=COMMIT), downloads=[])

    def model_info(repo, *, revision=None, timeout=None):
        return hub.answer()

    in_cache = huggingface_hub.snapshot_download

    def snapshot_download(repo, *, revision, local_files_only=False, **options):
        if local_files_only:  # a look into the cache, no download
            return in_cache(repo, revision=revision, local_files_only=True, **options)
        hub.downloads.append((repo, revision))
        return str(hub_cache / "snapshots" / revision)

    monkeypatch.setattr(huggingface_hub, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return hub


def test_offline_a_cached_hub_model_loads_by_its_commit(hub_cache):
    adapter = HFAdapter.load({"pretrained": "org/tiny"}, device="cpu")
    assert (adapter.info.name, adapter.info.repo, adapter.info.revision) == ("org/tiny", "org/tiny", COMMIT)
    assert resolve_checkpoint("org/tiny", COMMIT).path == hub_cache / "snapshots" / COMMIT


@pytest.mark.parametrize(("repo", "revision"), [("org/other", None), ("org/tiny", "v2"), ("org/tiny", "f" * 40)])
def test_offline_what_is_not_cached_is_an_error_that_says_so(repo, revision, hub_cache):
    with pytest.raises(AdapterError, match="is not in the local hub cache and HF_HUB_OFFLINE is set"):
        resolve_checkpoint(repo, revision)


def test_online_the_commit_is_pinned_before_anything_is_fetched(online):
    online.answer = lambda: SimpleNamespace(sha=COMMIT)
    assert resolve_checkpoint("org/tiny", "v1").revision == COMMIT
    assert online.downloads == [("org/tiny", COMMIT)]


def response_error(kind):
    request = SimpleNamespace(method="GET", url="https://hub.example")
    response = SimpleNamespace(status_code=404, headers={}, request=request, text="", json=dict)
    return kind("no", response=response)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (errors.GatedRepoError, "is gated: accept its licence at .*org/tiny, then log in"),
        (errors.RepositoryNotFoundError, "no model org/tiny on the hub, or it is private.*pretrained=path/to"),
        (errors.RevisionNotFoundError, "has no revision 'v9'"),
    ],
)
def test_online_refusals_of_the_hub_say_what_to_do(kind, message, online):
    def refuse():
        raise response_error(kind)

    online.answer = refuse
    with pytest.raises(AdapterError, match=message):
        resolve_checkpoint("org/tiny", "v9")


def test_an_unreachable_hub_names_the_cached_commit_and_the_way_to_a_directory(online):
    def unreachable():
        raise ConnectionError("name resolution failed")

    online.answer = unreachable
    with pytest.raises(AdapterError, match=f"cannot be reached.*revision={COMMIT} loads that.*pretrained=path/to"):
        resolve_checkpoint("org/tiny")
    assert not online.downloads, "a cached copy must not be taken silently"


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c"])
def test_a_path_that_is_not_there(name):
    with pytest.raises(AdapterError, match="no such directory"):
        resolve_checkpoint(name)


def test_content_revision_is_of_the_content_alone(tiny, tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    shutil.copytree(tiny("llama"), first)
    shutil.copytree(tiny("llama"), second)
    (second / "README.md").write_text("words")
    assert content_revision(first) == content_revision(second)
    weights = second / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    assert content_revision(first) != content_revision(second)
    assert len(content_revision(first)) == len("sha256-") + 16


@pytest.mark.parametrize(
    "name", ["additional_chat_templates/default.jinja", "tokenizer.model.v3", "chat_template.jinja"]
)
def test_whatever_transformers_reads_is_in_the_revision(name, tiny, tmp_path):
    copy = copy_of(tiny("llama"), tmp_path / "copy")
    before = content_revision(copy)
    (copy / name).parent.mkdir(exist_ok=True)
    (copy / name).write_text("{{ messages }}")
    assert content_revision(copy) != before


def copy_of(source, target):
    shutil.copytree(source, target)
    return target


def test_missing_weights_are_refused_by_name(tiny, tmp_path):
    copy = copy_of(tiny("llava"), tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    projector = [name for name in weights if "multi_modal_projector.linear_1" in name]
    assert projector
    kept = {name: value for name, value in weights.items() if name not in projector}
    save_file(kept, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(AdapterError, match=r"lacks 2 weights .*multi_modal_projector\.linear_1\.bias"):
        HFAdapter.load({"pretrained": str(copy)}, device="cpu")


def test_pickled_weights_are_not_loaded(tiny, tmp_path):
    copy = copy_of(tiny("llama"), tmp_path / "copy")
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(AdapterError, match=r"no \.safetensors weights.*save_pretrained"):
        HFAdapter.load({"pretrained": str(copy)}, device="cpu")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, "has no config.json"),
        ("config.json", '{"model_type": "llavaX"}', "configuration of copy cannot be loaded"),
        ("config.json", "{", "config.json of copy is not JSON"),
        ("tokenizer.json", "{", "processor of copy cannot be loaded"),
    ],
)
def test_damaged_checkpoints(file, content, message, tiny, tmp_path):
    copy = copy_of(tiny("llava"), tmp_path / "copy")
    if content is None:
        (copy / file).unlink()
    else:
        (copy / file).write_text(content)
    with pytest.raises(AdapterError, match=message):
        HFAdapter.load({"pretrained": str(copy)}, device="cpu")


def test_quantised_weights_of_which_the_configuration_says_nothing_are_refused(tiny, tmp_path):
    copy = shutil.copytree(tiny("llava"), tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    name = next(name for name in weights if name.endswith("q_proj.weight") and "language_model" in name)
    weights[name.replace(".weight", ".SCB")] = torch.ones(weights[name].shape[0])
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AdapterError, match=r"holds quantised weights .*SCB.*quantization_config"):
        HFAdapter.load({"pretrained": str(copy)}, device="cpu")


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.float8_e4m3fn])
@pytest.mark.parametrize("ending", ["q_proj.weight", "embed_tokens.weight", "norm.weight"])
def test_weights_of_integers_and_eight_bits_without_a_configuration_are_refused(dtype, ending, tiny, tmp_path):
    copy = shutil.copytree(tiny("llama"), tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    name = next(name for name in weights if name.endswith(ending))
    weights[name] = (weights[name] * 100).to(dtype)
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    message = rf"holds quantised weights \({re.escape(name)} of \w+\) .*Put its quantization_config back"
    with pytest.raises(AdapterError, match=message):
        HFAdapter.load({"pretrained": str(copy)}, device="cpu")


def test_masks_and_positions_of_integers_are_no_quantised_weights(tiny, tmp_path, caplog):
    copy = shutil.copytree(tiny("llama"), tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    weights["model.layers.0.self_attn.bias"] = torch.ones(1, 1, 4, 4, dtype=torch.uint8)
    weights["model.position_ids"] = torch.arange(4)[None]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    HFAdapter.load({"pretrained": str(copy)}, device="cpu")
    assert "copy: 2 weights have no place in LlamaForCausalLM: model.layers.0.self_attn.bias" in caplog.text


def test_a_configuration_of_fewer_layers_than_the_weights_have_is_refused(tiny, tmp_path):
    copy = shutil.copytree(tiny("llava"), tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    n = config["text_config"]["num_hidden_layers"] - 1
    config["text_config"]["num_hidden_layers"] = n
    config["text_config"].pop("layer_types", None)
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(AdapterError, match=rf"more decoder blocks than config\.json says \(.*layers\.{n}\."):
        HFAdapter.load({"pretrained": str(copy)}, device="cpu")


@pytest.mark.parametrize(
    ("method", "package", "message"),
    [
        ("gptq", "optimum", "needs optimum: pip install optimum$"),
        ("torchao", "torchao", "needs torchao: pip install torchao$"),
        ("compressed-tensors", "compressed-tensors", "needs (compressed-tensors>=[0-9.]+): pip install '\\1'$"),
        ("hqq", "hqq", r"cannot be loaded \(ImportError: A valid HQQ .*\)\. Install what it asks for\.$"),
    ],
)
def test_a_package_that_the_quantisation_needs_is_named(method, package, message, tiny, tmp_path):
    if find_spec(package.replace("-", "_")):
        pytest.skip(f"{package} is installed")
    copy = shutil.copytree(tiny("llama"), tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "bits": 4}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(AdapterError, match=f"^the model of copy {message}"):
        HFAdapter.load({"pretrained": str(copy)}, device="cpu")


def test_missing_shards_are_named(tiny, tmp_path):
    copy = shutil.copytree(tiny("llava"), tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    first = dict(list(weights.items())[:10])
    save_file(first, copy / "model-00001-of-00002.safetensors", metadata={"format": "pt"})
    shard = {name: f"model-0000{1 if name in first else 2}-of-00002.safetensors" for name in weights}
    (copy / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shard}))
    with pytest.raises(AdapterError, match=r"lacks 1 of the 2 files .*: model-00002-of-00002\.safetensors\. Fetch"):
        HFAdapter.load({"pretrained": str(copy)}, device="cpu")


@pytest.mark.parametrize(
    ("example", "error", "message"),
    [
        (
            Example("q", "<audio>What?", audios=(Audio(np.zeros(9, np.float32), 16000),)),
            AdapterError,
            "no modality audio",
        ),
        (
            Example("q", "<video>What?", videos=((WIDE, WIDE),)),
            AdapterError,
            "no modality video.*a model that takes it",
        ),
        (Example("q", "<image>What?", images=("file.png",)), ExampleError, "example q: .*in the processor"),
        (Example("q", "What?", images=(WIDE,)), ExampleError, "holds 0 <image> but it has 1 pictures"),
    ],
)
def test_media_of_the_wrong_kind(example, error, message, tiny_adapter):
    with pytest.raises(error, match=message):
        tiny_adapter("llava").encode([example])


def test_a_package_that_a_model_needs_is_named(tiny, monkeypatch):
    def without_timm(*args, **kwargs):
        raise ImportError("\nTimmWrapperModel requires the timm library but it was not found in your environment.")

    monkeypatch.setattr("transformers.AutoModelForMultimodalLM.from_pretrained", without_timm)
    with pytest.raises(AdapterError, match=r"^the model of llava needs timm: pip install timm$"):
        HFAdapter.load({"pretrained": str(tiny("llava"))}, device="cpu")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"attn_implementation": "flash_attention_2"}, "needs flash-attn: pip install flash-attn .*leave attn_impl"),
        ({"load_in_4bit": "true"}, "unknown model arg 'load_in_4bit'.*quantization=bnb-4bit"),
        ({"variant": "fp16"}, r"unknown model arg 'variant'.*named model\.safetensors"),
    ],
)
def test_options_of_other_programs_have_their_remedy(args, message, tiny):
    with pytest.raises((AdapterError, UnknownNameError), match=message):
        HFAdapter.load({"pretrained": str(tiny("llama")), **args}, device="cpu")


def test_an_empty_directory_is_no_checkpoint(tmp_path):
    with pytest.raises(AdapterError, match="is it a checkpoint"):
        resolve_checkpoint(str(tmp_path))


def test_code_of_a_checkpoint_never_runs(tiny, tmp_path):
    copy = copy_of(tiny("llama"), tmp_path / "copy")
    (copy / "config.json").write_text('{"model_type": "foreign", "auto_map": {"AutoConfig": "code.Config"}}')
    (copy / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(AdapterError, match="code that ships with a checkpoint is never run"):
        HFAdapter.load({"pretrained": str(copy)}, device="cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "given, configured, stored, expected",
    [
        *((name, torch.float16, "F16", getattr(torch, name)) for name in DTYPES),
        ("auto", torch.float16, "F16", "auto"),
        (None, torch.float16, "F16", torch.float32),
        (None, torch.bfloat16, "BF16", "auto"),
        (None, torch.bfloat16, "F16", "auto"),  # transformers goes by the configuration
        (None, None, "F16", torch.float32),  # and without one by the files
        (None, None, "BF16", "auto"),
    ],
)
def test_a_cpu_computes_in_float32_what_is_stored_in_float16_unless_asked(given, configured, stored, expected):
    config = LlavaConfig(dtype=configured)
    assert loading_dtype(given, config, {"weight": stored}, torch.device("cpu")) == expected
    if given is None:
        assert loading_dtype(given, config, {"weight": stored}, torch.device("cuda", 0)) == "auto"
        for part in (config, config.text_config):
            part.quantization_config = {"quant_method": "gptq"}
            assert loading_dtype(given, config, {"weight": stored}, torch.device("cpu")) == "auto"
            del part.quantization_config
