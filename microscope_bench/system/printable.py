"""Text from elsewhere on its way to a terminal, a CI log or a page: what nobody sees of it becomes a blank.

Names of files and models, reasons in a result, messages of libraries and templates come from whoever made them. The
functions return text that reads as the original does and that a terminal or a CI log takes for text alone.
"""

from __future__ import annotations

import re

UNSEEN = (
    r"\x00-\x1f\x7f-\x9f"  # control characters, the escape of a terminal and line breaks among them
    r"\u061c\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff"  # without width, or turning the direction of writing
    r"\u2028\u2029"  # separators of lines and paragraphs
    r"\xad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufffb"  # fillers, selectors
    f"{chr(0x1BCA0)}-{chr(0x1BCA3)}{chr(0x1D173)}-{chr(0x1D17A)}{chr(0xE0000)}-{chr(0xE0FFF)}"  # and tags
    r"\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff"  # no characters at all
)
"""Characters that nobody sees and that change how others are seen or read; the inside of a character class.

Unicode's control and format characters but for those that draw something, and its default ignorable code points, those
that are not assigned yet among them.
"""

_UNSEEN = re.compile(f"[{UNSEEN}]+")
_UNSEEN_OR_BLANK = re.compile(rf"[\s{UNSEEN}]+")
_UNSEEN_IN_LINES = re.compile(rf"(?:(?![\n\t])[{UNSEEN}])+")
# of GitHub at the start of a line; of Azure, GitHub's old ones and TeamCity anywhere
_LOG_COMMAND = re.compile(r"^([^\S\n]*:)(?=:)|(##)(?=\[|vso\[|teamcity\[)", re.MULTILINE | re.IGNORECASE)


def seen(text: object) -> str:
    """Text of several lines without its unseen characters."""
    return _UNSEEN_IN_LINES.sub(" ", str(text))


def one_line(text: object) -> str:
    """Text on one line: a run of blanks and unseen characters is one space."""
    return _UNSEEN_OR_BLANK.sub(" ", str(text)).strip()


def printable(text: object) -> str:
    r"""One line for a terminal or a CI log: no unseen character, and nothing that a log takes for a workflow command.

    Blanks stay as they are, so that a path is still the path.

    >>> printable("::error::x\x1b[2J")
    ': :error::x [2J'
    """
    return without_commands(_UNSEEN.sub(" ", str(text)).strip())


def printable_lines(text: object) -> str:
    """The same for a message of several lines, which keep their breaks."""
    return without_commands(seen(text))


def without_commands(text: str) -> str:
    """Text in which a blank stands inside of what a CI log would take for a workflow command."""
    return _LOG_COMMAND.sub(r"\1\2 ", text)
