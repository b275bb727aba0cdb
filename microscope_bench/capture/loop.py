"""Runs a model over a task and fills a token store, part by part."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from microscope_bench.adapters.base import Adapter, Batch
from microscope_bench.capture.cropped_pictures import CroppedPictures
from microscope_bench.capture.example_record import ExampleRecord
from microscope_bench.capture.failing_examples import check_skipped, encode_examples, of_examples, render_example
from microscope_bench.capture.fingerprints import example_sha256
from microscope_bench.capture.hooks import run_pass
from microscope_bench.capture.mainflow import Mainflow, find_mainflow, mainflow_hooks
from microscope_bench.capture.states import BatchStates, join
from microscope_bench.capture.store import TokenStore
from microscope_bench.errors import BatchError, ExampleError
from microscope_bench.example import Example, ExampleSource
from microscope_bench.protocol import Protocol
from microscope_bench.system import signals
from microscope_bench.system.memory import free_memory, memory_enough, out_of_memory
from microscope_bench.system.printable import printable
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
    """Some consecutive examples of a part; ``measured`` numbers, within the part, those that have states."""

    records: list[ExampleRecord]
    states: BatchStates | None
    measured: list[int]


class Capture:
    """The capture of one run; ``batch_size`` is halved, for the rest of the run, when memory runs out."""

    def __init__(self, adapter: Adapter, source: ExampleSource, protocol: Protocol, batch_size: int) -> None:
        self.adapter = adapter
        self.source = source
        self.protocol = protocol
        self.batch_size = min(batch_size, adapter.max_batch or batch_size)
        self._cropped = CroppedPictures(adapter)

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
        with part_writer(store) as write:
            for part in processes.take(parts):
                before, captured = self._capture_part(store, part, on_examples)
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
            batch, *_ = self._encode([index])
            if batch is not None and bool(batch.media) not in found:
                enough = memory_enough(_TOO_LARGE.format(self.source.ids[index]))
                with enough, suppress(ExampleError), of_examples(batch.ids, "in the model"):
                    found[bool(batch.media)] = find_mainflow(self.adapter, batch)
        outcomes = sorted(found.values(), key=lambda mainflow: mainflow.exists)  # one that is missing comes first
        return outcomes[0] if outcomes else Mainflow("no example could be measured")

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
        self, store: TokenStore, part: int, on_examples: Callable[[int], object]
    ) -> tuple[list[ExampleRecord], list[_Captured]]:
        indices = store.part_range(part)
        before = store.begun_records(part)
        done: list[_Captured] = []
        try:
            while (n := len(before) + sum(len(piece.records) for piece in done)) < len(indices):
                signals.check()
                chunk = indices[n : n + self.batch_size]
                captured = self._capture_chunk(chunk, indices.start, store.has_mainflow)
                if captured is None:
                    self._halve(len(chunk))
                    continue
                done.append(captured)  # in one step, so that what is done is whole wherever an interrupt falls
                on_examples(len(chunk))
        except BaseException:
            if done:
                try:
                    store.write_part(part, *_joined(store, part, before, done))
                except Exception as error:  # must not hide what ended the run
                    LOG.warning("%s", str(error) or type(error).__name__)
            raise
        return before, done

    def _capture_chunk(self, chunk: Sequence[int], first: int, mainflow: bool) -> _Captured | None:
        """One batch; None where it does not fit into memory and there is less to try."""
        ids = ", ".join(self.source.ids[index] for index in chunk)
        with memory_enough(_TOO_LARGE.format(ids)) if len(chunk) == 1 else nullcontext():
            try:
                states, of_row, skipped = self._capture_rows(chunk, mainflow)
            except Exception as error:
                if len(chunk) > 1 and out_of_memory(error):
                    return None
                error.add_note(f"at {'example' if len(chunk) == 1 else 'one of the examples'} {ids}")
                raise
        records = skipped | dict(zip(of_row, states.records if states else (), strict=True))
        return _Captured([records[index] for index in chunk], states, [index - first for index in of_row])

    def _capture_rows(
        self, indices: Sequence[int], mainflow: bool
    ) -> tuple[BatchStates | None, list[int], dict[int, ExampleRecord]]:
        """The states of those examples that can be measured, their numbers, and the records of the rest.

        Where they fail together each is tried alone, and those that do not fail go on together.
        """
        try:
            batch, examples, of_row, skipped = self._encode(indices)
            if batch is None:
                return None, [], skipped
            try:
                return self._capture_batch(batch, examples, mainflow), of_row, skipped
            except ExampleError as error:  # of the only row
                if out_of_memory(error) or batch.ids != (error.example_id,):
                    raise
                return None, [], skipped | {of_row[0]: _skipped(examples[0], error.cause)}
        except BatchError:
            if len(indices) == 1:
                raise
            failing: dict[int, ExampleRecord] = {}
            for index in indices:
                failing |= self._capture_rows([index], mainflow)[2]
            if not failing:
                raise
            states, of_row, others = self._capture_rows([i for i in indices if i not in failing], mainflow)
            return states, of_row, failing | others

    def _halve(self, n: int) -> None:
        free_memory()
        self.batch_size = n // 2
        LOG.warning("out of memory with %d examples in a batch; going on with %d", n, self.batch_size)

    def _encode(
        self, indices: Sequence[int]
    ) -> tuple[Batch | None, list[Example], list[int], dict[int, ExampleRecord]]:
        """One batch of the examples that can be rendered, encoded, and fit the model's context; records of the rest."""
        skipped: dict[int, ExampleRecord] = {}
        examples: dict[int, Example] = {}
        for index in indices:
            try:
                examples[index] = render_example(self.source, index)
            except ExampleError as error:
                if out_of_memory(error):
                    raise
                skipped[index] = ExampleRecord(id=self.source.ids[index], skipped=printable(error.cause))
        longest = self.adapter.processing.context_length
        while examples:
            rows = list(examples)
            try:
                batch = encode_examples(self.adapter, list(examples.values()))
            except ExampleError as error:
                refused = [index for index, example in examples.items() if example.id == error.example_id]
                if not refused or out_of_memory(error):
                    raise
                for index in refused:
                    skipped[index] = _skipped(examples.pop(index), error.cause)
                continue
            too_long = {
                index: f"{length} tokens exceed the model's context of {longest}"
                for index, length in zip(rows, batch.lengths().tolist(), strict=True)
                if longest is not None and length > longest
            }
            if not too_long:
                return batch, list(examples.values()), rows, skipped
            for index, cause in too_long.items():
                skipped[index] = _skipped(examples.pop(index), cause)
        return None, [], [], skipped

    def _capture_batch(self, batch: Batch, examples: Sequence[Example], mainflow: bool) -> BatchStates:
        states = BatchStates(self.adapter, self.protocol, batch, examples)
        scorable = any(example.has_short_choices for example in examples)
        chain = partial(mainflow_hooks, self.adapter.blocks(), batch.labels, states.keep_mainflow)
        beside = chain if mainflow else nullcontext
        with of_examples(batch.ids, "in the model"):
            logits = run_pass(self.adapter, batch, states.keep_boundary, logits=scorable, beside=beside)
        if logits is not None:
            states.score_choices(logits, batch.prompts)
        states.finish()
        self._cropped.see(examples)
        return states


def _skipped(example: Example, cause: str) -> ExampleRecord:
    return ExampleRecord(id=example.id, example_sha256=example_sha256(example), skipped=printable(cause))


def _joined(
    store: TokenStore, part: int, before: Sequence[ExampleRecord], done: Sequence[_Captured]
) -> tuple[dict[str, Tensor], list[ExampleRecord]]:
    measured = [(piece.states, piece.measured) for piece in done if piece.states is not None]
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
