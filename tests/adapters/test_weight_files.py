"""Which files hold the weights: what transformers reads is hashed and checked, the rest is told or refused."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.adapters.pinned_checkpoint import content_revision, resolve_checkpoint
from microscope_bench.adapters.weight_files import checked_weight_files, find_weight_files
from microscope_bench.errors import AdapterError

WEIGHT = "model.norm.weight"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 10000\n"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture
def copy(tiny, tmp_path) -> Path:
    return shutil.copytree(tiny("llama"), tmp_path / "copy")


def with_value(copy: Path, file: str, value: float) -> None:
    """Writes the checkpoint's weights, one of them a constant, to another file."""
    weights = load_file(copy / SINGLE) if (copy / SINGLE).is_file() else load_file(next(copy.rglob("*.safetensors")))
    weights[WEIGHT] = torch.full_like(weights[WEIGHT], value)
    (copy / file).parent.mkdir(exist_ok=True, parents=True)
    save_file(weights, copy / file, {"format": "pt"})


def with_index(copy: Path, file: str, name: str = INDEX) -> None:
    names = load_file(next(copy.rglob("*.safetensors")))
    (copy / name).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, file)}))


def pin_and_check(copy: Path) -> str:
    """The revision of a checkpoint whose weights can be read."""
    found = resolve_checkpoint(str(copy))
    checked_weight_files(found.path)
    return found.revision


def loaded_value(copy: Path) -> float:
    adapter = HFAdapter.load({"pretrained": str(copy)}, device="cpu")
    return adapter.model.get_parameter(WEIGHT)[0].item()


@pytest.mark.parametrize("file", ["w/model.safetensors", "a/b/part.safetensors", "part.safetensors"])
def test_weights_in_a_subfolder_are_in_the_revision(file, copy):
    with_value(copy, file, 2.0)
    (copy / SINGLE).unlink()
    with_index(copy, file)
    before = content_revision(copy)
    assert loaded_value(copy) == 2.0
    with_value(copy, file, 3.0)
    assert loaded_value(copy) == 3.0
    assert content_revision(copy) != before


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("../outside.safetensors", "outside the checkpoint"),
        ("/tmp/outside.safetensors", "outside the checkpoint"),
        ("w/../../outside.safetensors", "outside the checkpoint"),
        ("part.bin", "no safetensors file"),
        ("part.safetensors.txt", "no safetensors file"),
        ("link.safetensors", "link to a file outside the checkpoint"),
        ("linked/part.safetensors", "link to a file outside the checkpoint"),
    ],
)
def test_what_leaves_the_checkpoint_or_is_no_safetensors_is_refused(file, said, copy, tmp_path):
    with_value(copy, "../outside.safetensors", 2.0)
    (tmp_path / "folder").mkdir()
    shutil.copy(tmp_path / "outside.safetensors", tmp_path / "folder" / "part.safetensors")
    (copy / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    (copy / "linked").symlink_to(tmp_path / "folder")
    (copy / SINGLE).unlink()
    with_index(copy, file)
    with pytest.raises(AdapterError, match=said):
        pin_and_check(copy)


def test_a_linked_single_file_is_refused_too(copy, tmp_path):
    (copy / SINGLE).rename(tmp_path / "w.safetensors")
    (copy / SINGLE).symlink_to(tmp_path / "w.safetensors")
    with pytest.raises(AdapterError, match="link to a file outside the checkpoint; copy it into it"):
        pin_and_check(copy)


def test_a_snapshot_of_a_hub_cache_links_to_its_blobs(copy, tmp_path):
    repo = tmp_path / "models--org--name"
    (repo / "snapshots").mkdir(parents=True)
    (repo / "blobs").mkdir()
    snapshot = repo / "snapshots" / ("0" * 40)
    copy.rename(snapshot)
    revision = content_revision(snapshot)
    for file in list(snapshot.iterdir()):
        file.rename(repo / "blobs" / file.name)
        file.symlink_to(f"../../blobs/{file.name}")
    assert pin_and_check(snapshot) == revision


@pytest.mark.parametrize("old", ["model-00001-of-00001.safetensors", "w/part.safetensors"])
def test_shards_over_an_old_single_file_are_told_loudly(old, copy, caplog):
    with_value(copy, old, 2.0)
    with_index(copy, old)
    assert loaded_value(copy) == load_file(copy / SINGLE)[WEIGHT][0].item() != 2.0
    (said,) = (record for record in caplog.records if "not from" in record.message)
    assert said.levelno == logging.WARNING
    assert said.message.startswith("copy: weights are read from model.safetensors, not from ")
    assert {old, INDEX} == set(said.message.partition("not from ")[2].partition(";")[0].split(", "))
    assert said.message.endswith("an older save may have left either: delete what is not meant")


def test_a_single_file_over_old_shards_is_read(copy, caplog):
    revision = content_revision(copy)
    with_index(copy, "model-00001-of-00001.safetensors")
    assert content_revision(copy) == revision, "transformers does not read this index"
    with_value(copy, SINGLE, 2.0)
    assert loaded_value(copy) == 2.0
    assert "weights are read from model.safetensors, not from model.safetensors.index.json" in caplog.text


@pytest.mark.parametrize("other", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "tf_model.h5"])
@pytest.mark.parametrize("in_hub_cache", [False, True])
def test_a_set_for_another_framework_is_told_and_of_a_hub_by_info(other, in_hub_cache, copy, tmp_path, caplog):
    caplog.set_level(logging.INFO, "microscope_bench")
    (copy / other).write_bytes(b"weights")
    if in_hub_cache:
        (tmp_path / "snapshots").mkdir()
        copy = copy.rename(tmp_path / "snapshots" / "copy")
    pin_and_check(copy)
    (said,) = (record for record in caplog.records if f"not from {other}" in record.message)
    assert said.levelno == (logging.INFO if in_hub_cache else logging.WARNING)


@pytest.mark.parametrize("other", ["consolidated.safetensors", "model.fp32.safetensors", "adapter_model.safetensors"])
def test_other_files_of_weights_are_told_and_not_hashed(other, copy, caplog):
    revision = content_revision(copy)
    with_value(copy, other, 2.0)
    assert pin_and_check(copy) == revision
    assert f"not from {other}" in caplog.text
    (copy / SINGLE).unlink()
    with pytest.raises(AdapterError, match=rf"weights under other names than transformers looks for \({other}\)"):
        pin_and_check(copy)


@pytest.mark.parametrize("indexed", [False, True])
def test_a_file_that_the_configuration_names_comes_first(indexed, copy):
    with_value(copy, "w/mine.safetensors", 2.0)
    named = "w/mine.safetensors.index.json" if indexed else "w/mine.safetensors"
    if indexed:
        with_index(copy, "w/mine.safetensors", named)
    (copy / SINGLE).unlink()
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "transformers_weights": named}))
    assert loaded_value(copy) == 2.0
    assert "w/mine.safetensors" in find_weight_files(copy).read
    (copy / "config.json").write_text(json.dumps({**config, "transformers_weights": "../mine.safetensors"}))
    with pytest.raises(AdapterError, match=r"config\.json of copy names '\.\./mine\.safetensors', outside"):
        pin_and_check(copy)


@pytest.mark.parametrize("file", [SINGLE, "tokenizer.json", "config.json", "tokenizer_config.json"])
def test_a_git_lfs_pointer_says_so(file, copy):
    (copy / file).write_text(POINTER)
    with pytest.raises(AdapterError, match=rf"{file} of copy is a git-lfs pointer.* lfs pull"):
        pin_and_check(copy)


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_truncated_weights_say_so(length, copy):
    content = (copy / SINGLE).read_bytes()
    (copy / SINGLE).write_bytes(content[:length])
    with pytest.raises(AdapterError, match=r"model\.safetensors of copy is truncated or damaged"):
        pin_and_check(copy)


@pytest.mark.parametrize("content", ["[]", "{", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_is_none(content, copy):
    (copy / SINGLE).unlink()
    (copy / INDEX).write_text(content)
    with pytest.raises(AdapterError, match=r"model\.safetensors\.index\.json of copy is no index"):
        pin_and_check(copy)


def test_files_of_other_kinds_have_their_remedy(copy):
    with pytest.raises(AdapterError, match=r"is a file; name the directory"):
        resolve_checkpoint(str(copy / SINGLE))
    (copy / "model-Q4.gguf").write_bytes(b"GGUF")
    with pytest.raises(AdapterError, match=r"is a file; .*gguf_file=NAME"):
        resolve_checkpoint(str(copy / "model-Q4.gguf"))
    (copy / SINGLE).unlink()
    with pytest.raises(AdapterError, match=r"holds GGUF files.*gguf_file=NAME"):
        pin_and_check(copy)
    (copy / "shard-00000-model-00001-of-00001.safetensors").touch()
    with pytest.raises(AdapterError, match=r"distributed training.*save_pretrained"):
        pin_and_check(copy)


def test_a_commit_of_a_local_git_repository(copy):
    (copy / ".git").mkdir()
    with pytest.raises(AdapterError, match=r"local git repository; check the commit out \(git -C .* checkout v1\)"):
        resolve_checkpoint(str(copy), "v1")


def test_a_subfolder_is_a_checkpoint_of_its_own(copy, tmp_path):
    (tmp_path / "repo").mkdir()
    shutil.move(copy, tmp_path / "repo" / "inner")
    inner = resolve_checkpoint(str(tmp_path / "repo"), subfolder="inner")
    assert (inner.repo, inner.revision) == ("repo", content_revision(tmp_path / "repo" / "inner"))
    adapter = HFAdapter.load({"pretrained": str(tmp_path / "repo"), "subfolder": "inner"}, device="cpu")
    assert adapter.info.revision == inner.revision
    with pytest.raises(AdapterError, match="has no subfolder outer"):
        resolve_checkpoint(str(tmp_path / "repo"), subfolder="outer")
