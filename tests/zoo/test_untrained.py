"""The untrained twins: built once, in a cache that may be damaged, shared, or not writable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoProcessor

from microscope_bench.errors import MicroscopeError, UnknownNameError
from microscope_bench.zoo import cache as cache_room
from microscope_bench.zoo import shipped
from microscope_bench.zoo.cache import build_once, is_intact
from microscope_bench.zoo.formats import base
from microscope_bench.zoo.shipped import untrained_checkpoint

NAMES = ["zoo-llava-next-untrained", "zoo-omnifusion-untrained"]


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MICROSCOPE_BENCH_CACHE", str(tmp_path))
    return tmp_path


def test_the_weights_are_marked_as_untrained():
    for name, part in zip(NAMES, ("", "tuned-model"), strict=True):
        config = json.loads((untrained_checkpoint(name) / part / "config.json").read_text())
        assert config["microscope_bench_untrained"] is True


def test_projection_is_pickled_like_the_published_one():
    path = untrained_checkpoint("zoo-omnifusion-untrained") / "projection.pt"
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    assert "models.VisualToGPTMapping" in names
    assert not any(name.startswith("microscope_bench") for name in names)
    assert "models" not in sys.modules


def test_pictures_of_different_shape_get_different_numbers_of_tokens():
    processor = AutoProcessor.from_pretrained(untrained_checkpoint("zoo-llava-next-untrained"))
    token = processor.tokenizer.convert_tokens_to_ids("<image>")
    counts = []
    for size in ((64, 64), (300, 100), (100, 200)):
        ids = processor(text="<image>", images=Image.new("RGB", size), return_tensors="pt")["input_ids"]
        counts.append(int((ids == token).sum()))
    assert counts[0] == 88 and len(set(counts)) == 3


def test_the_residual_stream_changes_in_every_block():
    model = AutoModelForCausalLM.from_pretrained(untrained_checkpoint("zoo-omnifusion-untrained") / "tuned-model")
    ids = torch.tensor([list(b"Which of these is the colour of the smallest shape in the picture?")]) + 4
    with torch.inference_mode():
        states = model.float()(ids, output_hidden_states=True).hidden_states[:-1]
    changes = [float((after - before).norm() / before.norm()) for before, after in pairwise(states)]
    assert min(changes) > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_cached_under_the_variable_and_rebuilt_when_damaged(name, cache):
    path = untrained_checkpoint(name)
    assert path.is_relative_to(cache / "zoo")
    weights = sorted(path.rglob("*.safetensors"))[0]
    content, built_at = weights.read_bytes(), weights.stat().st_mtime_ns
    assert untrained_checkpoint(name) == path and weights.stat().st_mtime_ns == built_at  # intact: not touched
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    untrained_checkpoint(name)
    assert weights.read_bytes() == content
    weights.unlink()
    untrained_checkpoint(name)
    assert weights.read_bytes() == content
    assert [p.name for p in path.parent.iterdir() if not p.name.endswith(".lock")] == [path.name]  # nothing left over


def test_an_interrupted_build_leaves_nothing_that_looks_whole(cache, monkeypatch):
    def interrupted(model, directory, *, trained):
        (directory / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(base, "save_model", interrupted)
        patch.setattr("microscope_bench.zoo.formats.llava.save_model", interrupted)
        with pytest.raises(KeyboardInterrupt):
            untrained_checkpoint(NAMES[0])
    assert not [p for p in (cache / "zoo").iterdir() if not p.name.endswith(".lock")]
    assert is_intact(untrained_checkpoint(NAMES[0]))


def test_several_processes_may_build_at_once(cache):
    program = f"from microscope_bench.zoo.shipped import untrained_checkpoint as b; print(b({NAMES[1]!r}))"
    processes = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env={**os.environ})
        for _ in range(2)
    ]
    paths = {process.communicate()[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(paths) == 1 and is_intact(Path(paths.pop()))


def test_files_of_somebody_else_are_not_overwritten(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(MicroscopeError, match="not built here"):
        build_once(tmp_path, lambda directory: None)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MICROSCOPE_BENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(MicroscopeError, match=cache_room.CACHE_VARIABLE):
        untrained_checkpoint(NAMES[0])


@pytest.mark.parametrize("name", ["zoo-llava", "zoo-lava-untrained", "llava-untrained", ""])
def test_only_twins_are_built(name):
    with pytest.raises(UnknownNameError, match="unknown untrained twin"):
        untrained_checkpoint(name)


def test_importing_the_zoo_imports_no_torch():
    program = "import sys, microscope_bench.zoo.shipped; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
    assert shipped.fusion_of("zoo-llava-next-untrained") == "llava-next"


def test_the_longest_scienceqa_question_fits():
    directory = Path(
        os.environ.get("MICROSCOPE_BENCH_SCIENCEQA", Path(__file__).parents[3] / "shared" / "data" / "scienceqa")
    )
    if not (directory / "problems.json").is_file():
        pytest.skip("the ScienceQA subset is not here; point MICROSCOPE_BENCH_SCIENCEQA at it")
    problems = json.loads((directory / "problems.json").read_text()).values()
    longest = max(len("".join([p["question"], p["hint"], *p["choices"]]).encode()) for p in problems)
    config = json.loads((untrained_checkpoint("zoo-llava-next-untrained") / "config.json").read_text())
    assert 2 * longest + 88 < config["text_config"]["max_position_embeddings"]
