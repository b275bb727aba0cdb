"""Writes the parts of a token store while the next passes run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from torch import Tensor

from microscope_bench.capture.example_record import ExampleRecord
from microscope_bench.capture.store import TokenStore

LOG = logging.getLogger("microscope_bench")


class PartWriter:
    """One thread beside the one that runs the model; as a context it ends when its last part is written, or failed.

    Joining, hashing and flushing leave Python's lock to the other thread for nearly all of their time. Parts are
    written in the order they are given, and one at a time: no more than one waits, so memory is bounded. Whether a part
    counts is decided by the store, as without a thread.

    Args:
        store: opened for this run, its lock held.
    """

    def __init__(self, store: TokenStore) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="token store")
        self._under_way: Future[None] | None = None

    def write(self, part: int, content: Callable[[], tuple[dict[str, Tensor], Sequence[ExampleRecord]]]) -> None:
        """Starts to write a part once the one before is written, whose failure shows here.

        Args:
            part: its number.
            content: makes what :meth:`~microscope_bench.capture.store.TokenStore.write_part` takes; runs in the thread.
        """
        self._wait()
        self._under_way = self._thread.submit(lambda: self._store.write_part(part, *content()))

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._wait()
        except Exception as failed:
            if error is None:
                raise
            LOG.warning("%s", str(failed) or type(failed).__name__)  # must not hide what ended the run
        finally:
            self._thread.shutdown()

    def _wait(self) -> None:
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()
