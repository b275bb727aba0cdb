"""Names to models."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

from microscope_bench.adapters import presets
from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.adapters.model_args import DTYPES
from microscope_bench.adapters.overrides import FUSIONS, overrides_for
from microscope_bench.adapters.presets import ADAPTERS, MODELS, Preset, load_model
from microscope_bench.adapters.published_checkpoints import PUBLISHED
from microscope_bench.errors import AdapterError, MicroscopeError, UnknownNameError
from microscope_bench.example import Example
from microscope_bench.system.key_values import key_values
from microscope_bench.system.lazy_registry import Registry

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_an_adapter_by_name(tiny):
    assert isinstance(load_model("hf", f"pretrained={tiny('gpt2')}", "cpu"), HFAdapter)


def test_unknown_models_get_the_nearest_names():
    with pytest.raises(UnknownNameError, match=r"unknown model 'zoo-lava-next'. Did you mean zoo-llava-next"):
        load_model("zoo-lava-next")
    with pytest.raises(UnknownNameError, match="Did you mean omnifusion"):
        load_model("omnifuson")


def test_a_named_model_is_one_fixed_model(tiny, monkeypatch):
    preset = Preset("mine", "hf", "for this test", build="tests.adapters.test_presets:built", args={"max_length": "64"})
    monkeypatch.setitem(MODELS, "mine", preset)
    monkeypatch.setattr(sys.modules[__name__], "built", lambda name: tiny("llama"), raising=False)
    adapter = load_model("mine", "dtype=float32", "cpu")
    assert (adapter.info.name, adapter.info.repo, adapter.processing.context_length) == ("mine", "mine", 64)
    with pytest.raises(AdapterError, match="mine is one fixed model"):
        load_model("mine", "pretrained=org/other")


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_say_what_they_are(name):
    preset, known = MODELS[name], PUBLISHED[name]
    assert preset.args["pretrained"] == known.repo and known.repo.count("/") == 1
    assert known.model_type in {*MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES, "omnifusion"}
    assert not overrides_for(known.model_type).unsupported
    assert known.dtype in DTYPES and known.parameters > 0 and known.base and known.licence
    assert preset.fusion in FUSIONS
    assert preset.description.endswith(", unverified") == (not known.verified)


def test_a_published_model_is_fetched_at_the_revision_that_the_user_gives(tiny, monkeypatch):
    seen = {}

    def load(args, *, device):
        seen.update(args)
        return HFAdapter.load({"pretrained": str(tiny("llava"))}, device="cpu")

    monkeypatch.setattr(ADAPTERS, "get", lambda name: SimpleNamespace(load=load))
    adapter = load_model("llava-1.5-7b", f"revision={COMMIT},dtype=float32", "cpu")
    assert seen == {"pretrained": "llava-hf/llava-1.5-7b-hf", "revision": COMMIT, "dtype": "float32"}
    assert adapter.info.name == "llava"  # what was loaded, not what the preset is called
    with pytest.raises(AdapterError, match="is one fixed model"):
        load_model("llava-1.5-7b", "pretrained=org/other")


@pytest.mark.parametrize(
    "model, args, hint",
    [
        ("hf", "pretrained=no/such", "pretrained=path/to/checkpoint"),
        ("llava-1.5-7b", "", "--model hf --model_args pretrained=DIR"),
    ],
)
def test_what_the_cache_lacks_is_told_before_anything_is_loaded_where_the_hub_is_not_asked(model, args, hint):
    with pytest.raises(AdapterError, match=rf"@main is not in the local hub cache .*{hint}"):
        presets.check_model(model, key_values("--model_args", args))


def test_every_named_model_has_a_registered_adapter():
    assert all(name == preset.name and preset.adapter in ADAPTERS for name, preset in MODELS.items())


FILE = """
from microscope_bench.adapters.hf import HFAdapter

class Shouting(HFAdapter):
    def process(self, text, **options):
        return super().process([one.upper() for one in text], **options)

not_a_class = 1
"""


def test_an_adapter_in_a_file_of_the_users(tiny, tmp_path):
    file = tmp_path / "my_adapter.py"
    file.write_text(FILE)
    adapter = load_model(f"{file}:Shouting", f"pretrained={tiny('llava')}", "cpu")
    assert type(adapter).__name__ == "Shouting" and isinstance(adapter, HFAdapter)
    assert adapter.info.template == "not_told_apart", "its words are not those of its prompts"
    (tokens,) = adapter.encode([Example("q", "say it")]).tokens
    assert "SAY IT" in adapter.tokenizer.decode(tokens)
    with pytest.raises(AdapterError, match=r"'not_a_class' is not a subclass.*Shouting"):
        load_model(f"{file}:not_a_class")
    with pytest.raises(AdapterError, match="there is no file"):
        load_model(f"{tmp_path}/other.py:Shouting")
    file.write_text("import nothing_of_that_name")
    with pytest.raises(AdapterError, match=r"does not import .*nothing_of_that_name"):
        load_model(f"{file}:Shouting")


@pytest.mark.parametrize("said", ["raise SystemExit(3)", "import sys; sys.exit(3)", "raise KeyError(3)"])
def test_a_helper_that_ends_the_process_at_its_import_is_an_adapters_error(said, tmp_path, monkeypatch):
    (tmp_path / "ending_helper.py").write_text(said)
    (tmp_path / "ending_adapter.py").write_text("import ending_helper\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AdapterError, match=r"ending_adapter\.py does not import \((SystemExit|KeyError): 3\)"):
        load_model(f"{tmp_path}/ending_adapter.py:Mine")
    plugins = Registry("adapter", {"ending": "ending_helper:Mine"})
    with pytest.raises(MicroscopeError, match=r"'ending' points at ending_helper:Mine.*: (SystemExit|KeyError): 3"):
        plugins.get("ending")


def test_listing_models_imports_no_torch():
    code = f"import sys, {presets.__name__} as p; list(p.ADAPTERS), list(p.MODELS); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


OWN = """
from microscope_bench.adapters.hf import HFAdapter

class Own(HFAdapter):
    def blocks(self):
        return list(self.model.transformer.h)[:{n}]
"""


def test_an_adapter_in_a_file_has_its_own_identity(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "own.py"
    found = []
    for n in (2, 1):
        file.write_text(OWN.format(n=n))
        os.utime(file, (1, 1))  # an edit within a second, of equal size
        found.append(load_model(f"{file}:Own", {"pretrained": str(tiny("gpt2")), "use_chat_template": "false"}, "cpu"))
        assert found[-1].info.n_layers == len(found[-1].blocks()) == n
    names = [adapter.info.adapter for adapter in found]
    assert all(name.startswith("own.py:Own@") for name in names) and names[0] != names[1]
    assert found[0].info.options == {"use_chat_template": "false"}
    assert found[0].info.repo == found[1].info.repo


def test_an_adapter_may_find_the_blocks_where_the_generic_one_cannot(tiny, tmp_path, monkeypatch):
    """The example of docs/adding_a_model.md."""

    def lost(model, stack):
        raise AdapterError("no block list")

    monkeypatch.setattr("microscope_bench.adapters.hf.find_blocks", lost)
    with pytest.raises(AdapterError, match="no block list"):
        load_model("hf", {"pretrained": str(tiny("gpt2"))}, "cpu")
    (tmp_path / "own.py").write_text(OWN.format(n=2))
    assert load_model(f"{tmp_path / 'own.py'}:Own", {"pretrained": str(tiny("gpt2"))}, "cpu").info.n_layers == 2
