"""The command line of the README, as a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from microscope_bench import load_result
from microscope_bench.lm_eval_plugin import launcher
from tests.publish.hostile import UNPRINTABLE, is_harmless

MAIN = "import sys; from microscope_bench.lm_eval_plugin.launcher import main; sys.exit(main())"


def test_one_command_gives_accuracy_and_geometry(tmp_path: Path) -> None:
    arguments = ["run", "--model", "microscope", "--model_args", "pretrained=zoo-llava,metrics=anisotropy"]
    arguments += ["--tasks", "shapesqa", "--apply_chat_template", "--limit", "12", "--batch_size", "4"]
    ran = subprocess.run(
        [sys.executable, "-c", MAIN, *arguments, "--device", "cpu", "--output_path", "out"],
        cwd=tmp_path,
        env={**os.environ, "LMEVAL_LOG_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert "|shapesqa|" in ran.stdout and "zoo-llava on shapesqa, geometry/1" in ran.stderr
    (theirs,) = (tmp_path / "out" / "zoo-llava").glob("results_*.json")
    found = json.loads(theirs.read_text())
    summary = found["config"]["microscope"]["shapesqa"]
    file = tmp_path / "out" / summary["path"]
    assert hashlib.sha256(file.read_bytes()).hexdigest() == summary["sha256"]
    result = load_result(file)
    assert result.signature == summary["signature"] and result.identity.protocol.limit == 12
    assert result.accuracy is not None and result.accuracy.value == found["results"]["shapesqa"]["acc,none"]
    assert found["config"]["model_sha"] == result.identity.model.revision
    assert result.environment.command.startswith(
        "lm_eval run --model microscope --tasks shapesqa --limit 12 --seed 0,1234,0,1234 "
        "--model_args pretrained=zoo-llava,metrics=anisotropy --apply_chat_template"
    )


def test_what_lm_eval_prints_and_raises_is_made_printable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def evaluation() -> None:
        print(UNPRINTABLE)
        raise ValueError(UNPRINTABLE)

    monkeypatch.setattr("microscope_bench.lm_eval_plugin.internals.cli_evaluate", evaluation)
    assert launcher.main(["ls"]) == 1
    out, err = capsys.readouterr()
    assert "owned" in out and "owned" in err and is_harmless(out) and is_harmless(err)
