"""scienceqa_img and scienceqa_text: prompts, pictures, splits, identity; from the authors' layout and the hub's."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from PIL import Image

from microscope_bench.errors import ExampleError, TaskError
from microscope_bench.tasks import builtin_task_dir, load_task
from tests.tasks.hub_copies import HubCopy

LAST_LINE = "Answer with the option's letter from the given choices directly."
REAL = Path(os.environ.get("MICROSCOPE_BENCH_SCIENCEQA") or Path(__file__).parents[3] / "shared" / "data" / "scienceqa")


def load(name: str, directory: Path, **task_args):
    return load_task(name, task_args={"data_dir": str(directory), **task_args})


def test_picture_questions_carry_one_placeholder_and_the_usual_prompt(scienceqa_dir):
    task = load("scienceqa_img", scienceqa_dir)
    assert list(task.ids) == ["10", "9", "8", "7", "6"] and len(task) == 5 and task.has_images
    plain, hinted = task.example(0), task.example(1)
    assert plain.text == f"<image>Which one, 0?\nA. this\nB. that\n{LAST_LINE}"
    assert hinted.text == f"<image>Context: Look closely.\nWhich one, 1?\nA. this\nB. that\nC. neither\n{LAST_LINE}"
    assert (plain.choices, plain.answer, hinted.choices, hinted.answer) == (("A", "B"), 0, ("A", "B", "C"), 1)
    assert plain.has_letter_choices and len(plain.images) == 1


def test_text_questions_have_neither_picture_nor_placeholder(scienceqa_dir):
    task = load("scienceqa_text", scienceqa_dir)
    assert list(task.ids) == ["5"] and not task.has_images
    example = task.example(0)
    assert example.images == () and example.text.startswith("Context: Look closely.\nWhich one, 5?\n")


def test_pictures_become_rgb_and_their_former_mode_is_recorded(scienceqa_dir):
    task = load("scienceqa_img", scienceqa_dir)
    examples = [task.example(i) for i in range(4)]
    assert [e.converted_from for e in examples] == [(), ("RGBA",), ("L",), ("P",)]
    assert [(e.images[0].mode, e.images[0].size) for e in examples] == [("RGB", (6 + i, 5)) for i in range(4)]
    assert examples[1].images[0].getpixel((0, 0)) == (200, 30, 60)


@pytest.mark.parametrize("damage", ["damaged", "cut off", "missing", "fifo", "loop", "nul"])
def test_a_picture_that_does_not_open_costs_its_question_alone(scienceqa_dir, damage):
    file = scienceqa_dir / "images/test/6/image.png"
    if damage == "cut off":
        buffer = io.BytesIO()
        Image.effect_noise((64, 64), 90).convert("RGB").save(buffer, "PNG")
        file.write_bytes(buffer.getvalue()[:2000])
    elif damage == "nul":
        problems = scienceqa_dir / "problems.json"
        problems.write_text(problems.read_text().replace('"image.png"', '"image.png\\u0000"'))
    elif damage != "damaged":
        file.unlink()
        if damage == "fifo":
            os.mkfifo(file)
        elif damage == "loop":
            file.symlink_to(file)
    task = load("scienceqa_img", scienceqa_dir)
    with pytest.raises(ExampleError) as raised:
        task.example(4)
    assert raised.value.example_id == "6"
    assert "test/6/image.png" in raised.value.cause
    assert str(scienceqa_dir) not in str(raised.value), "a directory must not reach the result"
    if damage != "nul":
        task.example(3)


def test_val_and_validation_are_one_split_and_ids_follow_it(scienceqa_dir):
    for split in ("val", "validation"):
        task = load("scienceqa_img", scienceqa_dir, split=split)
        assert (list(task.ids), task.dataset.split) == (["10"], "validation")


def test_identity_is_the_content_the_task_reads(scienceqa_dir, tmp_path):
    first = load("scienceqa_img", scienceqa_dir).dataset
    assert first.path == "local" and first.revision.startswith("sha256-") and len(first.revision) == 23
    assert load("scienceqa_text", scienceqa_dir).dataset == first
    moved = scienceqa_dir.rename(tmp_path / "moved")
    (moved / "images" / "test").rename(moved / "test")  # the layout without images/
    (moved / "images").rmdir()
    assert load("scienceqa_img", moved).dataset == first
    problems = json.loads((moved / "problems.json").read_text())
    problems["10"]["lecture"] = "another lecture, which no prompt shows"
    (moved / "problems.json").write_text(json.dumps(problems))
    assert load("scienceqa_img", moved).dataset == first
    Image.new("RGB", (3, 3)).save(moved / "test" / "9" / "image.png")
    assert load("scienceqa_img", moved).dataset.revision != first.revision


def test_relative_data_dir_counts_from_the_working_directory(scienceqa_dir, monkeypatch):
    monkeypatch.chdir(scienceqa_dir.parent)
    assert load("scienceqa_text", Path("scienceqa")).ids == ["5"]


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("problems.json", None, "problems.json does not exist; data_dir must hold"),
        ("problems.json", "{", "problems.json is not valid JSON"),
        ("problems.json", '{"10": {"question": "Q"}}', "problem 10 lacks 'choices'"),
        ("pid_splits.json", '{"test": ["77"]}', "lacks problem 77"),
    ],
)
def test_an_incomplete_directory_is_named(scienceqa_dir, file, content, message):
    (scienceqa_dir / file).unlink()
    if content is not None:
        (scienceqa_dir / file).write_text(content)
    with pytest.raises(TaskError, match=f"scienceqa_img.yaml: field custom_dataset: .*{message}"):
        load("scienceqa_img", scienceqa_dir)


def test_a_local_copy_of_the_hub_data_set_is_read_anew_after_an_edit(tmp_path):
    string = datasets.Value("string")
    features = {"image": datasets.Image(), "question": string, "choices": datasets.List(string)}
    features |= {"answer": datasets.Value("int8"), "hint": string}
    row = {"choices": ["a", "b"], "answer": 1, "hint": ""}
    for number, question in enumerate(["Old?", "New?"]):
        directory = tmp_path / str(number) / "ScienceQA"
        rows = {"default": {"test": [row | {"question": question}]}}
        HubCopy("derek-thomas/ScienceQA", features, rows).write(directory)
        task = load_task("scienceqa_text", task_args={"dataset_path": str(directory)})
        assert task.example(0).text.startswith(question) and task.dataset.path == "local"


def test_plain_lm_eval_reads_the_same_task(scienceqa_dir):
    from lm_eval.tasks import TaskManager

    metadata = {"data_dir": str(scienceqa_dir)}
    manager = TaskManager(include_path=str(builtin_task_dir()), include_defaults=False, metadata=metadata)
    theirs = manager.load(["scienceqa_img"])["tasks"]["scienceqa_img"]
    ours = load("scienceqa_img", scienceqa_dir)
    assert {"scienceqa_img", "scienceqa_text", "shapesqa"} <= set(manager.all_subtasks)
    for index in range(4):
        doc, example = theirs.eval_docs[index], ours.example(index)
        assert theirs.fewshot_context(doc=doc, num_fewshot=0) == example.text
        assert (tuple(theirs.doc_to_choice(doc)), theirs.doc_to_target(doc)) == (example.choices, example.answer)
        assert theirs.doc_to_image(doc)[0].size == example.images[0].size


HUB_SCRIPT = """
import sys
from pathlib import Path
import datasets
from PIL import Image
from microscope_bench.errors import TaskError
from microscope_bench.tasks import load_task

sha, root = "0123456789" * 4, Path(sys.argv[1])
repository = root / "hub" / "datasets--derek-thomas--ScienceQA"
(repository / "refs").mkdir(parents=True)
(repository / "refs" / "main").write_text(sha)
data = repository / "snapshots" / sha / "data"
data.mkdir(parents=True)
string = datasets.Value("string")
features = datasets.Features({"image": datasets.Image(), "question": string, "choices": datasets.List(string),
    "answer": datasets.Value("int8"), "hint": string, **{c: string for c in "task grade subject topic category skill "
    "lecture solution".split()}})
rows = {c: [""] * 3 for c in features} | {"image": [None, Image.new("L", (9, 7)), Image.new("RGB", (4, 4))],
    "question": ["Q0", "Q1", "Q2"], "choices": [["a", "b"], ["c", "d", "e"], ["f", "g"]], "answer": [1, 2, 0]}
datasets.Dataset.from_dict(rows, features=features).to_parquet(str(data / "test-00000-of-00001.parquet"))

images, text = load_task("scienceqa_img"), load_task("scienceqa_text", task_args={"revision": "main"})
found = images.dataset
assert (found.path, found.name, found.revision, found.split) == ("derek-thomas/ScienceQA", None, sha, "test")
assert text.dataset == images.dataset and list(images.ids) == ["1", "2"] and list(text.ids) == ["0"]
example = images.example(0)
assert example.text == "<image>Q1\\nA. c\\nB. d\\nC. e\\n" + sys.argv[2], example.text
assert example.answer == 2 and example.converted_from == ("L",) and example.images[0].size == (9, 7)
assert text.example(0).text == "Q0\\nA. a\\nB. b\\n" + sys.argv[2]
for arguments in ({"revision": "no-such-branch"}, {"dataset_path": "somebody/else"}):
    try:
        load_task("scienceqa_img", task_args=arguments)
    except TaskError as error:
        assert "not in the local hub cache" in str(error) and "--task_args data_dir=DIR" in str(error), error
    else:
        raise AssertionError(arguments)
print("hub ok")
"""


def test_a_hub_data_set_is_pinned_to_its_commit_and_read_offline_from_the_cache(tmp_path):
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "HF_DATASETS_CACHE": str(tmp_path / "d"),
    }
    for override in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        environment.pop(override, None)
    command = [sys.executable, "-c", HUB_SCRIPT, str(tmp_path), LAST_LINE]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.endswith("hub ok\n"), done.stderr[-3000:]


@pytest.mark.skipif(
    not (REAL / "problems.json").is_file(), reason="set MICROSCOPE_BENCH_SCIENCEQA to real ScienceQA data"
)
@pytest.mark.parametrize("name", ["scienceqa_img", "scienceqa_text"])
def test_every_real_question_renders_exactly(name):
    problems = json.loads((REAL / "problems.json").read_text())
    task = load(name, REAL)
    assert set(task.ids) == {pid for pid, p in problems.items() if bool(p["image"]) == task.has_images}
    for index, pid in enumerate(task.ids):
        example, problem = task.example(index), problems[pid]
        hint = f"Context: {problem['hint']}\n" if problem["hint"] else ""
        options = "".join(f"{'ABCDE'[i]}. {choice}\n" for i, choice in enumerate(problem["choices"]))
        image = "<image>" if task.has_images else ""
        assert example.text == f"{image}{hint}{problem['question']}\n{options}{LAST_LINE}"
        assert (
            example.id == pid
            and example.answer == problem["answer"]
            and len(example.choices) == len(problem["choices"])
        )
        assert [picture.mode for picture in example.images] == ["RGB"] * task.has_images
