"""The scripts that measure speed run, and say what they measured; the one for GPU machines with little installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from benchmarks import capture, end_to_end, gpu, lm_eval_overhead

ROOT = Path(__file__).resolve().parent.parent

WITHOUT = """
import runpy, sys
from importlib.machinery import PathFinder

MISSING = {"lm_eval", "datasets", "jsonschema", "tabulate", "accelerate", "jinja2", "matplotlib", "pandas", "PIL"}


class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in MISSING else super().find_spec(name, path, target)


sys.meta_path[:] = [Bare if finder is PathFinder else finder for finder in sys.meta_path]
try:
    import jsonschema
    raise SystemExit("the packages were not hidden")
except ModuleNotFoundError:
    pass
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a script with its options; what it measured and what it said. Nothing else may be left behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def script(module, *options):
        monkeypatch.setattr(sys, "argv", [module.__name__, *options, "--json", "found.json"])
        module.main()
        return found_in(tmp_path), capsys.readouterr().out

    return script


def found_in(path):
    left = {path.name for path in path.iterdir() if not path.name.startswith("torchinductor")}
    assert left == {"found.json"}, "stores and models are removed"
    return json.loads((path / "found.json").read_text())


def test_the_gpu_script_needs_torch_transformers_and_numpy_alone(tmp_path):
    options = ["--device", "cpu", "--tiny", "--json", "found.json"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(ROOT / "benchmarks" / "gpu.py"), *options],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
        cwd=tmp_path,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = found_in(tmp_path)
    assert found["ratios_to_bare"].keys() == {"capture", "all states", "whole run"}
    assert all(ratio > 0 for ratio in found["ratios_to_bare"].values())
    assert found["measure"]["blocks"] == 3 and found["measure"]["device"] == "cpu"
    assert found["measure"]["without_value"] == 0, "the grown store is one that every metric can measure"
    tokens = 2 * 32  # of text and of image
    assert found["capture"]["store_bytes_per_example"] > 5 * tokens * 64 * 2, "every boundary was stored, in bfloat16"
    assert str(tmp_path) not in json.dumps(found)
    assert "billion parameters" in done.stdout


def test_the_gpu_script_stops_measuring_when_its_time_is_over(run):
    found, said = run(gpu, "--device", "cpu", "--tiny", "--budget", "1", "--rounds", "1")
    assert found["measure"] is None and found["ratios_to_bare"]["whole run"] is None
    assert found["ratios_to_bare"]["capture"] > 0
    assert "left nothing for measuring" in said


def test_the_capture_script(run):
    found, said = run(capture, "--quick", "--rounds", "1")
    assert found["ratios"].keys() == {"capture", "all states", "capture + encoding"}
    assert all(len(times) == 1 and times[0] > 0 for times in found["seconds"].values())
    assert "target 1.05 of bare" in said


def test_the_end_to_end_script(run):
    found, said = run(end_to_end, "--quick", "--limit", "16")
    (row,) = found["runs"]
    assert row["model"] == "zoo-llava" and row["examples"] == 16
    stages = row["stage_seconds"]
    assert stages.keys() == {"capture", "measure", "rest"} and stages["capture"] > 0 and stages["measure"] > 0
    assert sum(stages.values()) == pytest.approx(row["seconds"]["run"][0])
    assert row["ratio"] > 1, "a run is more than its forward passes"
    assert "run / bare" in said


def test_the_lm_eval_script_says_where_what_geometry_adds_goes(run):
    measure = lm_eval_overhead.recorder.measure
    found, said = run(
        lm_eval_overhead,
        *("--model", "zoo-llava", "--limit", "8", "--rounds", "1", "--metrics", "anisotropy+intrinsic_dimension"),
    )
    parts = found["processor_seconds"]
    assert parts.keys() == lm_eval_overhead.PARTS.keys() and all(part in said for part in parts)
    assert min(parts.values()) >= 0 and parts["measured"] > parts["the rest of the result"] > 0
    assert found["processor_ratio"] > 1
    assert lm_eval_overhead.recorder.measure is measure, "what is not asked for is not timed"


@pytest.mark.parametrize("shape, parameters, positions", [("FULL", 7.06e9, 2928), ("TINY", None, 80 + 8)])
def test_the_shape_is_that_of_llava_next_7b(shape, parameters, positions):
    import torch
    from transformers import AutoModelForImageTextToText

    from benchmarks.speed_parts import llava_next
    from benchmarks.speed_parts.questions import Questions, bare_picture

    sizes = getattr(llava_next, shape)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(llava_next.configuration(sizes))
    n = sum(weights.numel() for weights in model.parameters())
    assert parameters is None or abs(n / parameters - 1) < 0.01
    grid = sizes["picture"] // sizes["patch"]
    _, lengths = model.model.pack_image_features(
        [torch.zeros(5, grid**2, 8)],
        torch.tensor([[2 * sizes["picture"]] * 2]),
        vision_feature_select_strategy="default",
        image_newline=torch.zeros(8),
    )
    assert lengths.tolist() == [positions]
    adapter = object.__new__(llava_next.LlavaNextByTensors)
    adapter._grid, adapter._side, adapter._picture_token = grid, sizes["picture"], 299
    adapter.device = torch.device("cpu")
    batch = adapter.encode([Questions(1, count=None, make_picture=bare_picture).example(0)])
    assert int((batch.inputs["input_ids"] == 299).sum()) == positions
