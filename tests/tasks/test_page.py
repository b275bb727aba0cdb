"""The tasks over local data that docs/adding_a_task.md shows, as they stand there."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import datasets
import pytest
from PIL import Image

from microscope_bench.tasks import load_task

PAGE = (Path(__file__).parents[2] / "docs" / "adding_a_task.md").read_text()
SECTION = PAGE.split("## Data on this disk\n")[1].split("\n## ")[0]
TASKS = {re.search(r"task: (\w+)", block)[1]: block for block in re.findall(r"```yaml\n(.*?)```", SECTION, re.DOTALL)}
CODE = {block.split(".py")[0].strip("# "): block for block in re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)}


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(file, "PNG")
    return file.getvalue()


def copy_of_a_repository(directory: Path) -> None:
    picture = {"bytes": png(), "path": "1.png"}
    rows = datasets.Dataset.from_dict({"image": [picture], "question": ["Red?"], "answer": ["yes"]})
    rows.to_parquet(directory / "test.parquet")
    (directory / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: test\n    path: test.parquet\n---\n"
    )


@pytest.fixture
def _data(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("my_data/pictures", "my_folder/test", "my_copy", "my_tasks"):
        Path(name).mkdir(parents=True)
    Path("my_data/pictures/1.png").write_bytes(png())
    Path("my_data/questions.csv").write_text("picture,question,a,b,answer\npictures/1.png,Red?,no,yes,B\n")
    Path("my_folder/test/1.png").write_bytes(png())
    Path("my_folder/test/metadata.csv").write_text("file_name,question,answer\n1.png,Red?,yes\n")
    row = {"picture": {"data": base64.b64encode(png()).decode()}, "question": "Red?", "answer": "yes"}
    Path("my_data/encoded.jsonl").write_text(json.dumps(row) + "\n")
    copy_of_a_repository(Path("my_copy"))
    for name, text in CODE.items():
        Path(f"my_tasks/{name}.py").write_text(text)
    for name, text in TASKS.items():
        Path(f"my_tasks/{name}.yaml").write_text(text)


@pytest.mark.usefixtures("_data")
@pytest.mark.parametrize("name", TASKS)
def test_each_task_of_the_page_is_whole(name):
    task = load_task(f"my_tasks/{name}.yaml")
    example = task.example(0)
    assert task.dataset.path == "local" and example.text.startswith("<image>")
    (picture,) = example.images
    assert picture.getpixel((3, 3)) == (255, 0, 0)
    assert (example.answer is not None) == (example.choices is not None)


@pytest.mark.usefixtures("_data")
def test_what_save_to_disk_wrote_has_the_same_rows_as_a_copy():
    before = load_task("my_tasks/copy_of_a_repository.yaml")
    rows = datasets.Dataset.from_parquet("my_copy/test.parquet")
    for saved, split in ((datasets.DatasetDict({"test": rows}), "test"), (datasets.Dataset(rows.data), "train")):
        saved.save_to_disk(f"saved_{split}")
        args = {"dataset_path": f"saved_{split}", "split": split}
        after = load_task("my_tasks/copy_of_a_repository.yaml", task_args=args)
        assert after.dataset.revision == before.dataset.revision and after.example(0).images[0].size == (8, 6)


def test_the_page_has_all_kinds_of_local_data():
    assert list(TASKS) == ["table_of_files", "folder", "copy_of_a_repository", "encoded_pictures", "made_rows"]
    assert list(CODE) == ["utils", "rows"]
