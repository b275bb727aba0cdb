"""ScienceQA from the hub, or from a directory in the layout of its authors.

The authors' layout: ``problems.json`` (pid → problem), ``pid_splits.json`` (split → pids) and the pictures at
``images/<split>/<pid>/image.png``; ``<split>/<pid>/image.png`` without ``images/`` is read as well. Lectures and
solutions give the answer away, so they are dropped at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
from PIL import Image

from microscope_bench.rgb_pictures import open_picture
from microscope_bench.tasks.data_sets import open_splits

COLUMNS = {
    "question": datasets.Value("string"),
    "choices": datasets.List(datasets.Value("string")),
    "answer": datasets.Value("int8"),
    "hint": datasets.Value("string"),
}
STORED_IMAGE = datasets.Image(decode=False)  # opened by open_image, so that a damaged picture costs one question


def load(
    dataset_path: str = "",
    dataset_name: str | None = None,
    revision: str | None = None,
    data_dir: str | None = None,
    **_: Any,
) -> Mapping[str, datasets.Dataset]:
    """Split name → rows with the columns id, question, choices, answer, hint and image (not decoded; None without one).

    Args:
        dataset_path: hub repository with ScienceQA's columns, used where there is no ``data_dir``.
        dataset_name: its configuration, where it has several.
        revision: its commit.
        data_dir: directory in the authors' layout.
    """
    if data_dir:
        return _load_directory(Path(data_dir).expanduser())
    splits = open_splits(dataset_path, dataset_name, {"revision": revision})
    return {split: _hub_rows(rows, split) for split, rows in splits.items()}


def with_image(rows: datasets.Dataset) -> datasets.Dataset:
    """The questions that come with a picture."""
    return rows.select([index for index, has_image in enumerate(_has_image(rows)) if has_image])


def without_image(rows: datasets.Dataset) -> datasets.Dataset:
    """The questions that come without a picture."""
    return rows.select([index for index, has_image in enumerate(_has_image(rows)) if not has_image])


def open_image(row: Mapping[str, Any]) -> list[Image.Image]:
    """The question's picture, opened."""
    return [open_picture(row["image"])]


def _has_image(rows: datasets.Dataset) -> list[bool]:
    tables = rows.select_columns(["image"]).with_format("arrow").iter(batch_size=1000)
    return [has_image for table in tables for has_image in table["image"].is_valid().to_pylist()]


def _hub_rows(rows: datasets.Dataset, split: str) -> datasets.Dataset:
    """The hub's rows have no id of their own: their number within the split is kept as one."""
    missing = [column for column in (*COLUMNS, "image") if column not in rows.column_names]
    if missing:
        raise ValueError(f"column {missing[0]!r} is missing from split {split}; it has: {', '.join(rows.column_names)}")
    rows = rows.select_columns([*COLUMNS, "image"]).cast_column("image", STORED_IMAGE)
    return rows.add_column("id", [str(index) for index in range(len(rows))])


def _load_directory(directory: Path) -> dict[str, datasets.Dataset]:
    problems, splits = _read_json(directory, "problems.json"), _read_json(directory, "pid_splits.json")
    pictures = directory / "images" if (directory / "images").is_dir() else directory
    features = datasets.Features({"id": datasets.Value("string"), **COLUMNS, "image": STORED_IMAGE})
    loaded = {}
    for split, pids in splits.items():
        rows = [_directory_row(str(pid), problems, pictures) for pid in pids]
        loaded["validation" if split == "val" else split] = datasets.Dataset.from_list(rows, features=features)
    return loaded


def _directory_row(pid: str, problems: Mapping[str, Any], pictures: Path) -> dict[str, Any]:
    if pid not in problems:
        raise ValueError(f"problems.json lacks problem {pid}, which pid_splits.json names")
    problem = problems[pid]
    missing = [key for key in (*COLUMNS, "image", "split") if key not in problem]
    if missing:
        raise ValueError(f"problems.json: problem {pid} lacks {missing[0]!r}")
    image = problem["image"]
    stored = None
    if image:
        path = pictures / problem["split"] / pid / image
        if _leads_out(path, pictures):
            raise ValueError(f"problems.json: the picture of problem {pid} lies outside {pictures.name}/: {image!r}")
        stored = {"path": str(path), "bytes": None}
    return {"id": pid, **{column: problem[column] for column in COLUMNS}, "image": stored}


def _leads_out(path: Path, directory: Path) -> bool:
    try:
        return not path.resolve().is_relative_to(directory.resolve())
    except (OSError, RuntimeError, ValueError):  # a circle of links, a NUL: it will not open, which costs its question
        return False


def _read_json(directory: Path, name: str) -> dict[str, Any]:
    file = directory / name
    if not file.is_file():
        raise ValueError(
            f"{file} does not exist; data_dir must hold problems.json, pid_splits.json, images/<split>/<pid>/image.png"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} must hold a JSON object")
    return content
