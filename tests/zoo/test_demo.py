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
from transformers import AutoModelForCausalLM, AutoProcessor, CLIPVisionModel, LlavaNextForConditionalGeneration

from microscope_bench.errors import MicroscopeError
from microscope_bench.zoo import demo
from microscope_bench.zoo.cache import MANIFEST, is_intact

BUILDERS = [demo.build_llava_next, demo.build_omnifusion]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("built")
    return {build.__name__: build(root / build.__name__) for build in BUILDERS}


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MICROSCOPE_BENCH_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("build", BUILDERS)
def test_the_same_bytes_every_time(build, built, tmp_path):
    torch.manual_seed(99)
    again = build(tmp_path / "again")
    assert (again / MANIFEST).read_text() == (built[build.__name__] / MANIFEST).read_text()


def test_both_models_have_the_same_text_and_vision_weights(built):
    llava = LlavaNextForConditionalGeneration.from_pretrained(built["build_llava_next"])
    text = AutoModelForCausalLM.from_pretrained(built["build_omnifusion"] / "tuned-model")
    vision = CLIPVisionModel.from_pretrained(built["build_omnifusion"] / "clip")
    for ours, theirs in (
        (text.model, llava.model.language_model),
        (text.lm_head, llava.lm_head),
        (vision, llava.model.vision_tower),
    ):
        expected = theirs.state_dict()
        assert ours.state_dict().keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.state_dict().items())


def test_projection_is_pickled_like_the_published_one(built):
    names = torch.serialization.get_unsafe_globals_in_checkpoint(built["build_omnifusion"] / "projection.pt")
    assert "models.VisualToGPTMapping" in names
    assert not any(name.startswith("microscope_bench") for name in names)
    assert "models" not in sys.modules


def test_pictures_of_different_shape_get_different_numbers_of_tokens(built):
    processor = AutoProcessor.from_pretrained(built["build_llava_next"])
    token = processor.tokenizer.convert_tokens_to_ids("<image>")
    counts = []
    for size in ((100, 100), (300, 100), (100, 200)):
        ids = processor(text="<image>", images=Image.new("RGB", size), return_tensors="pt")["input_ids"]
        counts.append(int((ids == token).sum()))
    assert len(set(counts)) == 3
    assert min(counts) > 64  # more than the base picture: the tiles are not degenerate


def test_the_residual_stream_changes_in_every_block(built):
    model = AutoModelForCausalLM.from_pretrained(built["build_omnifusion"] / "tuned-model")
    ids = torch.tensor([list(b"Which of these is the colour of the smallest shape in the picture?")]) + 4
    with torch.inference_mode():
        states = model(ids, output_hidden_states=True).hidden_states[:-1]
    changes = [float((after - before).norm() / before.norm()) for before, after in pairwise(states)]
    assert min(changes) > 0.1


@pytest.mark.parametrize("build", BUILDERS)
def test_cached_under_the_variable_and_rebuilt_when_damaged(build, cache):
    path = build()
    assert path.is_relative_to(cache / "zoo")
    weights = sorted(path.rglob("*.safetensors"))[0]
    content, built_at = weights.read_bytes(), weights.stat().st_mtime_ns
    assert build() == path and weights.stat().st_mtime_ns == built_at  # intact: not touched
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    build()
    assert weights.read_bytes() == content
    weights.unlink()
    build()
    assert weights.read_bytes() == content
    assert [p.name for p in path.parent.iterdir() if not p.name.endswith(".lock")] == [path.name]  # nothing left over


def test_an_interrupted_build_leaves_nothing_that_looks_whole(cache, monkeypatch):
    def interrupted(model, directory):
        (directory / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo, "_save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            demo.build_llava_next()
    assert not [p for p in (cache / "zoo").iterdir() if not p.name.endswith(".lock")]
    assert is_intact(demo.build_llava_next())


def test_several_processes_may_build_at_once(cache):
    program = "from microscope_bench.zoo.demo import build_omnifusion as b; print(b())"
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
        demo.build_llava_next(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MICROSCOPE_BENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(MicroscopeError, match="MICROSCOPE_BENCH_CACHE"):
        demo.build_llava_next()


def test_importing_the_zoo_imports_no_torch():
    program = "import sys, microscope_bench.zoo; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_longest_scienceqa_question_fits(built):
    directory = Path(
        os.environ.get("MICROSCOPE_BENCH_SCIENCEQA", Path(__file__).parents[3] / "shared" / "data" / "scienceqa")
    )
    if not (directory / "problems.json").is_file():
        pytest.skip("the ScienceQA subset is not here; point MICROSCOPE_BENCH_SCIENCEQA at it")
    problems = json.loads((directory / "problems.json").read_text()).values()
    longest = max(len("".join([p["question"], p["hint"], *p["choices"]]).encode()) for p in problems)
    config = json.loads((built["build_llava_next"] / "config.json").read_text())
    most_image_tokens = 5 * config["image_seq_length"] + 16
    assert 2 * longest + most_image_tokens < config["text_config"]["max_position_embeddings"]
