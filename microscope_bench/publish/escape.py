"""Markdown that code hosts render, made of text that comes from files and is not to be trusted."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from urllib.parse import quote

from tabulate import tabulate

_MARKUP = re.compile(r"[\\`*\[\]|~$#!{}]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_LINK = re.compile(r"(?<=:)/(?=/)|(?<=www)\.|@", re.IGNORECASE)


def one_line(text: object) -> str:
    """Text on one line: runs of blanks, control characters and marks that turn the direction of writing are a space."""
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+", " ", str(text)).strip()


def escape(text: object) -> str:
    """Text as text: no markup, no HTML, no link, no mention, no line break, wherever in a page or a table it stands."""
    marked = _MARKUP.sub(lambda match: f"&#{ord(match.group())};", html.escape(one_line(text), quote=False))
    # html.escape made entities of its own: their "#" never occurs, as it writes names (&lt;) only
    return _LINK.sub(lambda match: f"&#{ord(match.group())};", marked)


def code(text: object) -> str:
    """A code span outside of tables; a backtick, which would end it, becomes an apostrophe."""
    safe = re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", str(text)).replace("`", "'").strip()
    return f"`{safe or ' '}`"


def link(text: str, path: str) -> str:
    """A link to a file, relative to the page; ``text`` is markdown already."""
    return f"[{text}]({relative_url(path)})"


def relative_url(path: str) -> str:
    """The URL of a file, relative to the page; the leading ./ keeps a path such as ``javascript:x`` a path."""
    return f"./{quote(path, safe='/~.-_+=')}"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], align: str = "right") -> str:
    """A table whose cells are markdown already; ``align`` is for all columns but the first, which goes to the left.

    Cells are not padded to equal width: a new row then changes no other line, and the text does not depend on how wide
    an installed library believes a character to be.
    """
    columns = ("left", *[align] * (len(headers) - 1))
    lines = tabulate(rows, headers, "pipe", colalign=columns, disable_numparse=True).splitlines()
    lines[1] = re.sub(r"-+", "---", lines[1])
    return "\n".join(re.sub(r" {2,}", " ", line) for line in lines)
