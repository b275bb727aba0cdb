"""Whatever is called a task file is read in bounded time, or refused in a sentence that names it."""

from __future__ import annotations

import os
import socket
import time
from contextlib import chdir, suppress
from itertools import product

import pytest
import yaml

from microscope_bench.errors import MicroscopeError, TaskError
from microscope_bench.tasks import TaskSettings, list_tasks, load_task
from microscope_bench.tasks.lm_eval_layer import task_fields


def anchors(text: str, levels: int = 10) -> str:
    """Anchors of which each names the one before ten times."""
    lines = [f"a0: &a0 {text}"]
    return "\n".join([*lines, *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels))]) + "\n"


MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 10))

BOMBS = {
    "aliases": anchors("[x, x]") + "description: *a9\n",
    "aliases of a long text": anchors("x" * 100_000, 5) + "metadata: {description: *a4}\n",
    "merges": MERGES + "metadata: *a9\n",
    "a value that holds itself": "metadata: &m {description: [*m]}\n",
    "deep": "metadata: " + "[" * 60 + "]" * 60 + "\n",
    "very deep": "metadata: " + "[" * 100_000 + "\n",
    "deep mappings": "metadata:\n" + "".join(f"{' ' * n}x:\n" for n in range(1, 70)),
    "huge": "description: " + "x" * (2 << 20) + "\n",
}


@pytest.fixture(autouse=True)
def in_seconds(request):
    begin = time.process_time()
    yield
    assert "any_type" in request.node.name or time.process_time() - begin < 5


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_task_file_that_expands_is_refused(write_task, tmp_path, bomb):
    path = write_task(metadata=None, version=None, id_column=None, description=None, extra=BOMBS[bomb])
    with pytest.raises(TaskError, match=r"toy\.yaml.*(nested more than 50 deep|holds itself|more than any such file)"):
        load_task(path)
    (listing,) = [listing for listing in list_tasks(tmp_path) if listing.path == path]
    assert listing.error is not None and len(listing.error) < 1000


def test_a_key_that_stands_twice_is_refused_by_file_key_and_line(write_task):
    for extra, line, first in (
        ("doc_to_text: other\n", 16, 9),
        ('"doc_to_text": other\n', 16, 9),
        ("fewshot_config: {x: 1, x: 1}\n", 16, 16),
        ("fewshot_config: {1: a, 0x1: b}\n", 16, 16),
    ):
        path = write_task(extra=extra)
        with pytest.raises(TaskError, match=rf"toy\.yaml: .*line {line}: key '\S+' stands on line {first} already"):
            load_task(path)
    path = write_task(extra="fewshot_config: &f {sampler: default}\ndescription: ''\n")
    path.write_text(path.read_text().replace("metadata:\n", "metadata:\n  <<: {version: 7}\n"))
    assert load_task(path).version == "2"  # which a merge may have, too


def test_a_few_aliases_are_fine(write_task):
    extra = "metadata: &m {version: 3, id_column: key}\nfewshot_config: {samples: []}\ntag: &t [one, two]\nx: 1\n"
    path = write_task(metadata=None, version=None, id_column=None, description=None, extra="")
    text = path.read_text().replace("metadata:\n", "")
    path.write_text(text + extra.replace("x: 1\n", ""))
    assert load_task(path).version == "3"


def special_file(path, kind):
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound, chdir(path.parent):  # its name may have 107 bytes
            bound.bind(path.name)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "directory":
        path.mkdir()


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "directory"])
def test_a_special_file_is_refused_wherever_a_task_file_is_read(write_task, tmp_path, kind):
    special = tmp_path / "special.yaml"
    special_file(special, kind)
    with pytest.raises(TaskError, match=r"special\.yaml cannot be read"):
        load_task(special)
    with pytest.raises(TaskError, match=r"toy\.yaml: field include: .*special\.yaml cannot be read"):
        load_task(write_task(extra="include: special.yaml\n"))
    write_task()
    assert len(load_task("toy", include_path=tmp_path)) == 2  # the others are not harmed
    errors = {listing.path.name: listing.error for listing in list_tasks(tmp_path)}
    assert "cannot be read" in errors["special.yaml"] and errors["toy.yaml"] is None


@pytest.mark.parametrize("kind", ["pipe", "device", "socket", "directory"])
def test_a_special_file_among_the_data_is_refused(write_task, tmp_path, kind):
    path = write_task()
    (tmp_path / "toy.json").unlink()
    special_file(tmp_path / "toy.json", kind)
    with pytest.raises(TaskError, match=r"toy\.json is (no regular file|a directory)"):
        load_task(path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test.csv").write_text("key,question,answer\nx,One?,0\n")
    special_file(tmp_path / "data" / "train.csv", kind)
    files = {"dataset_kwargs": None, "data_files": None, "test": None}
    path = write_task("folder", dataset_path=f"dataset_path: {tmp_path / 'data'}", **files)
    with suppress(TaskError):  # what datasets does not take for a file is none of the data set's
        assert len(load_task(path)) == 1


def test_includes_and_groups_of_many_copies_are_read_once(write_task, tmp_path):
    for level in range(20):
        (tmp_path / f"_part{level}.yaml").write_text(f"include: [{', '.join([f'_part{level + 1}.yaml'] * 10)}]\n")
    (tmp_path / "_part20.yaml").write_text("target_delimiter: ''\n")
    assert len(load_task(write_task(extra="include: _part0.yaml\n"))) == 2
    for level in range(60):
        (tmp_path / f"_part{level}.yaml").write_text(f"include: _part{level + 1}.yaml\n")
    with pytest.raises(TaskError, match="more than 50 follow it"):
        load_task(write_task(extra="include: _part0.yaml\n"))


def test_groups_of_many_copies_end(write_task, tmp_path):
    write_task()
    for level in range(6):
        below = f"copies{level + 1}" if level < 5 else "toy"
        (tmp_path / f"copies{level}.yaml").write_text(f"group: copies{level}\ntask: [{', '.join([below] * 10)}]\n")
    with pytest.raises(TaskError, match="copies0 stands for more than 50,000 tasks"):
        load_task("copies0", include_path=tmp_path)
    assert len(load_task("copies3", include_path=tmp_path)) == 2
    for level in range(60):
        (tmp_path / f"chain{level}.yaml").write_text(f"group: chain{level}\ntask: [chain{level + 1}]\n")
    with pytest.raises(TaskError, match="more than 50 deep"):
        load_task("chain0", include_path=tmp_path)


@pytest.mark.parametrize("name", ["a\0b.yaml", "~nobody-of-that-name/a.yaml", "a\0b", "x" * 5000 + ".yaml"])
def test_a_name_that_no_file_can_have_is_told(write_task, name):
    if name.endswith(".yaml"):  # other names are looked for in lm-eval's index, which takes its time
        with pytest.raises(MicroscopeError):
            load_task(name)
    with pytest.raises(MicroscopeError):
        load_task("toy", include_path=name)
    with pytest.raises(MicroscopeError):
        load_task(write_task(), task_args={"data_dir": name})
    with pytest.raises(MicroscopeError):
        load_task(write_task(), task_args={"dataset_path": name})


ODD = ["[a, {b: c}]", "{a: [b]}", "null", "7", "1.5", "true", "''", "2020-01-01", "!!binary aGk=", "[]", "{}", "text"]
ODD += ["{2: 3}"]
FEW = ["metadata", "num_fewshot", "test_split", "metadata.version", "metadata.id_column", "dataset_kwargs"]
NESTED = [*(f"metadata.{name}" for name in ("version", "id_column", "description", "citation", "generated"))]
NESTED += ["dataset_kwargs.data_files"]


@pytest.mark.parametrize(
    ("fields", "values", "shots"),
    [(FEW, ODD[:6], 1), *(pytest.param(None, ODD, shots, marks=pytest.mark.heavy) for shots in (0, 1))],
)
def test_a_field_of_any_type_is_taken_or_refused(write_task, fields, values, shots):
    failed = []
    path = write_task()
    plain = path.read_text()
    for field, value in product(fields or [*task_fields(), *NESTED], values):
        config = yaml.safe_load(plain)
        *above, name = field.split(".")
        (config[above[0]] if above else config)[name] = yaml.safe_load(value)
        path.write_text(yaml.safe_dump(config))
        try:
            load_task(path, settings=TaskSettings(num_fewshot=shots)).example(0)
        except MicroscopeError as error:
            assert len(str(error)) < 2000, (field, value)
        except Exception as error:
            failed.append(f"{field}: {value}: {type(error).__name__}: {error}")
        list_tasks(path.parent)
    assert failed == []
