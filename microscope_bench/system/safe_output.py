"""Where the text of a command leaves it: whatever it prints is text alone, and what cannot be printed ends nothing."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO

from microscope_bench.system.printable import printable_lines, without_commands

_MOVES = re.compile(r"\r|(?:\x1b\[A)*")
_REMEMBERED = 16  # characters of a line's start, more than the longest beginning of a workflow command


class SafeStream:
    """A text stream that prints whatever text it is given, whoever wrote that, and never raises.

    It makes the text printable, replaces what its encoding lacks, and drops the rest once nothing more can be written.

    Args:
        stream: where the text goes; None, as for a closed descriptor, for nowhere.
        bars: whether a text may begin with a carriage return or go up lines, as progress bars do.
    """

    def __init__(self, stream: TextIO | None, *, bars: bool = False) -> None:
        self._stream = _nowhere() if stream is None else stream
        self._bars = bars
        self._line = ""  # the start of the line that is being printed
        self.lost: str | None = None
        """Why text was lost; None where none was, or where its reader has closed the pipe."""

    def write(self, text: str) -> int:
        moves = _MOVES.match(text) if self._bars else None
        kept = moves.group() if moves else ""
        if kept:
            self._line = ""
        shown = kept + self._continued(printable_lines(text[len(kept) :]))
        encoding = self._stream.encoding or "utf-8"
        with self._giving_up():
            self._stream.write(shown.encode(encoding, "replace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        with self._giving_up():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _continued(self, text: str) -> str:
        """The text as it goes on with the line, since a command may be printed in pieces."""
        whole = without_commands(self._line + text)
        shown, last = whole[len(self._line) :], whole.rpartition("\n")[2]
        # of a long line its end, behind something that is no blank
        self._line = last if len(last) <= _REMEMBERED else f"…{last[-_REMEMBERED:]}"
        return shown

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            if getattr(error, "errno", 0) != errno.EPIPE:
                self.lost = self.lost or getattr(error, "strerror", None) or str(error)
            # what is buffered goes nowhere too: Python would try to write it once more at the end, and fail
            nowhere = _nowhere()
            with suppress(OSError, ValueError):
                os.dup2(nowhere.fileno(), self._stream.fileno())
            self._stream = nowhere


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")


@contextmanager
def safe_output() -> Iterator[SafeStream]:
    """Inside, all that is printed goes through a :class:`SafeStream`; that of standard output is yielded."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file to be opened would take its place, and be printed into
            os.open(os.devnull, os.O_RDWR)
    out, err = SafeStream(sys.stdout), SafeStream(sys.stderr, bars=True)
    with redirect_stdout(out), redirect_stderr(err):
        try:
            yield out
        finally:
            out.flush()
            err.flush()
