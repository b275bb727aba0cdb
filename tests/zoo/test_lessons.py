from __future__ import annotations

from collections import Counter

import pytest
import torch

from microscope_bench.zoo import parts
from microscope_bench.zoo.batches import NONE, Frame, LessonEncoder
from microscope_bench.zoo.lessons import DESCRIBE, INSTRUCTION, LETTERS, answer_words, lesson, shapesqa

N = 300


@pytest.fixture(scope="module")
def lessons():
    return [lesson(0, number) for number in range(N)]


def seen(scene):
    return {(shape.place, shape.colour, shape.shape, shape.large) for shape in scene.shapes}


def is_true(question, answer, scene):
    """Whether an answer to a question is right, from the scene alone: another way than the one that made it."""
    words = question.rstrip("?").split()
    shapes = seen(scene)
    if question.startswith("What colour is the shape at"):
        return any(place == " ".join(words[-2:]) and colour == answer for place, colour, _, _ in shapes)
    if question.startswith("Which shape is at"):
        return any(place == " ".join(words[-2:]) and form == answer for place, _, form, _ in shapes)
    if question == "How many shapes are there?":
        return len(shapes) == int(answer)
    if question.startswith("How many"):
        return sum(colour == words[2] for _, colour, _, _ in shapes) == int(answer)
    if question.startswith("Which of these colours"):
        return any(colour == answer for _, colour, _, _ in shapes)
    if question.startswith("Where is the"):
        return any(place == answer and [colour, form] == words[3:] for place, colour, form, _ in shapes)
    assert question == "What colour is the large shape?"
    return any(large and colour == answer for _, colour, _, large in shapes)


def test_the_same_lesson_every_time_and_another_for_another_seed():
    assert lesson(0, 7) == lesson(0, 7)
    assert lesson(0, 7) != lesson(1, 7)


def test_the_first_turn_is_the_question_of_the_task_in_its_own_words(lessons):
    for number, one in enumerate(lessons):
        asked = shapesqa().scene(0, "train", number)
        first = one.turns[0]
        assert (first.question, first.choices, first.instruction) == (asked.question, asked.choices, INSTRUCTION)
        assert first.answer == asked.choices[asked.answer]


def test_exactly_the_given_answer_is_true(lessons):
    kinds = Counter()
    for one in lessons:
        for turn in one.turns:
            if turn.question == DESCRIBE or turn.question.startswith(" "):
                continue
            kinds[turn.question.split(" at ")[0][:12]] += 1
            assert is_true(turn.question, turn.answer, one.scene), turn
            assert all(not is_true(turn.question, c, one.scene) for c in turn.choices if c != turn.answer), turn
    assert len(kinds) >= 6, "every kind is asked"


def test_a_description_names_every_shape_and_every_empty_quarter(lessons):
    for one in lessons[:50]:
        text = one.turns[-1].answer
        for place, colour, form, large in seen(one.scene):
            assert f"{place} {'large' if large else 'small'} {colour} {form}." in text
        assert text.count("nothing") == 4 - len(one.scene.shapes)


def test_letters_of_the_short_questions_are_nearly_balanced(lessons):
    for n_choices in (2, 3, 4):
        slots = Counter(
            turn.choices.index(turn.answer)
            for one in lessons
            for turn in one.turns[1:]
            if len(turn.choices) == n_choices
        )
        total = sum(slots.values())
        assert all(abs(slots[slot] / total - 1 / n_choices) < 0.1 for slot in range(n_choices))


@pytest.fixture(scope="module")
def batch(lessons):
    tokenizer = parts.tokenizer()
    before = tuple(tokenizer("<s>[INST]<image>", add_special_tokens=False)["input_ids"])
    after = tuple(tokenizer("[/INST]", add_special_tokens=False)["input_ids"])
    return tokenizer, LessonEncoder(tokenizer, Frame(before, after)).batch(lessons[:4])


def test_a_turn_sees_the_picture_and_itself_only(lessons, batch):
    tokenizer, made = batch
    for row in range(4):
        text = tokenizer.convert_ids_to_tokens(made.input_ids[row])
        ends = [i for i, token in enumerate(text) if token == "[/INST]"]
        assert len(ends) == len(lessons[row].turns)
        for end in ends[1:3]:
            visible = made.mask[row, 0, end].nonzero().flatten().tolist()
            assert visible[:3] == [0, 1, 2] and visible[-1] == end
            assert not set(visible) & set(ends[: ends.index(end)])
            start = visible[3]
            assert visible[3:] == list(range(start, end + 1))
            assert made.position_ids[row, start] == 3, "as if it were the only question"


def test_what_is_asked_of_each_position(lessons, batch):
    tokenizer, made = batch
    letters = set(tokenizer.convert_tokens_to_ids(list(LETTERS)))
    for row in range(4):
        n_lettered = sum(bool(turn.choices) for turn in lessons[row].turns)
        answers = made.input_ids[row][made.weights[row] == 1].tolist()
        assert sum(token in letters for token in answers) == n_lettered
        matches = made.matches[row][made.matches[row] != NONE]
        assert len(matches) == sum(len(turn.choices) for turn in lessons[row].turns)
        assert int(matches.sum()) == n_lettered
        asked = made.answers[row][made.answers[row] != NONE].tolist()
        expected = [answer_words().index(t.answer) for t in lessons[row].turns if t.has_one_answer]
        assert asked == expected


def test_the_first_turn_is_tokenised_as_the_task_is(lessons, batch):
    tokenizer, made = batch
    for row in range(4):
        first = lessons[row].turns[0]
        options = "".join(f"{letter}. {choice}\n" for letter, choice in zip(LETTERS, first.choices, strict=False))
        prompt = f"{first.question}\n{options}{INSTRUCTION}[/INST]"
        expected = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        assert made.input_ids[row, 3 : 3 + len(expected)].tolist() == expected


def test_padding_counts_nowhere(batch):
    tokenizer, made = batch
    padded = made.input_ids == tokenizer.pad_token_id
    assert padded.any()
    assert not made.weights[padded].any() and (made.answers[padded] == NONE).all()
    for row in range(4):
        real = ~padded[row]
        assert not made.mask[row, 0][real][:, padded[row]].any()
    assert made.mask.any(-1).all(), "a row that sees nothing would become NaN"
    assert made.mask.dtype == torch.bool
