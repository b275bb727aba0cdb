"""Work that is shared by threads, each of which computes with one core."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

S = TypeVar("S")
T = TypeVar("T")


class Ended(Exception):
    """Inside a thread: another one failed, or the process was asked to end."""


def in_threads(jobs: Sequence[S], work: Callable[[S, Callable[[], None]], T]) -> list[T]:
    """What ``work(job, go_on)`` gives for each job, in their order, each in a thread of its own.

    The threads compute with one core each: several that share the cores lose less time by waiting for each other than
    the threads of one matrix product do. ``work`` calls ``go_on`` where it may be ended: it raises :class:`Ended` once
    another thread has failed or the caller was interrupted. The caller gets the first error.
    """
    if len(jobs) == 1:
        return [work(jobs[0], lambda: None)]
    ended, done = threading.Event(), queue.SimpleQueue[tuple[int, T | BaseException]]()

    def go_on() -> None:
        if ended.is_set():
            raise Ended

    def run(number: int) -> None:
        torch.set_num_threads(1)
        try:
            done.put((number, work(jobs[number], go_on)))
        except BaseException as error:
            done.put((number, error))

    n_threads = torch.get_num_threads()
    found: dict[int, T] = {}
    try:
        for number in range(len(jobs)):
            # a daemon: an interrupted process ends without waiting for it
            threading.Thread(target=run, args=[number], daemon=True).start()
        while len(found) < len(jobs):
            number, result = done.get()
            if isinstance(result, BaseException):
                raise result
            found[number] = result
    finally:
        ended.set()
        torch.set_num_threads(n_threads)
    return [found[number] for number in range(len(jobs))]
