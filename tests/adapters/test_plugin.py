"""An adapter of somebody else's package, installed and used from nothing to leaderboard."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.adapters.overrides import Overrides
from microscope_bench.adapters.presets import load_model
from microscope_bench.check import check
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


COMMANDS = """
import json, sys
from microscope_bench.cli.main import main
for arguments in json.loads(sys.argv[1]):
    if status := main(arguments):
        sys.exit(status)
"""


def test_from_nothing_to_leaderboard(installed, checkpoint, tmp_path):
    """In another process, which knows of the plug-in as any Python does: by the folder it is installed in."""
    model = ["--model_args", f"pretrained={checkpoint}", "--device", "cpu"]
    commands = [
        ["ls", "models"],
        ["check", "udop", *model],
        ["run", "--model", "udop", *model, "--tasks", "shapesqa", "--task_args", "n=40", "--quiet"],
        ["leaderboard", "results"],
    ]
    environment = {**os.environ, "PYTHONPATH": f"{installed}{os.pathsep}{Path(__file__).parents[2]}"}
    command = [sys.executable, "-c", COMMANDS, json.dumps(commands)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nudop " in done.stdout
    assert "adapter udop" in done.stdout and "\nno check failed\n" in done.stdout
    assert "| udop " in (tmp_path / "leaderboard.md").read_text()


def test_the_file_is_the_one_that_the_page_shows_and_has_ten_lines_of_code():
    text = (PLUGIN / "udop_adapter.py").read_text()
    assert text in PAGE.read_text() and (PLUGIN / "pyproject.toml").read_text().split("\n\n")[2] in PAGE.read_text()
    comments = [line for line in text.splitlines() if not line.strip() or line.lstrip().startswith("#")]
    assert len(text.splitlines()) - len(comments) <= 10
    ast.parse(text)


ENCODER = {"fusion": "encoder-decoder", "stack": "encoder", "answers_apart": True}
PATCHES = {**ENCODER, "adds_image": "after", "writes_image_token": False, "needs": "image"}


@pytest.mark.parametrize(
    ("fields", "on_no_patch", "said"),
    [
        (ENCODER, False, "neither configuration nor tokenizer names image_token_id, so its positions are unknown"),
        ({**ENCODER, "adds_image": "after"}, False, "UdopProcessor names no image token"),
        (PATCHES, False, "28 media positions change, 4 do not, 4 others change"),
        ({**PATCHES, "constants_inside": True}, False, "28 media positions change, 0 do not, 4 others change"),
        ({**PATCHES, "constants_inside": True}, True, "relative difference 2.9e-02, at most 1e-04"),
        ({**PATCHES, "constants_inside": True, "max_batch": 1}, True, "ValueError: Words must of type"),
    ],
)
def test_what_the_page_quotes_is_what_check_says(fields, on_no_patch, said, checkpoint):
    class Beginning(HFAdapter):
        overrides = Overrides(**fields)

        def process(self, text, images=(), **options):
            if on_no_patch:
                self.tokenizer.sep_token_box = [0, 0, 0, 0]
            words = {"text_pair": [["."]] * len(text), "boxes": [[[0, 0, 0, 0]]] * len(text)}
            return self.processor(images=[one for row in images for one in row], text=text, **words, **options)

    report = str(check(Beginning.load({"pretrained": str(checkpoint)}, device="cpu")))
    assert said in report and said in " ".join(PAGE.read_text().split())
    assert "no check failed" not in report


def test_the_file_alone_is_enough(checkpoint):
    adapter = load_model(f"{PLUGIN / 'udop_adapter.py'}:Udop", {"pretrained": str(checkpoint)}, "cpu")
    assert adapter.info.adapter.startswith("udop_adapter.py:Udop@")
