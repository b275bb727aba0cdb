"""What ``new`` writes runs as it is, and it writes over nothing."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path

import pytest

from microscope_bench import load_result
from microscope_bench.cli.main import main
from tests.toy import result_files


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def commands_of(printed: str) -> list[list[str]]:
    """The arguments of each command that was printed."""
    return [shlex.split(line)[1:] for line in printed.splitlines() if line.startswith("  microscope-bench")]


def test_the_adapter_runs_at_once(capsys):
    assert main(["new", "adapter", "deep/my_mllm.py"]) == 0
    checked, measured = commands_of(capsys.readouterr().out)
    assert main(checked) == 0
    assert "no check failed" in capsys.readouterr().out
    assert measured[-2:] == ["--limit", "50"]
    assert main([*measured[:-1], "6", "--quiet", "--device", "cpu"]) == 0
    (file,) = result_files(Path("results"))
    model = load_result(file).identity.model
    assert (model.name, model.trained) == ("MyMLLM", False)


def test_the_task_runs_at_once(capsys):
    assert main(["new", "task", "my tasks/my_task/"]) == 0
    (measured,) = commands_of(capsys.readouterr().out)
    assert main([*measured, "--quiet", "--device", "cpu"]) == 0
    (file,) = result_files(Path("results"))
    result = load_result(file)
    identity = result.identity
    assert (identity.task.name, identity.n_examples, identity.dataset.path) == ("my_task", 20, "local")
    assert result.accuracy.n == 20 and not result.inputs.skipped
    rows = list(csv.DictReader(Path("my tasks/my_task/questions.csv").read_text().splitlines()))
    assert {row["answer"] for row in rows} == {"A", "B"} and all(row["a"] != row["b"] for row in rows)


def test_it_writes_over_nothing(capsys):
    Path("my_mllm.py").write_text("mine")
    Path("my_task").mkdir()
    for what, path in (("adapter", "my_mllm.py"), ("task", "my_task")):
        assert main(["new", what, path]) == 2
        assert f"{path} is there already and is left as it is; give another name" in capsys.readouterr().err
    assert Path("my_mllm.py").read_text() == "mine" and not list(Path("my_task").iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["adapter", "my_mllm"], "my_mllm must be a Python file: microscope-bench new adapter my_mllm.py"),
        (["adapter", "my-mllm.py"], "'my-mllm' must begin with a letter and have letters, digits and _ alone"),
        (["task", "2nd"], "'2nd' must begin with a letter"),
        (["task", "file/my_task"], "cannot be written: Not a directory"),
    ],
)
def test_a_place_that_will_not_do_is_refused(arguments, said, capsys):
    Path("file").write_text("")
    assert main(["new", *arguments]) == 2
    assert said in capsys.readouterr().err
