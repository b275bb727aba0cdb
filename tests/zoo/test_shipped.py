"""The checkpoints that ship: whole, small enough, without pickle where the format has none, and really trained."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from msgspec import structs

from microscope_bench.adapters.presets import MODELS, load_model
from microscope_bench.errors import AdapterError, UnknownNameError
from microscope_bench.zoo import FUSIONS, shipped
from microscope_bench.zoo.card import BARS, GAP_BAR, OTHER_BAR
from microscope_bench.zoo.formats import find_format
from microscope_bench.zoo.seeing import how_it_sees
from microscope_bench.zoo.shipped import shipped_model

NAMES = [f"zoo-{fusion}" for fusion in FUSIONS]
MEGABYTE = 1_000_000


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of one shipped model that a test may damage."""
    shutil.copytree(shipped.WEIGHTS / "zoo-llava", tmp_path / "zoo-llava")
    shutil.copy(shipped.WEIGHTS / shipped.CHECKSUMS, tmp_path)
    monkeypatch.setattr(shipped, "WEIGHTS", tmp_path)
    return tmp_path / "zoo-llava"


def test_all_that_ships_is_small():
    sizes = {name: sum(f.stat().st_size for f in shipped_model(name).rglob("*") if f.is_file()) for name in NAMES}
    assert all(size <= 8 * MEGABYTE for size in sizes.values()), sizes
    assert sum(sizes.values()) <= 30 * MEGABYTE
    recorded = json.loads((shipped.WEIGHTS / shipped.CHECKSUMS).read_text())
    there = sorted(path.name for path in shipped.WEIGHTS.iterdir())
    assert there == sorted([shipped.CHECKSUMS, *recorded]) == sorted([shipped.CHECKSUMS, *NAMES])


@pytest.mark.parametrize("name", NAMES)
def test_pickles_are_where_the_format_has_them_only(name):
    suffixes = {path.name for path in shipped_model(name).rglob("*") if path.suffix in (".pt", ".bin", ".pkl")}
    assert suffixes == ({"projection.pt", "special_embeddings.pt"} if name == "zoo-omnifusion" else set())


@pytest.mark.parametrize("name", ["zoo-llava", "zoo-omnifusion"])
def test_a_copy_of_any_name_is_by_path_what_the_model_is_by_name(name, tmp_path):
    shutil.copytree(shipped_model(name), tmp_path / "mine")
    copy = load_model(MODELS[name].adapter, {"pretrained": str(tmp_path / "mine")}, device="cpu")
    assert structs.replace(copy.info, name=name, repo=name) == load_model(name, device="cpu").info
    assert load_model(name, "dtype=auto", device="cpu").info.dtype == "float16"


@pytest.mark.parametrize("name", NAMES)
def test_each_loads_by_name_and_sees(name):
    """189 questions instead of the card's 2,016: three standard errors are ten points."""
    adapter = load_model(name, device="cpu")
    assert (adapter.info.name, adapter.info.dtype, adapter.info.trained) == (name, "float32", True)
    assert 1_000_000 <= adapter.info.n_parameters <= 4_000_000
    seeing = how_it_sees(adapter, n=189)
    bar = BARS.get(name.removeprefix("zoo-"), OTHER_BAR)
    assert seeing.accuracy >= bar - 0.10
    assert seeing.accuracy - seeing.shuffled >= GAP_BAR
    assert seeing.shuffled < 0.45, "the questions can be answered without the picture"
    assert f"`{adapter.info.revision}`" in (shipped_model(name) / "README.md").read_text()


@pytest.mark.parametrize("harm", ["damaged", "missing", "added"])
def test_a_file_that_is_not_the_recorded_one_is_named(copied, harm, monkeypatch, capsys):
    weights = copied / "model.safetensors"
    if harm == "damaged":
        content = bytearray(weights.read_bytes())
        content[len(content) // 2] ^= 1
        weights.write_bytes(content)
    elif harm == "missing":
        weights.unlink()
    else:
        weights = copied / "model-00002.safetensors"
        weights.write_bytes(b"")
    words = {"damaged": "is damaged (sha256", "missing": "is missing", "added": "does not belong there"}
    with pytest.raises(AdapterError) as caught:
        load_model("zoo-llava")
    assert f"{weights} {words[harm]}" in str(caught.value)
    assert ("remove it" if harm == "added" else "Install the package again") in str(caught.value)


@pytest.mark.parametrize("checksums", ["", "{}", "[]", '{"zoo-llava": 3}', None])
def test_checksums_that_say_nothing_are_no_permission(copied, checksums):
    path = copied.parent / shipped.CHECKSUMS
    path.unlink() if checksums is None else path.write_text(checksums)
    with pytest.raises(AdapterError, match=r"checksums\.json (cannot be read|has no entry)"):
        load_model("zoo-llava")


def test_a_file_managers_hidden_file_is_let_be_and_a_missing_directory_named(copied):
    (copied / ".DS_Store").write_bytes(b"x")
    load_model("zoo-llava")
    shutil.rmtree(copied)
    with pytest.raises(AdapterError, match=r"there is no .*zoo-llava"):
        load_model("zoo-llava")


def test_three_models_have_the_very_same_tower():
    models = {fusion: load_model(f"zoo-{fusion}").model for fusion in ("llava", "llava-next", "omnifusion")}
    towers = [dict(find_format(fusion).tower_of(model).named_parameters()) for fusion, model in models.items()]
    for other in towers[1:]:
        assert other.keys() == towers[0].keys()
        assert all(torch.equal(tensor, towers[0][name]) for name, tensor in other.items())


def test_an_unknown_name_lists_the_names():
    with pytest.raises(UnknownNameError, match="Did you mean zoo-llava"):
        load_model("zoo-lava")
    with pytest.raises(UnknownNameError, match="zoo-fuyu, zoo-llava, zoo-llava-next, zoo-omnifusion, zoo-qformer"):
        shipped_model("xyz")
    with pytest.raises(UnknownNameError):
        shipped_model("zoo-llava-untrained")


def test_every_model_of_the_zoo_has_a_name_and_a_twin():
    assert [name for name in MODELS if name in NAMES] == NAMES
    assert all(f"{name}-untrained" in MODELS for name in NAMES)
