"""Names, flags, reasons, commands come from files that anybody may send: in a report they are text and nothing else."""

from __future__ import annotations

import base64
from itertools import zip_longest
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from microscope_bench.publish.report.page import render
from microscope_bench.results.records import Failure, Score, Skipped
from microscope_bench.results.result import Result
from tests.publish.hostile import HOSTILE
from tests.publish.report_page import Element, read
from tests.results.sample import failed, sample, with_scores

PAYLOADS = [
    *HOSTILE,
    '"><script>alert(1)</script>',
    "'><svg onload=alert(1)>",
    '" onmouseover="alert(1)" x="',
    "' onfocus='alert(1)' autofocus='",
    "</style><script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "</svg><script>alert(1)</script>",
    "]]><script>alert(1)</script>",
    "<!--",
    "--!><img src=x onerror=alert(1)>",
    "<a href=javascript:alert(1)>x</a>",
    "java\tscript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "{{ 7*7 }}{% raw %}{{ self._TemplateReference__context }}",
    "${alert(1)}`${alert(1)}`",
    "&quot; onload=alert(1) &lt;script&gt;",
    "\x00<script\x00>alert(1)</script>",
    "<scr<script>ipt>alert(1)</scr</script>ipt>",
    '<iframe srcdoc="<script>alert(1)</script>">',
    "<math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>",
    '<base href="https://evil.example/">',
    '<meta http-equiv="refresh" content="0;url=https://evil.example/">',
    "＜script＞alert(1)＜/script＞",
    "%3Cscript%3Ealert(1)%3C/script%3E",
    "x" * 500,
]

SAMPLE = with_scores(
    sample(), lambda s: s if s.modality == "image" and s.tokens in ("all", "correct", "wrong") else None
)


def everywhere(text: str) -> Result:
    """A result that says ``text`` wherever a file may hold text, schema or not."""
    identity, inputs, ran = SAMPLE.identity, SAMPLE.inputs, SAMPLE.environment

    def hurt(score: Score) -> Score:
        flags = (*score.flags, text, f"{text}=1")
        return replace(score, flags=flags, value=None, stderr=None, reason=text) if score.layer == 1 else score

    names = dict.fromkeys(
        ("name", "repo", "revision", "adapter", "architecture", "dtype", "quantization", "attention"), text
    )
    return replace(
        SAMPLE,
        identity=replace(
            identity,
            model=replace(identity.model, **names, control=text, options={text: text, "tap": text}),
            task=replace(identity.task, name=text, version=text),
            dataset=replace(identity.dataset, path=text, name=text, revision=text, split=text),
            selection=text,
            example_ids_sha256=text,
            metrics={**identity.metrics, f"x{text}": 1},
        ),
        inputs=replace(inputs, tokens_seen={text: 3}, skipped=(Skipped(text, text),), media_sha256=text),
        environment=replace(
            ran, command=text, processor=text, image_processor=text, device=text, packages={text: text}, platform=text,
            captured_with={text: text}, package_version=text, commit=text,
        ),
        timing=replace(SAMPLE.timing, started_utc=text),
        accuracy=replace(SAMPLE.accuracy, value=None, stderr=None, reason=text) if SAMPLE.accuracy else None,
        scores=tuple(map(hurt, SAMPLE.scores)),
        signature=text,
    )  # fmt: skip


def page_of(text: str) -> Element:
    one = everywhere(text)
    ended = replace(failed(one), error=Failure(text, text, text))
    return read(render([one, replace(one, signature=text + "2"), ended]))


def shape(page: Element) -> list[tuple[str, tuple[str, ...]]]:
    return [(element.tag, tuple(sorted(element.attrs))) for element in page.every()]


OURS = page_of("plain")
SHAPE = shape(OURS)
LINKS = {value for e in OURS.every() for name, value in e.attrs.items() if name in ("href", "src", "xlink:href")}


def assert_picture_is_harmless(source: str) -> None:
    """An SVG in the page itself that has no script, no handler and no address, whatever its texts say."""
    kind, _, data = source.partition(";base64,")
    assert kind == "data:image/svg+xml"
    for element in ElementTree.fromstring(base64.b64decode(data)).iter():
        assert element.tag.rpartition("}")[2] not in ("script", "foreignObject", "image", "a", "iframe")
        for name, value in element.attrib.items():
            assert not name.startswith("on") and (not name.endswith("href") or value.startswith("#"))


def assert_harmless(page: Element) -> None:
    """The elements and attributes of a page of plain names: no script, no handler, no address."""
    # not by one assert on the lists: pytest would take minutes to show how long lists differ
    differing = [pair for pair in zip_longest(shape(page), SHAPE) if pair[0] != pair[1]]
    assert not differing[:3], len(differing)
    assert not page.all("script")
    assert [e.text for e in page.all("style")] == [e.text for e in OURS.all("style")]
    for element in page.every():
        assert not [name for name in element.attrs if name.startswith("on") or name in ("style", "srcdoc")]
        if "src" in element.attrs:
            assert element.tag == "img"
            assert_picture_is_harmless(element.attrs["src"] or "")
        for name in ("href", "xlink:href"):
            assert element.attrs.get(name) in LINKS | {None}
            assert (element.attrs.get(name) or "#").startswith("#")


@pytest.mark.parametrize("text", PAYLOADS, ids=range(len(PAYLOADS)))
def test_a_page_of_hostile_text_has_the_structure_of_a_page_of_plain_text(text: str) -> None:
    assert_harmless(page_of(text))


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.text(alphabet=st.sampled_from("<>&;\"'`=/!-{}%# \n\t\0\u2028\u202eaonscript:()x1"), min_size=1, max_size=14))
def test_any_text_keeps_the_structure(text: str) -> None:
    assert_harmless(page_of("x" + text))


def test_hostile_text_can_be_read_as_it_was() -> None:
    page = page_of("<b>&amp;\"'")
    assert [c.text for c in page.all("pre")[1].all("code")] == ["<b>&amp;\"'"]


def test_what_turns_text_around_or_hides_it_is_left_out() -> None:
    html = render([everywhere("a\u202eb\u2066c\x00d\x1be")])
    assert not set("\u202e\u2066\x00\x1b") & set(html) and "a b c d e" in html
