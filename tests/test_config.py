"""What a run can be asked for: read, checked and written in one place."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import pytest

from microscope_bench import RunConfig
from microscope_bench.errors import MicroscopeError
from microscope_bench.protocol import named_protocol
from microscope_bench.run.measure_store import measure_store
from microscope_bench.system.docstrings import described_attributes


def test_text_becomes_the_declared_types():
    config = RunConfig(
        protocol="geometry/1", limit="0.5", seed="1,2,3,4", model_args="dtype=float32", task_args={"n": 30},
        metrics="anisotropy,linearity", measure_memory="2GB", tokens_per_example="3", max_skipped="0.5",
        apply_chat_template="true", output_path="results", batch_size="4",
    )  # fmt: skip
    assert config.protocol == named_protocol("geometry/1").with_changes(tokens_per_example=3, max_skipped=0.5, seed=1)
    assert (config.limit, config.seed, config.batch_size) == (0.5, (1, 2, 3, 4), 4)
    assert config.model_args == {"dtype": "float32", "use_chat_template": "true"}
    assert config.task_args == {"n": "30"} and config.metrics == ("anisotropy", "linearity")
    assert config.measure_memory == 2 * 10**9 and config.output_path == Path("results")
    assert RunConfig(seed=7).seed == (7, 7, 7, 7) and RunConfig(limit="24").limit == 24


def test_what_is_not_given_is_the_default():
    assert RunConfig(metrics=None, model_args=None, limit=None) == RunConfig()
    assert RunConfig().metrics == ("linearity", "intrinsic_dimension", "anisotropy")


def test_a_config_survives_json():
    config = RunConfig(samples={"a": [1, 2]}, seed=3, apply_chat_template=False, store="s", metrics="all", tap="vision")
    assert RunConfig(**json.loads(json.dumps(config.as_dict()))) == config


def test_a_config_is_not_changed_but_replaced():
    config = RunConfig(limit=3)
    with pytest.raises(FrozenInstanceError):
        config.limit = 4  # type: ignore[misc]
    assert replace(config, batch_size=2).limit == 3
    with pytest.raises(TypeError, match="limits"):
        replace(config, limits=3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"limit": float("nan")}, "limit must be a positive"),
        ({"limit": float("inf")}, "limit must be a positive"),
        ({"limit": 3, "samples": {"a": [1]}}, "exclude each other"),
        ({"samples": [1, 2]}, "is not of the form"),
        ({"samples": {"a": "12"}}, "is not of the form"),
        ({"seed": (1, 2)}, "one seed, or four"),
        ({"batch_size": 1.5}, "batch_size must be a whole number"),
        ({"tokens_per_example": 0}, "tokens_per_example must be a whole number from 1 to"),
        ({"max_skipped": float("nan")}, "max_skipped must be a number from 0 to 1, not nan"),
        ({"seed": 2**70}, "seed must be a whole number from 0 to"),
        ({"limit": True}, "limit must be a number, not True"),
        ({"seed": True}, "seed must be a whole number, not True"),
        ({"system_instruction": 3}, "system_instruction must be text, not 3"),
        ({"output_path": 3}, "output_path must be a path, not 3"),
        ({"store": 3}, "store must be a path, not 3"),
        (
            {"protocol": {"name": "geometry/1"}},
            "protocol: .*Missing required .*, or give every field: name, t",
        ),
        ({"protocol": {"nome": "geometry/1"}}, "protocol: .*Name a protocol \\(geometry/1\\), or give every field"),
        ({"store": "a\0b"}, "store: 'a.x00b' holds a NUL character"),
        ({"task_args": [1]}, r"task_args must be key=value,key=value or a mapping, not \[1\]"),
        ({"samples": "{}"}, "samples names no task"),
        ({"mainflow": "perhaps"}, "mainflow must be true or false"),
        ({"metrics": []}, "no metric is named"),
        ({"model_args": "dtype"}, "model_args: 'dtype' is not key=value"),
        ({"apply_chat_template": True, "model_args": "use_chat_template=no"}, "they are one setting"),
    ],
)
def test_what_means_nothing_is_refused_with_its_name(given, message):
    with pytest.raises(MicroscopeError, match=message):
        RunConfig(**given)


@pytest.mark.parametrize(("given", "meant"), [("gpu", "cuda"), ("gpu:1", "cuda:1")])
def test_a_gpu_is_called_cuda(given, meant):
    with pytest.raises(MicroscopeError, match=rf"unknown device '{given}'. Did you mean {meant}\?"):
        RunConfig(device=given)


def test_a_path_with_a_comma_is_told_so():
    with pytest.raises(
        MicroscopeError, match=r"'b/c' is not key=value.* A comma ends a value: a path that holds one needs a link"
    ):
        RunConfig(model_args="pretrained=/data/a,b/c")


def test_a_device_may_be_one_that_another_package_adds_to_torch(monkeypatch):
    for device in ("cpu", "cuda:1"):
        assert RunConfig(device=device).device == device
    with pytest.raises(MicroscopeError, match="unknown device 'npu:0'"):
        RunConfig(device="npu:0")
    monkeypatch.setattr("microscope_bench.config.entry_points", lambda group: {"torch.backends": ["torch_npu"]}[group])
    assert RunConfig(device="npu:0").device == "npu:0"


def test_every_field_is_described_once():
    assert list(described_attributes(RunConfig)) == [field.name for field in fields(RunConfig)]


def test_a_store_that_is_there_refuses_what_it_cannot_follow(tmp_path):
    with pytest.raises(MicroscopeError, match="limit decides what is captured"):
        measure_store(tmp_path, limit=3)


def test_checking_imports_no_torch():
    code = (
        "import sys; from microscope_bench import RunConfig; "
        "RunConfig(metrics='all', control='noise_image', tap='vision', device='cuda', split_by='correct'); "
        "RunConfig(protocol='geometry/1', model_args='dtype=float16'); "
        "print({'torch', 'transformers', 'lm_eval'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
