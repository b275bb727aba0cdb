"""Names and reasons come from files that anybody may send: on the page they are text and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microscope_bench.publish.escape import escape, link
from tests.publish.hostile import HOSTILE, entries, rendered
from tests.publish.small import render

PLAIN = rendered(render(entries("plain")))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_page_of_hostile_names_has_the_structure_of_a_page_of_plain_ones(text: str) -> None:
    page = rendered(render(entries(text)))
    assert page.tags == PLAIN.tags
    assert all(target.startswith("./") for target in page.links), page.links
    assert len(page.links) == len(PLAIN.links)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.text(alphabet=st.sampled_from("<>&;|`*_[]()!#\\~\n\"'/:.@ax1-+={}$ \u2028"), min_size=1, max_size=12))
def test_any_text_keeps_the_structure(text: str) -> None:
    page = rendered(render(entries("x" + text + "x")))
    assert page.tags == PLAIN.tags


@pytest.mark.parametrize("text", HOSTILE)
def test_escaped_text_reads_as_it_was(text: str) -> None:
    assert "\n" not in escape(text)
    assert not {"|", "<", ">", "`", "["} & set(escape(text))
    words = " ".join("".join(rendered(escape(f"x {text}")).words).split())
    expected = "x " + text.replace("\u202e", " ").replace("\u2028", " ").replace("\u0085", " ")
    assert words == " ".join(expected.split())


def test_ordinary_names_stay_readable_in_the_source() -> None:
    name = "llava-hf/llava_v1.6-mistral-7b (2 of 3, 50%)"
    assert escape(name) == name


def test_links_stay_relative() -> None:
    assert link("x", "javascript:alert(1).json") == "[x](./javascript%3Aalert%281%29.json)"
    assert link("x", "a b/ö|).json") == "[x](./a%20b/%C3%B6%7C%29.json)"
