"""The processes that share one run: which of them this is, and how they tell each other what they have found.

``torchrun`` and ``accelerate launch`` start one command several times and say in environment variables who is who. A
process that nobody launched this way is alone: then nothing here waits for anybody, or imports torch.
"""

from __future__ import annotations

import atexit
import gc
import os
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import count
from typing import Any, TypeVar

from microscope_bench.errors import MicroscopeError, first_line

T = TypeVar("T")
PATIENCE = timedelta(days=1)
"""How long a process waits for the others; one that has ended is noticed at once, by its closed connection."""

LOST = "the other processes of this run cannot be reached"
"""How the message begins that is nobody's own fault: another process has ended first."""

_counters = count()
_apart: list[None] = []


class ProcessesError(MicroscopeError):
    """The processes of a run cannot work together, or one of them has ended."""


def spin_briefly() -> None:
    """Lets the threads of torch's matrix products sleep after a moment of waiting; call it before torch is imported.

    By default (of GNU's OpenMP) they spin for milliseconds. On a machine with other jobs that takes the core from the
    very thread that is waited for. On a quiet machine sleeping costs a few per cent.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def collect_rarely() -> None:
    """Lets Python look for unreachable cycles once in 10,000 new objects; call it before torch is imported.

    Importing torch and transformers makes a million objects that stay. Looking through them once in 700, which is the
    default, takes a sixth of that time.
    """
    gc.set_threshold(10_000)


@dataclass(frozen=True)
class Processes:
    """The processes of one run, as one of them sees them.

    ``local_rank`` and ``local_size`` count those on its machine. :meth:`gather` and what follows it is called by all of
    them, in the same order.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def label(self) -> str:
        """Who is speaking, for messages: empty where there is one process only.

        >>> Processes(rank=1, size=4).label
        ' (process 1 of 0..3)'
        """
        return "" if self.size == 1 else f" (process {self.rank} of 0..{self.size - 1})"

    def gather(self, value: T) -> list[T]:
        """The value of every process, by rank, to every process; a ProcessesError where one has ended."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        found: list[Any] = [None] * self.size
        try:
            # pickled, between processes of one run and user
            dist.all_gather_object(found, value, group=_connected(self)[0])
        except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
            raise _lost(error) from error
        return found

    def from_first(self, make: Callable[[], T]) -> T:
        return self.gather(make() if self.is_first else None)[0]  # type: ignore[return-value]

    def wait(self) -> None:
        self.gather(None)

    def counter(self) -> Callable[[int], int]:
        """A number common to all processes, 0 at first: adds to it, and returns what it is then."""
        if self.size == 1:
            total = 0

            def add_here(n: int) -> int:
                nonlocal total
                total += n
                return total

            return add_here
        # after what is of one process alone, of which the others may have made fewer
        name, store = f"counter-{next(_counters)}", _connected(self)[1]

        def add(n: int) -> int:
            try:
                return int(store.add(name, n))
            except RuntimeError as error:
                raise _lost(error) from error

        return add

    def take(self, items: Sequence[T]) -> Iterator[T]:
        """Hands each item to one process: the next one to whichever asks first, so that none waits for a slower one."""
        asked = self.counter()
        while (number := asked(1) - 1) < len(items):
            yield items[number]


ALONE = Processes()


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process shares no run with those that were started with it."""
    _apart.append(None)
    try:
        yield
    finally:
        _apart.pop()


def launched() -> Processes:
    """The processes that ``torchrun`` or ``accelerate launch`` started, or :data:`ALONE`."""
    if _apart:
        return ALONE
    names = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    given = {name: os.environ.get(name) for name in names}
    if given["RANK"] is None or given["WORLD_SIZE"] in (None, "1"):
        return ALONE
    # a launcher that says nothing of machines has one process on each, as far as we know
    texts = {name: value if value is not None else str(names[name]) for name, value in given.items()}
    try:
        rank, size, local_rank, local_size = (int(text) for text in texts.values())
    except ValueError:
        rank = size = local_rank = local_size = -1
    if not (0 <= rank < size and 0 <= local_rank < local_size <= size):
        said = ", ".join(f"{name}={value}" for name, value in texts.items())
        raise ProcessesError(f"the environment does not say which process this is: {said}. Start it with torchrun")
    return Processes(rank, size, local_rank, local_size)


@cache
def _connected(processes: Processes) -> tuple[Any, Any]:
    """The process group and the key-value store common to all, made when they are first needed."""
    import torch.distributed as dist

    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ProcessesError(
            f"RANK and WORLD_SIZE say that there are {processes.size} processes, but {' and '.join(missing)} are not "
            f"set: start them with torchrun or accelerate launch, or unset RANK and WORLD_SIZE to run this one alone"
        )
    try:
        if dist.is_initialized():  # a program that calls evaluate() may have a group of its own, of another kind
            group = dist.new_group(backend="gloo", timeout=PATIENCE)
        else:
            dist.init_process_group("gloo", timeout=PATIENCE)
            group = None
            atexit.register(dist.destroy_process_group)
        host = os.environ["MASTER_ADDR"]
        tcp_store: Any = dist.TCPStore  # type: ignore[attr-defined]  # documented, but not among its typed names
        ports: list[Any] = [None] * processes.size
        if processes.is_first:
            store = tcp_store(host, 0, is_master=True, wait_for_workers=False, timeout=PATIENCE)
            dist.all_gather_object(ports, store.port, group=group)
        else:
            dist.all_gather_object(ports, None, group=group)
            store = tcp_store(host, ports[0], is_master=False, wait_for_workers=False, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise _lost(error) from error
    return group, store


def _lost(error: Exception) -> ProcessesError:
    first = first_line(error) or type(error).__name__
    first = re.sub(r"^\[[^]]*\] *|\. .*", "", first)  # without the place in gloo's source, and its good wishes
    return ProcessesError(
        f"{LOST} ({first}). The one that ended first says why; what was "
        f"captured is kept, and the same command with any number of processes resumes"
    )
