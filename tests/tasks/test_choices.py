"""Which choice a target names."""

from __future__ import annotations

import pytest

from microscope_bench.tasks.choices import right_answer


@pytest.mark.parametrize("choices", [("True", "False"), ("false", "true"), ("yes", "no"), ("No", "Yes")])
@pytest.mark.parametrize("target", [True, False])
def test_a_truth_value_is_the_choice_that_says_it(target: bool, choices: tuple[str, str]) -> None:
    assert (choices[right_answer(target, choices)].lower() in ("true", "yes")) is target


def test_a_truth_value_among_other_choices_is_their_number() -> None:
    assert [right_answer(target, ("unacceptable", "acceptable")) for target in (False, True)] == [0, 1]


def test_text_of_a_choice_goes_before_its_number() -> None:
    assert right_answer("2", ("1", "2", "3")) == 1
    assert right_answer(2, ("1", "2", "3")) == 2 and right_answer(2.0, ("a", "b", "c")) == 2
