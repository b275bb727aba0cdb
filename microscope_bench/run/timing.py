"""How long the stages of a run take."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from microscope_bench.results.records import Timing


class Stopwatch:
    """Seconds per stage of a run.

    Args:
        seconds: of stages that were measured before.

    Attributes:
        current: the stage that is under way, or the last one.
    """

    def __init__(self, **seconds: float) -> None:
        self.started = datetime.now(UTC)
        self.seconds = seconds
        self.current = "load"

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time inside the context to a stage."""
        self.current = name
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin

    def record(self) -> Timing:
        """What the result says of it, with the process's peak memory."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds = self.seconds | {"total": sum(self.seconds.values())}
        return Timing(
            started_utc=self.started.strftime("%Y-%m-%dT%H:%M:%SZ"),
            seconds={name: round(value, 3) for name, value in seconds.items()},
            # kilobytes on Linux, bytes on macOS
            peak_memory_bytes=peak if sys.platform == "darwin" else peak * 1024,
        )
