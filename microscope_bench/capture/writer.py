"""Writes the parts of a token store while the next passes run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from torch import Tensor

from microscope_bench.capture.example_record import ExampleRecord
from microscope_bench.capture.store import TokenStore

LOG = logging.getLogger("microscope_bench")
PartContent = Callable[[], tuple[dict[str, Tensor], Sequence[ExampleRecord]]]  # runs in the writing thread


@contextmanager
def part_writer(store: TokenStore) -> Iterator[Callable[[int, PartContent], None]]:
    """Yields a function that writes a part by its number, in one thread beside the one that runs the model.

    Parts are written in the order they are given, and no more than one waits, so memory is bounded. The failure of a
    part shows when the next one is given, or at the end. The context ends when its last part is written, or failed.
    """
    under_way: list[Future[None]] = []

    def wait() -> None:
        while under_way:
            under_way.pop().result()

    def write(part: int, content: PartContent) -> None:
        wait()
        under_way.append(thread.submit(lambda: store.write_part(part, *content())))

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="token store") as thread:
        try:
            yield write
        except BaseException:
            try:
                wait()
            except Exception as failed:  # must not hide what ended the run
                LOG.warning("%s", str(failed) or type(failed).__name__)
            raise
        wait()
