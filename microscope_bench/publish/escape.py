"""The one place that makes text from files safe for the page it is written into: markdown, HTML, LaTeX, CSV.

Names, reasons and commands in a result come from whoever made the file. Each function here returns text that reads as
the original does and that its reader (a browser, TeX, a spreadsheet) takes for text alone. What terminals and CI logs
are shown is made so in :mod:`microscope_bench.system.printable`.
"""

from __future__ import annotations

import base64
import hashlib
import html
import os
import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from microscope_bench.system.printable import one_line, seen

if TYPE_CHECKING:
    from jinja2 import Environment

_MARKUP = re.compile(r"[\\`*\[\]|~$#!{}]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_LINK = re.compile(r"(?<=:)/(?=/)|(?<=www)\.|@", re.IGNORECASE)


def escape(text: object) -> str:
    """Markdown that shows the text: no markup, no HTML, no link, no mention, no line break, in a table too."""
    marked = _MARKUP.sub(lambda match: f"&#{ord(match.group())};", html.escape(one_line(text), quote=False))
    # html.escape made entities of its own: their "#" never occurs, as it writes names (&lt;) only
    return _LINK.sub(lambda match: f"&#{ord(match.group())};", marked)


def code(text: object) -> str:
    """A code span of markdown outside of tables; a backtick, which would end it, becomes an apostrophe."""
    return f"`{one_line(text).replace('`', chr(39)) or ' '}`"


def code_block(text: str, language: str = "") -> str:
    """A fenced block of markdown; the fence is longer than any run of backticks in the text."""
    fence = "`" * (max([2, *map(len, re.findall("`+", text))]) + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def link(text: str, path: str) -> str:
    """A link to a file, relative to the page; ``text`` is markdown already."""
    return f"[{text}]({relative_url(path)})"


def relative_url(path: str) -> str:
    """The URL of a file, relative to the page; the leading ./ keeps a path such as ``javascript:x`` a path."""
    return f"./{quote(os.fsencode(path), safe='/~.-_+=')}"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], align: str = "right") -> str:
    """A table whose cells are markdown already; ``align`` is for all columns but the first, which goes to the left.

    Cells are not padded: a new row changes no other line, and no width of a character matters.
    """
    from tabulate import tabulate

    columns = ("left", *[align] * (len(headers) - 1))
    lines = tabulate(rows, headers, "pipe", colalign=columns, disable_numparse=True).splitlines()
    lines[1] = re.sub(r"-+", "---", lines[1])
    return "\n".join(re.sub(r" {2,}", " ", line) for line in lines)


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        # not \{ and \}: BibTeX counts braces, escaped or not
        "{": r"\textbraceleft{}",
        "}": r"\textbraceright{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "|": r"\textbar{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        '"': r"\textquotedbl{}",
        "–": "--",
        "—": "---",
        "±": r"$\pm$",
        "²": "$^2$",
        **{character: f"\\{character}" for character in "&%$#_"},
    }
)


def latex(text: object) -> str:
    r"""Text as text in LaTeX and BibTeX: no command, no math, no comment, braces balanced.

    >>> latex("50% of zoo_llava\\input{x}")
    '50\\% of zoo\\_llava\\textbackslash{}input\\textbraceleft{}x\\textbraceright{}'
    """
    return one_line(text).translate(_LATEX)


def breakable(text: str) -> str:
    """A long line such as a signature, in LaTeX, that may be broken after its separators."""
    return latex(text).replace(r"\textbar{}", r"\textbar\allowbreak{}")


def csv_cell(value: Any) -> Any:
    """A value that no spreadsheet runs as a formula: text that begins like one gets an apostrophe in front.

    Its unseen characters are blanks; line breaks stay.
    """
    if not isinstance(value, str):
        return value
    text = seen(value)
    return f"'{text}" if text.lstrip()[:1] in tuple("=+-@") or text[:1] in tuple("\t\n") else text


def html_page(name: str, values: dict[str, Any], *, inline_pictures: bool = False) -> str:
    """Renders ``templates/NAME.html`` with ``NAME.css`` and, where there is one, ``NAME.js``; it escapes every value.

    The content security policy lets the browser load nothing, and apply and run nothing but this style and this script,
    which hold nothing of a result; and, with ``inline_pictures``, show pictures that stand in the page as data URIs.
    """
    from jinja2 import TemplateNotFound
    from markupsafe import Markup

    pages = _templates()
    assert pages.loader is not None
    style = pages.loader.get_source(pages, f"{name}.css")[0].strip()
    try:
        script = pages.loader.get_source(pages, f"{name}.js")[0].strip()
    except TemplateNotFound:
        script = ""
    may_run = f"script-src {_hash_of(script)}; " if script else ""
    may_show = "img-src data:; " if inline_pictures else ""
    policy = f"default-src 'none'; style-src {_hash_of(style)}; {may_run}{may_show}base-uri 'none'; form-action 'none'"
    return pages.get_template(f"{name}.html").render(
        policy=policy, style=Markup(style), script=Markup(script), **values
    )


@cache
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("microscope_bench.publish"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_seen,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _seen(value: object) -> object:
    """What a template prints of a value; what is markup already stays."""
    return value if hasattr(value, "__html__") else seen(value)


def _hash_of(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
