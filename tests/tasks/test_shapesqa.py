"""shapesqa: the same everywhere, balanced, and its pictures say what its answers say."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from collections import Counter

import numpy as np
import pytest

from microscope_bench.errors import TaskError
from microscope_bench.tasks import TaskSettings, builtin_task_dir, load_task
from microscope_bench.tasks.settings import Seeds

N = 2000


@pytest.fixture(scope="module")
def utils():
    spec = importlib.util.spec_from_file_location("shapesqa_utils", builtin_task_dir() / "shapesqa" / "utils.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def scenes(utils):
    return [utils.scene(0, "test", index) for index in range(N)]


def seen_in(utils, picture: np.ndarray) -> dict[str, tuple[str, int]]:
    """Place → (colour, covered pixels), read from the pixels alone."""
    half = len(picture) // 2
    found = {}
    for number, place in enumerate(utils.PLACES):
        row, column = divmod(number, 2)
        quarter = picture[row * half : (row + 1) * half, column * half : (column + 1) * half].reshape(-1, 3)
        for name, rgb in utils.COLOURS.items():
            covered = int((quarter == np.array(rgb)).all(1).sum())
            if covered:
                assert place not in found, "one quarter, one colour"
                found[place] = (name, covered)
    return found


def test_the_first_rows_are_the_same_on_every_machine():
    task = load_task("shapesqa", task_args={"n": "63"})
    digest = hashlib.sha256()
    for index in range(63):
        example = task.example(index)
        digest.update(json.dumps([example.id, example.text, example.choices, example.answer]).encode())
        digest.update(example.images[0].tobytes())
    assert digest.hexdigest() == "52f393287d8daed04b6c0628fac5f4d118a6523b2f27b0388afc2096578f0dee"


def test_the_prompt_is_scienceqas():
    example = load_task("shapesqa").example(2)
    assert example.text == (
        "<image>How many shapes are there?\nA. 1\nB. 3\nC. 4\nD. 2\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert (example.id, example.answer, example.choices) == ("test-2", 1, ("A", "B", "C", "D"))
    assert example.images[0].size == (64, 64) and example.converted_from == ()


def test_a_row_depends_on_seed_split_and_number_alone(utils):
    task, longer = load_task("shapesqa", task_args={"n": 70}), load_task("shapesqa", task_args={"n": 140})
    backwards = [longer.example(index) for index in reversed(range(70))][::-1]
    for index, again in enumerate(backwards):
        example = task.example(index)
        assert (example.text, example.images[0].tobytes()) == (again.text, again.images[0].tobytes())
    same = [
        utils.scene(*a, i) == utils.scene(*b, i)
        for a, b in [((0, "test"), (1, "test")), ((0, "test"), (0, "train"))]
        for i in range(60)
    ]
    assert sum(same) == 0


def test_arguments_are_the_revision_and_the_run_seed_is_not():
    arguments = {"n": "30", "seed": "4", "size": "48", "split": "train"}
    task = load_task("shapesqa", task_args=arguments, settings=TaskSettings(seeds=Seeds(9, 9, 9)))
    assert (task.dataset.revision, task.dataset.split) == ("shapesqa-1-seed4-n30-size48", "train")
    assert len(task) == 30 and task.example(0).images[0].size == (48, 48) and task.ids[0] == "train-0"
    one, two = (load_task("shapesqa", settings=TaskSettings(seeds=Seeds(seed, seed, seed))) for seed in (1, 2))
    assert one.example(5).text == two.example(5).text


@pytest.mark.parametrize("arguments", [{"n": "many"}, {"n": "0"}, {"size": "31"}])
def test_arguments_that_make_no_sense_are_refused(arguments):
    with pytest.raises(TaskError, match=r"whole number|at least"):
        load_task("shapesqa", task_args=arguments)


def test_letters_and_kinds_are_balanced_by_construction(utils, scenes):
    whole = scenes[: N - N % 63]
    cells = Counter((s.kind, len(s.choices), s.answer) for s in whole)
    assert len(cells) == 63 and set(cells.values()) == {N // 63}
    for s in scenes:
        assert len(set(s.choices)) == len(s.choices) and set(s.choices) <= set(utils.VALUES[s.kind])


def test_the_text_alone_does_not_give_the_answer_away(utils, scenes):
    """Answers are even per kind, and no rule "always this value when it is offered" beats chance by more than noise."""
    for kind, values in utils.VALUES.items():
        of_kind = [s for s in scenes if s.kind == kind]
        answers = Counter(s.choices[s.answer] for s in of_kind)
        even = len(of_kind) / len(values)
        assert all(abs(answers[v] - even) < 4 * np.sqrt(even) for v in values), (kind, answers)
        for value in values:
            offered = [s for s in of_kind if value in s.choices]
            chance = sum(1 / len(s.choices) for s in offered)
            assert abs(sum(s.choices[s.answer] == value for s in offered) - chance) < 4 * np.sqrt(chance), (kind, value)


def test_pictures_agree_with_answers_and_only_one_option_is_right(utils, scenes):
    """Each question is answered again from pixels (and, for forms, from the scene): exactly one option must be true."""
    for s in scenes[:700]:
        seen = seen_in(utils, utils.draw(s))
        assert {shape.place: shape.colour for shape in s.shapes} == {p: colour for p, (colour, _) in seen.items()}
        colours = Counter(colour for colour, _ in seen.values())
        words = s.question.rstrip("?").split()
        if s.kind == "count":
            true = {str(len(seen))}
        elif s.kind == "count_colour":
            true = {str(colours[words[2]])}
        elif s.kind == "colour_present":
            true = set(colours)
        elif s.kind == "colour_at":
            true = {seen[" ".join(words[-2:])][0]}
        elif s.kind == "large_colour":
            pixels = sorted(covered for _, covered in seen.values())
            true = {colour for colour, covered in seen.values() if covered == pixels[-1]}
            assert pixels[-1] > 1.5 * pixels[-2]
        elif s.kind == "shape_at":
            true = {shape.shape for shape in s.shapes if shape.place == " ".join(words[-2:])}
        else:
            true = {shape.place for shape in s.shapes if [shape.colour, shape.shape] == words[-2:]}
        assert [choice for choice in s.choices if choice in true] == [s.choices[s.answer]], (s.kind, s)


def test_forms_differ_on_the_picture(utils):
    def pixels(shape: str, large: bool) -> np.ndarray:
        placed = utils.Shape("top left", shape, "red", large, (0, 0))
        return (utils.draw(utils.Scene("count", "", (), 0, (placed,), 255)) == (214, 39, 40)).all(2)

    for large in (True, False):
        masks = {shape: pixels(shape, large) for shape in utils.SHAPES}
        for a in utils.SHAPES:
            assert all(a == b or (masks[a] ^ masks[b]).sum() >= 12 for b in utils.SHAPES)
    for shape in ("circle", "square", "diamond", "cross"):
        mask = pixels(shape, True)[:32, :32]
        assert (mask == mask[::-1]).all() and (mask == mask[:, ::-1]).all()


def test_rows_have_the_hubs_columns_and_their_pictures_only_when_read(utils):
    rows = utils.load(n=5)["validation"]
    hub = "image question choices answer hint task grade subject topic category skill lecture solution"
    assert set(rows[0]) == {*hub.split(), "id", "kind"}
    assert rows[3]["image"].size == (64, 64) and "image" not in rows.column_names
    assert list(rows["answer"]) == [rows[i]["answer"] for i in range(5)]


def test_a_split_is_made_when_it_is_asked_for(utils, monkeypatch):
    made, row = [], utils._row
    monkeypatch.setattr(utils, "_row", lambda seed, split, index: made.append(split) or row(seed, split, index))
    splits = utils.load(n=2)
    assert list(splits) == ["train", "validation", "test"] and "tests" not in splits and made == []
    assert splits["test"] is splits["test"] and made == ["test", "test"]
