"""Small tasks with pictures, stored in each of the ways that data sets know."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import datasets

from microscope_bench.tasks import Task, load_task

TASK = """
task: pictures
dataset_path: {kind}
dataset_kwargs: {{{arguments}}}
test_split: test
output_type: multiple_choice
doc_to_image: [image]
doc_to_text: "<image>{{{{ question }}}}"
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: answer
"""
STRING = datasets.Value("string")
WAYS = ("decoded", "undecoded", "binary", "paths", "imagefolder", "json", "directory")


def task_of(directory: Path, pictures: Sequence[bytes], questions: Sequence[dict], way: str) -> Task:
    """Rows with these pictures, stored in one of :data:`WAYS`."""
    directory.mkdir(parents=True, exist_ok=True)
    kind, arguments = "parquet", f"data_files: {{test: {directory}/rows.parquet}}"
    columns: dict[str, list] = {key: [row[key] for row in questions] for key in questions[0]}
    features = {key: STRING if isinstance(row, str) else datasets.Value("int64") for key, row in questions[0].items()}
    names = [f"images/{number}.bin" for number in range(len(pictures))]
    columns["image"] = [{"bytes": content, "path": None} for content in pictures]
    features["image"] = datasets.Image(decode=way != "undecoded")
    if way == "binary":
        columns["image"], features["image"] = list(pictures), datasets.Value("binary")
    elif way in ("paths", "imagefolder", "json", "directory"):
        (directory / "images").mkdir(exist_ok=True)
        for name, content in zip(names, pictures, strict=True):
            (directory / name).write_bytes(content)
        columns["image"], features["image"] = names, STRING
    if way == "imagefolder":
        kind, arguments = "imagefolder", f"data_dir: {directory}/images"
        lines = [{"file_name": Path(name).name} | row for name, row in zip(names, questions, strict=True)]
        for number in range(len(names)):  # it knows pictures by their ending
            (directory / names[number]).rename(directory / f"images/{number}.png")
            lines[number]["file_name"] = f"{number}.png"
        (directory / "images/metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    elif way == "json":
        kind, arguments = "json", f"data_files: {{test: {directory}/*.json}}"
        rows = [{"image": name} | row for name, row in zip(names, questions, strict=True)]
        (directory / "rows.json").write_text(json.dumps(rows))
    else:
        rows = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
        rows.to_parquet(str(directory / "rows.parquet"))
    if way == "directory":
        kind, arguments = str(directory), "data_files: {test: rows.parquet}"
    file = directory / "task.yaml"
    text = TASK.format(kind=kind, arguments=arguments)
    file.write_text(text.replace("test_split: test", "test_split: train") if way == "imagefolder" else text)
    return load_task(file)
