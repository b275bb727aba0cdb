"""What is wrong with a task's data is in the message: the file, the place, and what to do."""

from __future__ import annotations

import os
import re
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from microscope_bench.errors import ExampleError, TaskError
from microscope_bench.tasks import load_task

COLUMNS = {"question": ["Which?"], "answer": ["A"], "picture": ["1.png"]}


@pytest.fixture
def over_parquet(write_task, tmp_path):
    """Writes a task over files of Parquet that were written before."""

    def write(*files: str, **replace: str | None) -> Path:
        named = ", ".join(str(tmp_path / file) for file in files)
        fields = {"dataset_path": "dataset_path: parquet", "test": f"    test: [{named}]", "id_column": None}
        return write_task(**{**fields, **replace})

    return write


def test_a_parquet_file_that_is_not_whole_is_named(over_parquet, tmp_path):
    parquet.write_table(pa.table(COLUMNS), tmp_path / "good.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "good.parquet").read_bytes()[:-20])
    with pytest.raises(TaskError, match=r"cut\.parquet is no whole Parquet file \(Parquet magic bytes not found"):
        load_task(over_parquet("good.parquet", "cut.parquet"))


def test_a_parquet_file_without_rows_is_named(over_parquet, tmp_path):
    parquet.write_table(pa.table({name: pa.array([], pa.string()) for name in COLUMNS}), tmp_path / "empty.parquet")
    with pytest.raises(TaskError, match=r"empty\.parquet has no rows; leave it out"):
        load_task(over_parquet("empty.parquet"))


def test_a_file_that_is_not_there_is_blamed_on_the_field_that_names_it(over_parquet):
    with pytest.raises(TaskError, match=r"field dataset_kwargs\.data_files: FileNotFoundError: .*gone\.parquet"):
        load_task(over_parquet("gone.parquet"))


def test_files_of_other_columns_are_told_by_their_columns(over_parquet, tmp_path):
    parquet.write_table(pa.table(COLUMNS), tmp_path / "a.parquet")
    parquet.write_table(pa.table(COLUMNS).rename_columns(["question", "reply", "picture"]), tmp_path / "b.parquet")
    with pytest.raises(TaskError, match=r"columns of its first, but there are 1 new columns \(\{'reply'\}\)"):
        load_task(over_parquet("a.parquet", "b.parquet"))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return {'test': next(iter([]))}", "field custom_dataset: StopIteration in line 5 of helper.py"),
        ("return {'test': rows(lambda: iter(()))}", "field custom_dataset: split 'test' has no rows"),
        ("return {'test': rows(broken)}", "field custom_dataset: KeyError in line 3 of helper.py: 'image_3'"),
        ("return {'test': []}", "split 'test' must be a datasets.Dataset, not list: datasets.Dataset.from_list(rows)"),
    ],
)
def test_what_a_function_of_the_task_raises_is_told_with_its_line(write_task, tmp_path, body, said):
    (tmp_path / "helper.py").write_text(
        "from datasets import Dataset\ndef broken():\n    raise KeyError('image_3'); yield {}\ndef load(**_):\n"
        f"    {body}\ndef rows(generator):\n    return Dataset.from_generator(generator)\n"
    )
    path = write_task(dataset_path="custom_dataset: !function helper.load")
    with pytest.raises(TaskError, match=re.escape(said)):
        load_task(path)


def pictures_task(write_task, rows) -> Path:
    return write_task(rows=rows, doc_to_text="doc_to_image: [picture]\ndoc_to_text: '<image>{{ question }}'")


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        ({"data": "x", "name": "y"}, "dict of 'data', 'name' is given where a PIL image, stored bytes or the path of"),
        (7, "int is given where a PIL image, stored bytes or the path of a file is due; let a function make them"),
        (None, "1 <image> in the prompt but 0 pictures; column picture has no value"),
        ("gone.png", "file 'gone.png' does not open: there is no such file"),
    ],
)
def test_a_cell_that_is_no_picture_says_what_it_is(write_task, picture, said):
    rows = [{"key": "x", "question": "Q", "answer": 0, "picture": picture}]
    with pytest.raises(ExampleError, match=re.escape(said)):
        load_task(pictures_task(write_task, rows)).example(0)


@pytest.mark.parametrize("shown", ["[pic]", "pic", "'{{ pic }}'"])
@pytest.mark.parametrize("field", ["doc_to_image", "doc_to_audio"])
def test_a_column_of_media_that_no_row_has_is_told_once(write_task, field, shown):
    with pytest.raises(TaskError, match=rf"toy.yaml: field {field}: .*the columns are 'key', 'question', 'answer'"):
        load_task(write_task(extra=f"{field}: {shown}\n"))


def test_a_target_that_is_no_choice_says_what_it_is(write_task):
    rows = [{"key": key, "question": "Q", "answer": answer} for key, answer in (("x", "A"), ("y", "C"))]
    with pytest.raises(ExampleError, match=r"the answer 'C' is neither a choice nor the number of one \(0 to 1\)"):
        load_task(write_task(rows=rows)).example(1)


def test_a_pipe_among_saved_rows_is_refused(write_task, tmp_path):
    datasets.Dataset.from_dict(COLUMNS).save_to_disk(tmp_path / "saved")
    os.mkfifo(tmp_path / "saved/more.arrow")
    with pytest.raises(TaskError, match=r"more\.arrow is no regular file"):
        fields = {"dataset_kwargs": None, "data_files": None, "test": None}
        load_task(write_task(dataset_path=f"dataset_path: {tmp_path / 'saved'}", **fields))
