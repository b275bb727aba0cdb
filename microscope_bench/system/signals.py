"""What ends a run from outside: SIGINT and SIGTERM. The command line installs handlers; the library does not."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """The process was asked to end. No Exception: it must pass through code that goes on after errors."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class _State:
    asked: int | None = None
    deferring = False


@contextmanager
def handled() -> Iterator[None]:
    """Turns a signal inside into :class:`Stopped`; for command lines, and only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.asked = None
    before = {number: signal.signal(number, _handle) for number in SIGNALS}
    try:
        yield
    finally:
        _State.asked = None
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deferred() -> Iterator[None]:
    """Inside, a first signal is only noted, until :func:`check` is called or the context ends."""
    _State.deferring = True
    try:
        yield
        check()
    finally:
        _State.deferring = False


def check() -> None:
    """Raises :class:`Stopped` where a signal was noted; call it where nothing is lost."""
    if _State.asked is not None:
        raise Stopped(_State.asked)


def _handle(number: int, frame: FrameType | None) -> None:
    again = _State.asked is not None
    _State.asked = number
    if again or not _State.deferring:
        raise Stopped(number)
    # not by a logger or print: the signal may have come in the middle of one of theirs
    with suppress(OSError):
        os.write(2, f"\n{signal.Signals(number).name}: ends after this batch; a second signal ends at once\n".encode())
