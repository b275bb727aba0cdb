"""Names and reasons come from files that anybody may send: on the page they are text and nothing else."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microscope_bench.publish.escape import escape, link
from microscope_bench.publish.leaderboard.markdown_page import render
from microscope_bench.results.result import Failure, Result
from tests.results.sample import failed, sample, with_scores

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</td></table><h1>owned",
    "[click](javascript:alert(1))",
    "![x](https://evil.example/pixel.png)",
    "https://evil.example/a www.evil.example @everyone",
    "a | b || c",
    "`code` ``more",
    "**best** _of_ ~~all~~ # one",
    "line\none\r\n\n# Heading\n| a | b |\n|:--|:--|",
    "&lt;script&gt; &#60;b&#62;",
    "\\| \\` \\[",
    "\u202egnp.exe \u2028 \u0085 x",
    "--> <!-- {{ liquid }} {% x %} $math$",
]


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def rendered(page: str) -> Tags:
    markdown_it = pytest.importorskip("markdown_it", reason="markdown-it-py renders the page")
    tags = Tags()
    tags.feed(markdown_it.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(page))
    return tags


def everywhere(text: str) -> Result:
    """A result that says ``text`` in every field that reaches the page, schema or not."""
    result = sample()
    identity = result.identity
    result = sample(
        model={"name": text, "repo": text, "revision": text, "dtype": text, "quantization": text, "attention": text},
        task=replace(identity.task, name=text, version=text),
        dataset=replace(identity.dataset, path=text, name=text, revision=text, split=text),
        selection=replace(identity.selection, rule=text),
        example_ids_sha256=text,
    )
    return with_scores(
        result,
        lambda score: replace(score, value=None, stderr=None, reason=text) if score.metric == "anisotropy" else score,
    )


def entries(text: str) -> list[tuple[str, Result]]:
    ended = replace(failed(everywhere(text)), error=Failure(text, text, text))
    path = text.replace("\0", "").encode("utf-8", "replace").decode()
    return [("a.json", everywhere(text)), ("b.json", ended), (f"{path}/c.json", everywhere(text))]


PLAIN = rendered(render(entries("plain")))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_page_of_hostile_names_has_the_structure_of_a_page_of_plain_ones(text: str) -> None:
    page = rendered(render(entries(text)))
    assert page.tags == PLAIN.tags
    assert all(target.startswith("./") for target in page.links), page.links
    assert len(page.links) == len(PLAIN.links)


@settings(max_examples=40, deadline=None, derandomize=True)
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
