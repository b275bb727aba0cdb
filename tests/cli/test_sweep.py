from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from microscope_bench.cli import sweep as sweeps
from microscope_bench.cli.children import Ended, run_child
from microscope_bench.cli.main import main
from microscope_bench.cli.run import add_options, check
from microscope_bench.errors import MicroscopeError, ResultError
from tests.together import environments

TWO = {"tasks": ["shapesqa"], "limit": 8, "runs": [{"model": "zoo-llava"}, {"model": "zoo-qformer", "limit": 4}]}


def write(tmp_path, content):
    file = tmp_path / "sweep.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return str(file)


def entries(tmp_path, content, *arguments):
    return sweeps.read_entries(write(tmp_path, content), arguments, add_options, check)


def test_an_entry_overrides_the_file_and_the_command_line_both(tmp_path):
    first, second = entries(tmp_path, TWO)
    assert first.arguments == ("--tasks=shapesqa", "--limit=8", "--model=zoo-llava")
    assert second.arguments == ("--tasks=shapesqa", "--limit=4", "--model=zoo-qformer")
    assert (second.options.limit, second.options.batch_size, second.processes) == (4, 8, 1)
    assert [e.options.limit for e in entries(tmp_path, TWO, "--limit", "2")] == [2, 2]
    assert entries(tmp_path, TWO, "--limit", "2")[0].arguments == (
        "--tasks=shapesqa",
        "--model=zoo-llava",
        "--limit",
        "2",
    )


def test_values_are_written_as_the_command_line_reads_them(tmp_path):
    (entry,) = entries(
        tmp_path,
        {
            "model_args": {"pretrained": "a/b", "trust_remote_code": False, "max_length": 512, "dtype": None},
            "tasks": ["a", "b"],
            "metrics": ["linearity", "cka"],
            "samples": {"a": [0, 3]},
            "keep_store": True,
            "quiet": False,
            "apply_chat_template": True,
            "seed": [1, 2, 3, 4],
            "system_instruction": "--be brief, please",
            "control": None,
            "processes": 2,
            "runs": [{"model": "hf", "keep_store": False}],
        },
    )
    options = entry.options
    assert check(options).model_args == {
        "pretrained": "a/b",
        "trust_remote_code": "false",
        "max_length": "512",
        "use_chat_template": "true",
    }
    assert check(options).tasks == ["a", "b"] and check(options).metrics == ["linearity", "cka"]
    assert options.samples == {"a": [0, 3]} and options.seed == (1, 2, 3, 4)
    assert (options.keep_store, options.quiet, options.control, entry.processes) == (False, False, None, 2)
    assert options.system_instruction == "--be brief, please"


RUN = {"model": "zoo-llava", "tasks": "shapesqa"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("runs: [", "cannot be read as YAML"),
        ("- a", "needs `runs:`"),
        ({"model": "a", "tasks": "b"}, "needs `runs:`"),
        ({"runs": []}, "needs `runs:`"),
        ({"runs": ["zoo-llava"]}, "entry 1 of runs is 'zoo-llava', not a mapping"),
        ({"task": "a", "runs": [RUN]}, r"sweep.yaml: unknown option 'task'. Did you mean tasks"),
        ({"runs": [RUN, {**RUN, "batchsize": 3}]}, "entry 2 of runs: unknown option 'batchsize'. Did you mean batch_"),
        ({"runs": [RUN, {**RUN, "batch_size": "three"}]}, "entry 2 of runs: argument --batch_size: 'three' is not"),
        ({"runs": [RUN, {**RUN, "limit": 1.5}]}, "entry 2 of runs: argument --limit"),
        ({"runs": [{**RUN, "config": "a"}]}, "unknown option 'config'"),
        ({"runs": [{**RUN, "quiet": "yes please"}]}, "quiet is a flag: true or false"),
        ({"runs": [{**RUN, "processes": 0}]}, "processes must be a whole number of at least 1, not 0"),
        ({"runs": [{**RUN, "metrics": ["linearty"]}]}, "entry 1 of runs: unknown metric 'linearty'"),
        ({"runs": [{**RUN, "split_by": "length"}]}, "entry 1 of runs: argument --split_by: invalid choice"),
        ({"runs": [{**RUN, "model_args": "dtype"}]}, "'dtype' is not key=value"),
        ({"runs": [{"model": "zoo-llava"}]}, "entry 1 of runs: --tasks is missing"),
        ({"runs": [{**RUN, "samples": {"a": [1]}, "limit": 3}]}, "exclude each other"),
    ],
)
def test_what_is_wrong_with_any_entry_is_told_before_anything_runs(tmp_path, monkeypatch, capsys, content, message):
    monkeypatch.setattr(sweeps, "run_child", lambda *_: pytest.fail("it ran"))
    with pytest.raises(MicroscopeError, match=message):
        entries(tmp_path, content)
    assert main(["run", "--config", write(tmp_path, content)]) == 2


@pytest.fixture
def children(monkeypatch, tmp_path):
    """What children were started with; model zoo-llava fails, unless ``well`` is in the list."""
    started = []

    def child(arguments, processes):
        started.append((arguments, processes))
        if "--model=zoo-llava" in arguments and "well" not in started:
            return Ended(2, "no space", ())
        return Ended(0, "", (f"result of {arguments[-1]}",))

    monkeypatch.setattr(sweeps, "run_child", child)
    monkeypatch.setattr(sweeps, "load_result", lambda path: type("R", (), {"status": "complete"}))
    monkeypatch.chdir(tmp_path)
    return started


def test_a_sweep_goes_on_past_a_failure_and_does_only_what_is_left_the_next_time(tmp_path, children, capsys):
    file = write(tmp_path, TWO)
    assert main(["run", "--config", file]) == 2
    assert len(children) == 2
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows[0] == ["1", "zoo-llava", "shapesqa", "failed", "no", "space"]
    assert rows[1][:4] == ["2", "zoo-qformer", "shapesqa", "done"]
    children[:] = ["well"]
    assert main(["run", f"--config={file}"]) == 0
    assert len(children) == 2 and "--model=zoo-llava" in children[1][0]
    assert main(["run", "--config", file]) == 0
    assert len(children) == 2, "both were done before"
    assert main(["run", "--config", file, "--limit", "5"]) == 0
    assert len(children) == 4, "another limit is another run"


def test_a_sweep_goes_on_where_a_run_cannot_be_started_or_noted(tmp_path, children, monkeypatch, capsys):
    def no_room(arguments, processes):
        if "--model=zoo-llava" in arguments:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return Ended(0, "", ("its result",))

    def full(*_):
        raise ResultError("cannot write: No space left on device")

    monkeypatch.setattr(sweeps, "run_child", no_room)
    monkeypatch.setattr(sweeps, "write_atomically", full)
    assert main(["run", "--config", write(tmp_path, TWO)]) == 2
    out, err = capsys.readouterr()
    rows = [line.split() for line in out.splitlines()[2:]]
    assert [row[3] for row in rows] == ["failed", "done"] and "Resource temporarily unavailable" in out
    assert "done, but the same command will do it again: cannot write: No space" in err


def test_a_run_whose_result_is_gone_is_done_again(tmp_path, children, monkeypatch):
    children.append("well")
    file = write(tmp_path, TWO)
    assert main(["run", "--config", file]) == 0
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweeps, "run_child", lambda *_: Ended(0, "", ()))
    assert all(sweeps._results_noted(entry.note) is None for entry in entries(tmp_path, TWO))


def test_only_some_entries(tmp_path, children, capsys):
    assert main(["run", "--config", write(tmp_path, TWO), "--only", "2"]) == 0
    assert [arguments[-1] for arguments, _ in children] == ["--model=zoo-qformer"]
    assert main(["run", "--config", write(tmp_path, TWO), "--only", "3"]) == 2
    assert "has entries 1 to 2" in capsys.readouterr().err
    assert main(["run", "--only", "3"]) == 2


def test_a_sweep_is_not_launched_by_torchrun(tmp_path, monkeypatch, capsys):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert main(["run", "--config", write(tmp_path, TWO)]) == 2
    assert "`processes: N`" in capsys.readouterr().err


def test_an_interrupt_stops_the_sweep(tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweeps, "run_child", interrupted)
    assert main(["run", "--config", write(tmp_path, TWO)]) == 130
    monkeypatch.setattr(sweeps, "run_child", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert main(["run", "--config", write(tmp_path, TWO)]) == 143


def test_a_run_that_fails_says_why_in_one_line(capfd):
    ended = run_child(["--model=zoo-llava", "--tasks=shapesqa", "--protocol=geometry/7"], 1)
    assert ended.status == 2 and ended.results == ()
    assert ended.reason.startswith("unknown protocol 'geometry/7'. Did you mean geometry/1?")
    assert "unknown protocol" in capfd.readouterr().err


def start(file, tmp_path):
    command = [sys.executable, "-m", "microscope_bench", "run", "--config", file, "--output_path", str(tmp_path / "r")]
    return subprocess.Popen(command, env=environments(1)[0], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


REAL = {
    "tasks": "shapesqa",
    "metrics": "anisotropy",
    "batch_size": 4,
    "quiet": True,
    "runs": [
        {"model": "zoo-llava", "limit": 200, "processes": 2},
        {"model": "hf", "model_args": {"pretrained": "/nowhere"}},
        {"model": "zoo-qformer", "limit": 8},
    ],
}


@pytest.mark.heavy
def test_a_sweep_that_is_terminated_takes_its_run_along_and_goes_on_the_next_time(tmp_path):
    file = write(tmp_path, REAL)
    process = start(file, tmp_path)
    while not list((tmp_path / "r").rglob("parts/*.json")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 143, err
    before = sorted(file.stat().st_mtime for file in (tmp_path / "r").rglob("parts/*.json"))
    time.sleep(3)
    assert before == sorted(file.stat().st_mtime for file in (tmp_path / "r").rglob("parts/*.json")), "it still runs"
    again = start(file, tmp_path)
    out, err = again.communicate(timeout=400)
    assert again.returncode == 2 and "resuming" in err, err
    rows = [line.split() for line in out.splitlines()[-3:]]
    assert [row[3] for row in rows] == ["done", "failed", "done"]
    notes = [json.loads(file.read_text()) for file in (tmp_path / "r" / ".sweep").iterdir()]
    assert len(notes) == 2
    assert not list((tmp_path / "r").rglob("*.safetensors"))
