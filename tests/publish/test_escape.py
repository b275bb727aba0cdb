"""Text from files on its way to a terminal, a CI log, a spreadsheet or a page: what is left of it, and what is not."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microscope_bench.publish.escape import code_block, csv_cell
from microscope_bench.system.printable import UNSEEN, one_line, printable, printable_lines
from tests.publish.hostile import HOSTILE

COMMAND = re.compile(r"^\s*::|##\[|##vso\[", re.MULTILINE)


@pytest.mark.parametrize(
    "character", ["\x00", "\x1b", "\x7f", "\x9b", "\u200b", "\u200f", "\u202e", "\u2028", "\u2066", "\ufeff", "\ud800"]
)
def test_what_nobody_sees_is_a_blank_everywhere(character: str) -> None:
    assert re.fullmatch(f"[{UNSEEN}]", character)
    for safe in (one_line, printable, printable_lines):
        assert safe(f"a{character}b") == "a b"


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(alphabet=st.sampled_from(":#[]vso \n\r\t\x1b\u202eab"), max_size=14))
def test_no_text_is_a_command_of_a_ci_log(text: str) -> None:
    assert "\n" not in printable(text)
    for shown in (printable(text), printable_lines(text)):
        assert not COMMAND.search(shown)
        assert not set("\x1b\u202e\r") & set(shown)


def test_ordinary_messages_stay_as_they_are() -> None:
    path = "results/a  model/tests::test_it.json (2 of 3)"
    assert printable(path) == path
    assert printable_lines(f"first: {path}\n  second\n") == f"first: {path}\n  second\n"


@pytest.mark.parametrize("text", [*HOSTILE, "```\n````"])
def test_nothing_ends_a_block_of_code_before_its_end(text: str) -> None:
    first, *inside, last = code_block(text, "sh").split("\n")
    assert first == f"{last}sh" and not [line for line in inside if line.strip().startswith(last)]


def test_numbers_are_no_formulas() -> None:
    assert (csv_cell(-1.5), csv_cell(None), csv_cell("-1.5"), csv_cell("a")) == (-1.5, None, "'-1.5", "a")
