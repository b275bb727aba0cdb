from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from microscope_bench import RunConfig
from microscope_bench.cli.main import build_parser
from microscope_bench.cli.options import config_of
from microscope_bench.protocol import PROTOCOLS
from microscope_bench.run.command_line import command_line

FIELDS: dict[str, Any] = {
    "limit": 0.5,
    "samples": {"shapesqa": [0, 2]},
    "sample": 7,
    "tokens_per_example": 16,
    "max_skipped": 0.2,
    "seed": (1, 2, 3, 4),
    "model_args": {"pretrained": "org/name", "dtype": "bfloat16"},
    "task_args": {"revision": "main"},
    "include_path": Path("my tasks"),
    "num_fewshot": 2,
    "apply_chat_template": False,
    "system_instruction": "Look at it.",
    "metrics": ("anisotropy", "isoscore"),
    "split_by": "correct",
    "control": "untrained",
    "tap": "vision",
    "mainflow": True,
    "batch_size": 3,
    "device": "cpu",
    "measure_memory": 2_000_000_000,
    "keep_store": True,
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home/alice/work").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "home/alice/work")


@pytest.mark.parametrize("name", FIELDS)
def test_the_command_asks_for_the_same_config(name: str) -> None:
    asked = RunConfig(**{name: FIELDS[name]})
    command = command_line("microscope-bench run", asked, model="zoo-llava", tasks="shapesqa")
    program, *arguments = shlex.split(command)
    parsed = build_parser(arguments).parse_args(arguments)
    assert (program, parsed.model, parsed.tasks) == ("microscope-bench", ["zoo-llava"], ["shapesqa"])
    assert replace(config_of(parsed), output_path=None) == replace(asked, output_path=None) != RunConfig()


def test_what_is_not_asked_for_is_not_told() -> None:
    config = RunConfig(output_path="/home/alice/out", store="/home/alice/store", progress=False)
    assert (
        command_line("microscope-bench run", config, model="a", tasks="b") == "microscope-bench run --model a --tasks b"
    )


def test_a_protocol_object_is_told_by_the_options_that_make_it() -> None:
    changed = PROTOCOLS["geometry/1"].with_changes(tokens_per_example=16, seed=3)
    command = command_line("microscope-bench run", RunConfig(protocol=changed))
    assert command == "microscope-bench run --tokens_per_example 16 --seed 3"


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("models/llava", "llava"),
        ("./models/llava/", "llava"),
        ("../{here.name}/models/llava", "llava"),
        ("{here}/models/llava", "llava"),
        ("/home/somebody/models/llava", "llava"),
        ("~/models/llava", "llava"),
        ("my models/x y", "x y"),
        ("mine/adapter.py:Mine", "adapter.py:Mine"),
        ("/home/somebody/adapter.py:Mine", "adapter.py:Mine"),
        ("..", "~"),
        ("org/name", "org/name"),
        ("models/other", "models/other"),
    ],
)
def test_files_and_directories_are_given_by_their_last_part(value: str, kept: str) -> None:
    here = Path.cwd()
    for directory in ("models/llava", "my models/x y", "mine"):
        (here / directory).mkdir(parents=True)
    (here / "mine/adapter.py").write_text("")
    value = value.format(here=here)
    config = RunConfig(
        model_args={"pretrained": value, "dtype": "float32"}, task_args={"data_dir": value}, include_path=value
    )
    told = shlex.split(command_line("run", config, model=value, tasks="shapesqa"))
    expected = ["--model_args", f"pretrained={kept},dtype=float32", "--task_args", f"data_dir={kept}"]
    assert told == ["run", "--model", kept, "--tasks", "shapesqa", *expected, "--include_path", kept]


def test_free_text_is_told_without_directories_and_at_a_length_that_a_file_takes() -> None:
    text = "Read '/home/alice/my notes/x.txt'."
    assert "alice" not in command_line("run", RunConfig(system_instruction=text, samples={"/home/alice/x": [0]}))
    assert len(command_line("run", RunConfig(samples={"t": range(100_000)}))) == 10_000
