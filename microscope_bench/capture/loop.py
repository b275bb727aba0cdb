"""Runs a model over a task and fills a token store, part by part."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from microscope_bench.adapters.base import Adapter, Batch
from microscope_bench.capture.cropped_pictures import CroppedPictures
from microscope_bench.capture.encoded_ahead import Encoded, Encoding, record_of_skipped
from microscope_bench.capture.example_record import ExampleRecord
from microscope_bench.capture.failing_examples import check_skipped, of_examples, render_example
from microscope_bench.capture.fingerprints import example_sha256
from microscope_bench.capture.hooks import run_pass
from microscope_bench.capture.mainflow import Mainflow, find_mainflow, mainflow_hooks
from microscope_bench.capture.states import BatchStates, join
from microscope_bench.capture.store import TokenStore
from microscope_bench.errors import BatchError, ExampleError
from microscope_bench.example import ExampleSource
from microscope_bench.protocol import Protocol
from microscope_bench.system import signals
from microscope_bench.system.memory import free_memory, memory_enough, out_of_memory
from microscope_bench.system.processes import ALONE, Processes, ProcessesError

LOG = logging.getLogger("microscope_bench")
PartContent = Callable[[], tuple[dict[str, Tensor], Sequence[ExampleRecord]]]  # runs in the writing thread
MAINFLOW_EXAMPLES = 16  # among which one with a medium and one without are looked for
_TOO_LARGE = (
    "Not even example {} alone fits: load the model smaller (--model_args dtype=bfloat16, or quantization=...), spread "
    "it (device_map=auto), give it smaller pictures, or take a device with more memory"
)


@dataclass(frozen=True)
class _Captured:
    """Some consecutive examples of a part; ``of_row`` are the numbers in the task of those that have states."""

    records: list[ExampleRecord]
    states: BatchStates | None
    of_row: list[int]


class Capture:
    """The capture of one run; ``batch_size`` is halved, for the rest of the run, when memory runs out."""

    def __init__(self, adapter: Adapter, source: ExampleSource, protocol: Protocol, batch_size: int) -> None:
        self.adapter = adapter
        self.source = source
        self.protocol = protocol
        self.batch_size = min(batch_size, adapter.max_batch or batch_size)
        self._cropped = CroppedPictures(adapter)
        self._encoding = Encoding(adapter, source)

    @signals.deferred()
    def fill(
        self,
        store: TokenStore,
        parts: Sequence[int],
        on_examples: Callable[[int], object],
        processes: Processes = ALONE,
    ) -> None:
        """Captures the given parts, or what is missing of them; what ends it early leaves what was captured stored.

        The store's lock is held. ``on_examples`` is called with the number of examples just finished. ``processes``
        share the parts, and skipped examples are counted over all of them.
        """
        n_examples = int(store.manifest["n_examples"])
        done = [part for part in range(store.n_parts) if part not in set(parts)]
        skipped = [record for part in done for record in store.part_records(part) if record.skipped]
        n_before, count = len(skipped), processes.counter()
        # a store may be resumed under a stricter max_skipped
        check_skipped(self.protocol, n_before, n_examples, skipped)
        with part_writer(store) as write, self._encoding.ahead():
            # which part comes next is not known where others take some
            following = dict(pairwise(parts)) if processes.size == 1 else {}
            for part in processes.take(parts):
                before, captured = self._capture_part(store, part, following.get(part), on_examples)
                content = partial(_joined, store, part, before, captured)
                records = [*before, *(record for piece in captured for record in piece.records)]
                just_skipped = [record for record in records if record.skipped]
                skipped += just_skipped
                try:
                    n_skipped = n_before + count(len(just_skipped))
                except ProcessesError:  # another process has ended; what this one has captured is kept
                    write(part, content)
                    raise
                check_skipped(self.protocol, n_skipped, n_examples, skipped)
                write(part, content)
        self._cropped.tell()

    def find_mainflow(self) -> Mainflow:
        """Whether the model has a main flow, by one of the first examples with a medium and one without."""
        found: dict[bool, Mainflow] = {}
        for index in range(len(self.source.ids))[: self.protocol.limit]:
            if len(found) == 2 or (found and index >= MAINFLOW_EXAMPLES):
                break
            batch = self._encoding.encoded([index]).batch
            if batch is not None and bool(batch.media) not in found:
                enough = memory_enough(_TOO_LARGE.format(self.source.ids[index]))
                with enough, suppress(ExampleError), of_examples(batch.ids, "in the model"):
                    found[bool(batch.media)] = find_mainflow(self.adapter, batch)
        outcomes = sorted(found.values(), key=lambda mainflow: mainflow.exists)  # one that is missing comes first
        return outcomes[0] if outcomes else Mainflow("no example could be measured")

    def answers(self, indices: Sequence[int], on_examples: Callable[[int], object]) -> list[ExampleRecord]:
        """Records of some examples, their answers scored, by one pass of each; their states go nowhere."""
        found: list[ExampleRecord] = []
        while len(found) < len(indices):
            signals.check()
            chunk = indices[len(found) :][: self.batch_size]
            captured = self._capture_chunk(chunk, (), False)
            if captured is None:
                self._halve(len(chunk))
                continue
            found += captured.records
            on_examples(len(chunk))
        check_skipped(self.protocol, len(lost := [r for r in found if r.skipped]), len(indices), lost)
        self._cropped.tell()
        return found

    def outdated_parts(self, store: TokenStore, parts: Sequence[int]) -> list[int]:
        """Those of the parts that hold an example which the task has elsewhere, or renders otherwise: it was edited."""
        return [
            part for part in parts if not all(map(self._is_current, store.part_range(part), store.begun_records(part)))
        ]

    def _is_current(self, index: int, record: ExampleRecord) -> bool:
        if record.id != self.source.ids[index]:
            return False
        try:
            return record.example_sha256 == example_sha256(render_example(self.source, index))
        except ExampleError:
            return record.example_sha256 == ""

    def _capture_part(
        self, store: TokenStore, part: int, following: int | None, on_examples: Callable[[int], object]
    ) -> tuple[list[ExampleRecord], list[_Captured]]:
        before = store.begun_records(part)
        indices, after = store.part_range(part)[len(before) :], range(0)
        if following is not None:
            after = store.part_range(following)[len(store.begun_records(following)) :]
        done: list[_Captured] = []
        try:
            while len(indices):
                signals.check()
                chunk, rest = indices[: self.batch_size], indices[self.batch_size :]
                captured = self._capture_chunk(chunk, (rest or after)[: self.batch_size], store.has_mainflow)
                if captured is None:
                    self._halve(len(chunk))
                    continue
                done.append(captured)  # in one step, so that what is done is whole wherever an interrupt falls
                indices = rest
                on_examples(len(chunk))
        except BaseException:
            if done:
                try:
                    store.write_part(part, *_joined(store, part, before, done))
                except Exception as error:  # must not hide what ended the run
                    LOG.warning("%s", str(error) or type(error).__name__)
            raise
        return before, done

    def _capture_chunk(self, chunk: Sequence[int], following: Sequence[int], mainflow: bool) -> _Captured | None:
        """One batch; None where it does not fit into memory and there is less to try."""
        ids = ", ".join(self.source.ids[index] for index in chunk)
        with memory_enough(_TOO_LARGE.format(ids)) if len(chunk) == 1 else nullcontext():
            try:
                states, of_row, skipped = self._capture_rows(chunk, following, mainflow)
            except Exception as error:
                if len(chunk) > 1 and out_of_memory(error):
                    return None
                error.add_note(f"at {'example' if len(chunk) == 1 else 'one of the examples'} {ids}")
                raise
        records = skipped | dict(zip(of_row, states.records if states else (), strict=True))
        return _Captured([records[index] for index in chunk], states, of_row)

    def _capture_rows(
        self, indices: Sequence[int], following: Sequence[int], mainflow: bool
    ) -> tuple[BatchStates | None, list[int], dict[int, ExampleRecord]]:
        """The states of those examples that can be measured, their numbers, and the records of the rest.

        Where they fail together each is tried alone, and those that do not fail go on together. The ``following``
        examples are encoded while the model runs.
        """
        try:
            ready = self._encoding.encoded(indices)
            self._encoding.begin(following)
            if ready.batch is None:
                return None, [], ready.skipped
            try:
                return self._capture_batch(ready.batch, ready, mainflow), ready.of_row, ready.skipped
            except ExampleError as error:  # of the only row
                if out_of_memory(error) or ready.batch.ids != (error.example_id,):
                    raise
                failed = {ready.of_row[0]: record_of_skipped(ready.examples[0], error.cause)}
                return None, [], ready.skipped | failed
        except BatchError:
            if len(indices) == 1:
                raise
            failing: dict[int, ExampleRecord] = {}
            for index in indices:
                failing |= self._capture_rows([index], (), mainflow)[2]
            if not failing:
                raise
            sound = [i for i in indices if i not in failing]
            states, of_row, others = self._capture_rows(sound, following, mainflow)
            return states, of_row, failing | others

    def _halve(self, n: int) -> None:
        free_memory()
        self.batch_size = n // 2
        LOG.warning("out of memory with %d examples in a batch; going on with %d", n, self.batch_size)

    def _capture_batch(self, batch: Batch, ready: Encoded, mainflow: bool) -> BatchStates:
        states = BatchStates(self.adapter, self.protocol, batch, ready.examples)
        hooks = partial(mainflow_hooks, self.adapter.blocks(), batch.labels, states.keep_mainflow)
        beside = hooks if mainflow else nullcontext
        with of_examples(batch.ids, "in the model"):
            logits = run_pass(self.adapter, batch, states.keep_boundary, logits=bool(ready.choices), beside=beside)
        if logits is not None:
            states.score_choices(logits, ready.choices)
        states.finish()
        self._cropped.see(ready.examples)
        return states


def _joined(
    store: TokenStore, part: int, before: Sequence[ExampleRecord], done: Sequence[_Captured]
) -> tuple[dict[str, Tensor], list[ExampleRecord]]:
    start = store.part_range(part).start
    measured = [(piece.states, [n - start for n in piece.of_row]) for piece in done if piece.states is not None]
    tensors = join([states for states, _ in measured], [numbers for _, numbers in measured])
    if before:
        stored = store.begun_tensors(part)
        if not len(tensors["example"]):  # then it has no boundaries either
            tensors = stored
        elif len(stored["example"]):
            tensors = {name: torch.cat([stored[name], tensor]) for name, tensor in tensors.items()}
    return tensors, [*before, *(record for piece in done for record in piece.records)]


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
