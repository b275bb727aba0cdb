"""A report as a reader's program sees it: elements with their attributes and text, by Python's own HTML parser."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "br", "link", "img", "input", "hr"}


@dataclass(repr=False)
class Element:
    tag: str
    attrs: dict[str, str | None]
    parent: Element | None = None
    children: list[Element] = field(default_factory=list)
    parts: list[str | Element] = field(default_factory=list)

    def all(self, tag: str, **attrs: str) -> list[Element]:
        """Every element below with this tag whose attributes have these values (``class_`` for class)."""
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attrs.items()}
        found = []
        for child in self.children:
            if child.tag == tag and all(
                value in (child.attrs.get(name) or "").split() for name, value in wanted.items()
            ):
                found.append(child)
            found += child.all(tag, **attrs)
        return found

    def every(self) -> list[Element]:
        return [self, *(below for child in self.children for below in child.every())]

    def one(self, tag: str, **attrs: str) -> Element:
        (found,) = self.all(tag, **attrs)
        return found

    @property
    def text(self) -> str:
        """What is read, in the order of the page, blanks as one."""
        return " ".join(" ".join(part if isinstance(part, str) else part.text for part in self.parts).split())


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.top = self.here = Element("", {})
        self.declarations: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute twice: {tag} {attrs}"
        element = Element(tag, dict(attrs), self.here)
        self._add(element)
        if tag not in VOID:
            self.here = element

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._add(Element(tag, dict(attrs), self.here))

    def _add(self, element: Element) -> None:
        self.here.children.append(element)
        self.here.parts.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.here.tag == tag, f"</{tag}> closes <{self.here.tag}>"
        assert self.here.parent is not None
        self.here = self.here.parent

    def handle_data(self, data: str) -> None:
        self.here.parts.append(data)

    def handle_decl(self, decl: str) -> None:
        self.declarations.append(decl)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")


def read(html: str) -> Element:
    """The page; every element must be closed in its place."""
    builder = _Builder()
    builder.feed(html)
    builder.close()
    assert builder.here is builder.top, f"<{builder.here.tag}> is never closed"
    assert builder.declarations == ["DOCTYPE html"]
    return builder.top


def figure(page: Element, chart: str, panel: str, half: bool = False) -> Element:
    """The panel of a metric by its titles."""
    (section,) = [s for s in page.all("section") if any(h.text == chart for h in s.children if h.tag == "h3")]
    blocks = section.all("div", class_="panels")
    (found,) = [f for f in blocks[1 if half else 0].all("figure") if f.one("figcaption").text == panel]
    return found
