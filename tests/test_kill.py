"""A run killed at any moment, for real: another process, SIGKILL, and the same command again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from microscope_bench import load_result
from tests.toy import result_files

COMMAND = [
    sys.executable,
    "-m",
    "microscope_bench",
    "run",
    "--model",
    "zoo-llava-next-untrained",
    "--tasks",
    "shapesqa",
]


def start(output_path):
    options = ["--limit", "160", "--batch_size", "4", "--output_path", str(output_path)]
    return subprocess.Popen([*COMMAND, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.heavy
def test_a_run_killed_and_damaged_in_capture_and_in_writing_gives_the_scores_of_one_that_was_not(tmp_path):
    """Three kills; benchmarks/kills.py without --quick has fifty."""
    script = Path(__file__).parent.parent / "benchmarks/kills.py"
    figures = tmp_path / "kills.json"
    done = subprocess.run([sys.executable, script, "--quick", "--json", figures], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    measured = json.loads(figures.read_text())
    assert measured["kills"] == 3 and measured["good"]
    (trial,) = measured["trials"]
    assert (
        trial["equal"]
        and trial["left_over"] == []
        and trial["killed"][1:]
        == [
            "capture: before rename of record",
            "write: before rename of result",
        ]
    )
    assert trial["damaged"][-1] is not None and trial["examples_redone"] >= 16, "two parts are there in the end"
    assert measured["watched"]["results"] > 0 and measured["watched"]["broken"] == []


def test_the_watcher_tells_of_a_file_that_is_not_whole(tmp_path):
    from benchmarks.kills_parts.watcher import watching

    root = tmp_path / "outputs"
    (root / "0").mkdir(parents=True)
    with watching(root, tmp_path / "report.json") as found:
        (root / "0/half.json").write_text('{"status": ')
        time.sleep(0.2)
    assert found["broken"]


def result_of(output_path):
    (file,) = result_files(output_path)
    return load_result(file)


@pytest.mark.heavy
def test_a_run_killed_again_and_again_gives_the_scores_of_one_that_was_not(tmp_path):
    assert start(tmp_path / "whole").wait(600) == 0
    kills = 0
    for wanted_parts in (1, 4, 8):
        process = start(tmp_path / "killed")
        while len(list((tmp_path / "killed").rglob("parts/*.json"))) < wanted_parts and process.poll() is None:
            time.sleep(0.01)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait(60)
    assert kills == 3
    last = start(tmp_path / "killed")
    _, complaint = last.communicate(timeout=600)
    assert last.returncode == 0, complaint
    assert "resuming" in complaint
    whole, killed = result_of(tmp_path / "whole"), result_of(tmp_path / "killed")
    assert killed.scores == whole.scores
    assert killed.signature == whole.signature
    assert not list((tmp_path / "killed").rglob("*.safetensors"))


@pytest.mark.heavy
def test_peak_memory_does_not_depend_on_the_number_of_examples(tmp_path):
    """Ten times the examples, and no more than a fifth more memory: an index of the tokens, and a larger matched n."""
    script = (
        "import sys; from microscope_bench import evaluate; from microscope_bench.tasks import load_task; "
        "n = int(sys.argv[1]); r = evaluate('zoo-omnifusion-untrained', "
        "load_task('shapesqa', task_args={'n': str(n)}), progress=False); print(r.timing.peak_memory_bytes)"
    )
    peaks = {}
    for n in (300, 3000):
        done = subprocess.run([sys.executable, "-c", script, str(n)], capture_output=True, text=True, check=True)
        peaks[n] = int(done.stdout.split()[-1])
    assert peaks[3000] < 1.2 * peaks[300], peaks
