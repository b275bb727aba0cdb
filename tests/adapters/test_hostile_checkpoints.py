"""Checkpoints that mean harm or are broken end in one sentence, soon, in bounded memory, and run no code."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.adapters.omnifusion.checkpoint_files import load_projection, load_special_embeddings
from microscope_bench.adapters.omnifusion.module import SPECIAL_MARKS, VisualToGPTMapping
from microscope_bench.adapters.omnifusion.pickled_tensors import PickledFile
from microscope_bench.adapters.pinned_checkpoint import resolve_checkpoint
from microscope_bench.adapters.weight_headers import Holding, no_larger_than
from microscope_bench.errors import AdapterError
from microscope_bench.zoo.formats.omnifusion import save_projection
from tests.adapters import hostile_checkpoints, hostile_pickles

SECONDS = 10.0
MEGABYTES = 1000


@pytest.fixture
def copy(tiny, tmp_path):
    """``copy("llava")``: a checkpoint of that family that a test may damage."""
    return lambda family: Path(shutil.copytree(tiny(family), tmp_path / "copy"))


def load(directory: Path) -> HFAdapter:
    return HFAdapter.load({"pretrained": str(directory)}, device="cpu")


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    ("family", "part", "key", "value", "message"),
    [
        ("llama", None, "num_hidden_layers", 10**6, "num_hidden_layers is 1e.06, but at most 1000"),
        ("llama", None, "num_hidden_layers", 999, r"far larger model than its weight files hold.*of a \w+\. Fetch"),
        ("llama", None, "hidden_size", 10**9, r"far larger model .* at weight \(\d+, 1000000000\) of a Embedding"),
        ("llama", None, "vocab_size", 10**12, r"far larger model .* at weight \(1000000000000, \d+\) of a Embedding"),
        ("gpt2", None, "n_layer", -(10**12), "n_layer is -1e.12"),
        ("gpt2", None, "n_positions", 10**5, r"far larger model .* \(100000, \d+\)"),
        ("llava", "vision_config", "num_hidden_layers", 10**9, "num_hidden_layers is 1e.09"),
        ("llava", "vision_config", "intermediate_size", 10**8, r"far larger model .*100000000"),
        ("llava", "text_config", "vocab_size", -5, "the model of copy cannot be loaded"),
        ("llama", None, "num_attention_heads", 0, "copy cannot be loaded"),
        ("llama", None, "hidden_size", "64", "configuration of copy cannot be loaded"),
        ("llama", None, "num_labels", 10**10, "num_labels is 1e.10"),
    ],
)
def test_an_architecture_of_absurd_size_is_refused_before_it_is_built(family, part, key, value, message, copy):
    directory = copy(family)
    config = json.loads((directory / "config.json").read_text())
    (config if part is None else config[part])[key] = value
    (directory / "config.json").write_text(json.dumps(config))
    began = time.process_time()
    with pytest.raises(AdapterError, match=message):
        load(directory)
    assert time.process_time() - began < SECONDS / 2


def test_a_model_of_many_more_parameters_than_its_files_hold_is_refused_however_small_they_are():
    with no_larger_than(Holding(n_tensors=2, n_numbers=10**9), "x"), pytest.raises(AdapterError, match="far larger"):
        for _ in range(1100):
            nn.Linear(1, 1)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja", "x.bin"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda file: file.symlink_to("/dev/zero")], ids=["fifo", "device"])
def test_a_special_file_in_place_of_any_other_is_named(name, make, copy):
    directory = copy("llava")
    (directory / name).unlink(missing_ok=True)
    make(directory / name)
    with pytest.raises(AdapterError, match=rf"{name} is no regular file"):
        resolve_checkpoint(str(directory))


def test_a_link_to_a_regular_file_is_one(copy):
    directory = copy("llama")
    (directory / "config.json").rename(directory.parent / "elsewhere.json")
    (directory / "config.json").symlink_to(directory.parent / "elsewhere.json")
    assert resolve_checkpoint(str(directory)).revision.startswith("sha256-")


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors.index.json"]
)
def test_a_file_of_absurd_size_is_not_read(name, copy):
    directory = copy("llava")
    with (directory / name).open("ab") as file:
        file.truncate(2 << 30)
    with pytest.raises(AdapterError, match=rf"{name} has 2048 MiB, and a file of this name at most"):
        resolve_checkpoint(str(directory))


@pytest.mark.parametrize("depth", [60, 100_000])
def test_a_configuration_of_absurd_depth_is_refused(depth, copy):
    directory = copy("llama")
    config = (directory / "config.json").read_text().rstrip().removesuffix("}")
    (directory / "config.json").write_text(f'{config}, "x": {"[" * depth}{"]" * depth}}}')
    with pytest.raises(AdapterError, match="nested more than 50 deep"):
        resolve_checkpoint(str(directory))


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [("image_processor", "size", {"shortest_edge": 10**6}), (None, "image_seq_length", 10**9)],
)
def test_a_picture_is_not_brought_to_an_absurd_size(part, key, value, copy):
    directory = copy("llava")
    settings = json.loads((directory / "processor_config.json").read_text())
    (settings if part is None else settings[part])[key] = value
    (directory / "processor_config.json").write_text(json.dumps(settings))
    with pytest.raises(AdapterError, match=r"processor_config\.json: \w+ is 1e.0\d, but at most"):
        load(directory)


def test_numbers_of_pixels_are_no_edges(copy):
    directory = copy("qwen2_vl")
    settings = json.loads((directory / "processor_config.json").read_text())
    settings["image_processor"]["size"] = {"shortest_edge": 65_536, "longest_edge": 16_777_216}
    (directory / "processor_config.json").write_text(json.dumps(settings))
    assert resolve_checkpoint(str(directory)).path == directory.resolve()


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        (None, {"patch_size": 0.001}, "pictures of 32 pixels in patches of 0.001"),
        ("image_processor", {"size": {"shortest_edge": 8192}, "crop_size": {"height": 8, "width": 8}}, "in tiles of 8"),
        ("image_processor", {"image_grid_pinpoints": [[32, 10**9]]}, "image_grid_pinpoints is 1e.09"),
    ],
)
def test_a_picture_is_not_cut_into_too_many_pieces(part, values, message, copy):
    directory = copy("llava")
    settings = json.loads((directory / "processor_config.json").read_text())
    (settings if part is None else settings[part]).update(values)
    (directory / "processor_config.json").write_text(json.dumps(settings))
    with pytest.raises(AdapterError, match=message):
        load(directory)


@pytest.mark.parametrize(
    ("step", "value"),
    [
        ("normalizer", [{"type": "Replace", "pattern": {"String": "e"}, "content": "ee"}] * 20),
        ("normalizer", [{"type": "Replace", "pattern": {"Regex": "."}, "content": "e" * 1000}]),
        ("post_processor", {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 1000}),
    ],
)
def test_a_tokenizer_that_multiplies_a_text_is_refused(step, value, copy):
    directory = copy("llama")
    change(directory / "tokenizer.json", **{step: value})
    with pytest.raises(AdapterError, match=r"tokenizer\.json: .* more than 100 characters of one"):
        load(directory)


def test_code_of_the_hub_for_attention_is_not_run_because_a_file_says_so(copy):
    directory = copy("llama")
    change(directory / "config.json", _attn_implementation="org/kernel")
    with pytest.raises(AdapterError, match="names code of the hub"):
        load(directory)


def write_header(file: Path, header: bytes, data: bytes = b"\0" * 64, length: int | None = None) -> None:
    file.write_bytes((len(header) if length is None else length).to_bytes(8, "little") + header + data)


@pytest.mark.parametrize(
    ("header", "length", "message"),
    [
        (b"{}", 2**64 - 1, "its header would be 18446744073709551615 bytes long"),
        (b"{}", 0, "its header would be 0 bytes long"),
        (b"[" * 100_000, None, "truncated or damaged"),
        (b'{"a": {"dtype": "F32", "shape": "x", "data_offsets": [0, 4]}}', None, "truncated or damaged"),
        (
            b'{"a": {"dtype": "F32", "shape": [1000000000, 1000000000], "data_offsets": [0, 4]}}',
            None,
            "truncated or damaged",
        ),
        (b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4000000000]}}', None, "truncated or damaged"),
        (b'{"a": {"dtype": "F33", "shape": [16], "data_offsets": [0, 64]}}', None, "truncated or damaged"),
        (b'{"a": 1, "a": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}}', None, "truncated or damaged"),
        (b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 64]}}', None, "truncated or damaged"),
    ],
)
def test_headers_that_lie(header, length, message, copy):
    directory = copy("llama")
    write_header(directory / "model.safetensors", header, length=length)
    with pytest.raises(AdapterError, match=message):
        load(directory)


def test_a_library_that_panics_is_one_sentence(copy, monkeypatch):
    class PanicException(BaseException):  # as the Rust libraries raise it
        pass

    def panic(*args, **options):
        raise PanicException("index out of bounds\nnote: run with RUST_BACKTRACE=1")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", panic)
    with pytest.raises(
        AdapterError, match=r"tokenizer of copy cannot be loaded \(PanicException: index out of bounds\)"
    ):
        load(copy("llama"))


def test_a_tokenizer_that_panics_later_is_one_sentence(copy, monkeypatch):
    class PanicException(BaseException):
        pass

    def panic(*args, **options):
        raise PanicException("retry-limit-in-match over")

    adapter = load(copy("llama"))
    monkeypatch.setattr(type(adapter.encoder), "__call__", panic)
    with pytest.raises(AdapterError, match="tokenizer or processor of copy makes a library fail: retry-limit"):
        adapter.encode([])


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_process_passes(end, copy, monkeypatch):
    def stop(*args, **options):
        raise end

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", stop)
    with pytest.raises(end):
        load(copy("llama"))


class Calls:
    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class TestPickles:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (
                Calls(nn.TransformerEncoderLayer, 20_000, 4),
                "calls torch.nn.modules.transformer.TransformerEncoderLayer",
            ),
            (Calls(nn.Linear, 10**6, 10**6), "calls torch.nn.modules.linear.Linear"),
            (Calls(bytearray, 10**11), "refers to .*bytearray"),
            (Calls(torch.FloatTensor, 10**11), "refers to torch.FloatTensor"),
            (Calls(eval, "1 + 1"), "refers to .*eval"),
        ],
    )
    def test_only_what_rebuilds_tensors_is_called(self, content, message, tmp_path):
        torch.save(content, tmp_path / "projection.pt")
        with pytest.raises(AdapterError, match=message):
            load_projection(tmp_path / "projection.pt")

    @pytest.mark.parametrize("heads", [0, -1, 3, "abc", None, 2.0, True, 10**12])
    @pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
    def test_heads_that_divide_nothing(self, heads, suffix, tmp_path):
        projection, path = VisualToGPTMapping(8, 8, 8, 2), tmp_path / f"projection{suffix}"
        if suffix == ".pt":
            projection.transformer_layer.self_attn.num_heads = heads
            save_projection(projection, path)
        else:
            save_file(projection.state_dict(), path, {"heads": str(heads)})
        with pytest.raises(AdapterError, match=r"projection\.\w+: .*(heads|layer is not)"):
            load_projection(path)

    @pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
    @pytest.mark.parametrize("name", ["norm1", "linear1"])
    def test_scalars_in_place_of_matrices(self, name, suffix, tmp_path):
        projection, path = VisualToGPTMapping(8, 8, 8, 2), tmp_path / f"projection{suffix}"
        getattr(projection.transformer_layer, name).weight = nn.Parameter(torch.tensor(1.0))
        save_projection(projection, path) if suffix == ".pt" else save_file(projection.state_dict(), path)
        with pytest.raises(AdapterError, match=r"projection\.\w+(: .*heads| is not a projection)"):
            load_projection(path)

    def test_sizes_that_do_not_fit_each_other_take_no_memory(self, tmp_path):
        projection, path = VisualToGPTMapping(8, 8, 8, 2), tmp_path / "projection.pt"
        projection.transformer_layer.norm1.weight = nn.Parameter(torch.zeros(1_000_000))
        save_projection(projection, path)
        with pytest.raises(AdapterError, match="not a projection of the published layout"):
            load_projection(path)

    def test_a_module_that_holds_itself(self, tmp_path):
        projection = VisualToGPTMapping(8, 8, 8, 2)
        dict.__setitem__(projection._modules, "transformer_layer", projection)
        save_projection(projection, tmp_path / "projection.pt")
        with pytest.raises(AdapterError, match=r"transformer_layer\. has other parts"):
            load_projection(tmp_path / "projection.pt")

    def test_tensors_lie_in_their_storages_and_storages_in_the_file(self, tmp_path):
        whole = torch.arange(12.0).reshape(3, 4)
        good = {"SOI": whole[:, 1], "EOI": whole.t()[2], "USER": whole[1], "BOT": torch.zeros(0)}
        path = tmp_path / "special_embeddings.pt"
        torch.save(good, path)
        loaded = load_special_embeddings(path)
        assert {name: mark.tolist() for name, mark in loaded.items()} == {k: v.tolist() for k, v in good.items()}
        marks = dict.fromkeys(SPECIAL_MARKS, torch.zeros(4))
        torch.save(marks, path)
        # a storage of half its bytes; a shape and an offset that lead beyond its end
        changes = (("data/0", None), (b"K\x04\x85", b"K\x05\x85"), (b"QK\x00", b"QK\x02"))
        for old_bytes, new_bytes in changes:
            damaged = tmp_path / "damaged.pt"
            with zipfile.ZipFile(path) as old, zipfile.ZipFile(damaged, "w") as new:
                for name in old.namelist():
                    kept = old.read(name)
                    if new_bytes is None and name.endswith(old_bytes):
                        kept = b"\0" * 8
                    elif new_bytes is not None and name.endswith("data.pkl"):
                        assert old_bytes in kept
                        kept = kept.replace(old_bytes, new_bytes)
                    new.writestr(name, kept)
            with pytest.raises(AdapterError, match=r"which the file does not hold|outside of its storage"):
                load_special_embeddings(damaged)

    def test_state_dicts_are_followed(self, tmp_path):
        state = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).half().state_dict()
        torch.save(state, tmp_path / "x.bin")
        content = PickledFile(tmp_path / "x.bin").content
        assert {name: tensor.shape for name, tensor in content.items()} == {k: v.shape for k, v in state.items()}


@pytest.mark.parametrize("seed", range(13))
def test_hostile_checkpoints_in_this_process(seed, tiny, tmp_path):
    rng = random.Random(seed)
    make = hostile_checkpoints.CHANGES[seed % len(hostile_checkpoints.CHANGES)]
    directory = Path(shutil.copytree(tiny(rng.choice(("llama", "llava"))), tmp_path / "copy"))
    make(directory, rng)
    try:
        load(directory)
    except AdapterError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
    assert not (directory / "RAN").exists()


def test_hostile_pickles_in_this_process(tmp_path):
    save_projection(VisualToGPTMapping(24, 40, 56, 4), tmp_path / "projection")
    torch.save({name: torch.zeros(4) for name in SPECIAL_MARKS}, tmp_path / "marks")
    refused = 0
    for seed in range(30):
        for name, load_part in (("projection", load_projection), ("marks", load_special_embeddings)):
            file = Path(shutil.copy(tmp_path / name, tmp_path / "file.pt"))
            hostile_pickles.spoil(file, random.Random(seed), f"touch {tmp_path}/RAN")
            try:
                load_part(file)
            except AdapterError as error:
                refused += 1
                assert "\n" not in str(error) and len(str(error)) < 1000
    assert refused > 30 and not (tmp_path / "RAN").exists()


@pytest.mark.heavy
@pytest.mark.parametrize(("what", "number"), [("checkpoints", 60), ("pickles", 300)])
def test_the_command_line_on_hostile_checkpoints(what, number, tiny, tmp_path):
    from microscope_bench.zoo.formats.omnifusion import OmniFusion

    for family in hostile_checkpoints.FAMILIES:
        shutil.copytree(tiny(family), tmp_path / family)
    OmniFusion().write(OmniFusion().untrained(0), tmp_path / "omnifusion", trained=False)
    command = [sys.executable, "-m", "tests.adapters.hostile_campaign", what, "0", str(number), str(tmp_path)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    found = [json.loads(line) for line in lines]
    assert len(found) == 2 * number
    wrong = [
        case
        for case in found
        if case["ran"]
        or case["status"] not in (0, 1, 2)
        or "Traceback" in case["said"]
        or case["seconds"] > SECONDS
        or case["megabytes"] > MEGABYTES
    ]
    assert not wrong, "\n".join(map(json.dumps, wrong[:5]))
