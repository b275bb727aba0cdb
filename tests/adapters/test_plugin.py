"""An adapter of somebody else's package, installed and used from nothing to leaderboard."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from microscope_bench.adapters.presets import load_model
from microscope_bench.errors import AdapterError
from tests.tiny.udop import build_udop

PLUGIN = Path(__file__).parents[1] / "plugin"
PAGE = Path(__file__).parents[2] / "docs" / "adding_a_model.md"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return build_udop(tmp_path_factory.mktemp("udop") / "udop")


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The plug-in, installed by pip into a folder of its own."""
    source = shutil.copytree(PLUGIN, tmp_path_factory.mktemp("source") / "plugin")
    target = tmp_path_factory.mktemp("site")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True)
    return target


def test_the_generic_adapter_sends_to_the_page(checkpoint):
    with pytest.raises(AdapterError, match=r"words of the page with their boxes.*docs/adding_a_model\.md"):
        load_model("hf", {"pretrained": str(checkpoint)}, "cpu")


def test_from_nothing_to_leaderboard(installed, checkpoint, tmp_path):
    def microscope(*arguments: str) -> str:
        command = [sys.executable, "-m", "microscope_bench", *arguments]
        environment = {**os.environ, "PYTHONPATH": f"{installed}{os.pathsep}{Path(__file__).parents[2]}"}
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    model = ["--model_args", f"pretrained={checkpoint}", "--device", "cpu"]
    assert "\nudop " in microscope("ls", "models")
    report = microscope("check", "udop", *model)
    assert "adapter udop" in report and report.rstrip().endswith("no check failed")
    microscope("run", "--model", "udop", *model, "--tasks", "shapesqa", "--task_args", "n=40", "--quiet")
    microscope("leaderboard", "results")
    assert "| udop " in (tmp_path / "leaderboard.md").read_text()


def test_the_file_is_the_one_that_the_page_shows_and_has_ten_lines_of_code():
    text = (PLUGIN / "udop_adapter.py").read_text()
    assert text in PAGE.read_text() and (PLUGIN / "pyproject.toml").read_text().split("\n\n")[2] in PAGE.read_text()
    comments = [line for line in text.splitlines() if not line.strip() or line.lstrip().startswith("#")]
    assert len(text.splitlines()) - len(comments) <= 10
    ast.parse(text)


def test_the_file_alone_is_enough(checkpoint):
    adapter = load_model(f"{PLUGIN / 'udop_adapter.py'}:Udop", {"pretrained": str(checkpoint)}, "cpu")
    assert adapter.info.adapter.startswith("udop_adapter.py:Udop@")
