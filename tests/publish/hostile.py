"""Text that a file from anybody may hold, and results that hold it in every field."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from msgspec.structs import replace

from microscope_bench.results.records import Failure
from microscope_bench.results.result import Result
from microscope_bench.system.printable import UNSEEN
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


COMMAND = re.compile(r"^\s*::|##\[|##vso\[|##teamcity\[", re.MULTILINE | re.IGNORECASE)
SEEN_BREAKS = "\n\t"
UNPRINTABLE = "x\x1b[2J\x9b1m\u202e\udcff\U000e0041\r::error::a\n::error::owned ##vso[task.setvariable]"
"""What a terminal or a CI log must not be shown as it is."""


def is_harmless(text: str) -> bool:
    return not COMMAND.search(text) and not re.search(f"(?![{SEEN_BREAKS}])[{UNSEEN}]", text)


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
        selection=text,
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
