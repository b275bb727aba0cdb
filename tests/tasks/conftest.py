"""A data set cache of the session's own, and fixtures that write task files and data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{ question }}}}\\nAnswer:"
doc_to_choice: [A, B]
doc_to_target: answer
metadata:
  version: 2
  id_column: key
  description: a task of the tests
"""

ROWS = [{"key": "x", "question": "One?", "answer": 0}, {"key": "y", "question": "Two?", "answer": 1}]


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        datasets.disable_progress_bars()
        yield
        datasets.enable_progress_bars()


@pytest.fixture
def write_task(tmp_path) -> Callable[..., Path]:
    """Writes a small task over a JSON file; ``replace`` changes (None: drops) the line that starts with its key."""

    def write(name: str = "toy", rows=ROWS, extra: str = "", **replace: str | None) -> Path:
        data = tmp_path / f"{name}.json"
        data.write_text(json.dumps(rows))
        lines = TASK.format(name=name, data=data).splitlines()
        for field, line in replace.items():
            lines = [
                new for old in lines for new in ([old] if not old.strip().startswith(f"{field}:") else [line]) if new
            ]
        path = tmp_path / f"{name}.yaml"
        path.write_text("\n".join(lines) + "\n" + extra)
        return path

    return write


@pytest.fixture
def scienceqa_dir(tmp_path) -> Path:
    """Six questions in the authors' layout: RGB, RGBA, L and P pictures, a damaged one, and one without a picture."""
    root = tmp_path / "scienceqa"
    problems = {}
    for number, mode in enumerate(["RGB", "RGBA", "L", "P", "damaged", None]):
        pid = str(10 - number)
        problems[pid] = {
            "question": f"Which one, {number}?",
            "choices": ["this", "that", "neither"][: 2 + number % 2],
            "answer": number % 2,
            "hint": "Look closely." if number % 2 else "",
            "image": "image.png" if mode else None,
            "lecture": "SECRET",
            "solution": "SECRET",
            "split": "test",
        }
        if mode:
            file = root / "images" / "test" / pid / "image.png"
            file.parent.mkdir(parents=True)
            if mode == "damaged":
                file.write_bytes(b"\x89PNG no picture")
            else:
                Image.new("RGB", (6 + number, 5), (200, 30, 60)).convert(mode).save(file)
    (root / "problems.json").write_text(json.dumps(problems))
    (root / "pid_splits.json").write_text(json.dumps({"test": list(problems), "val": ["10", "5"]}))
    return root
