"""Examples ready for a forward pass; those of the next pass are made so while the model runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from microscope_bench.adapters.base import Adapter, Batch
from microscope_bench.capture.example_record import ExampleRecord
from microscope_bench.capture.failing_examples import encode_examples, render_example
from microscope_bench.capture.fingerprints import example_sha256
from microscope_bench.errors import AdapterError, ExampleError
from microscope_bench.example import Example, ExampleSource
from microscope_bench.system.memory import out_of_memory
from microscope_bench.system.printable import printable


@dataclass(frozen=True)
class Encoded:
    """One batch of the examples that can be measured, and records of the others.

    Attributes:
        batch: None where none can be measured.
        examples: of the batch's rows.
        of_row: the examples' numbers in the task.
        choices: row → the token of each choice, or the reason why they cannot be scored.
        skipped: number in the task → record.
    """

    batch: Batch | None
    examples: list[Example]
    of_row: list[int]
    choices: dict[int, list[int] | str]
    skipped: dict[int, ExampleRecord]


class Encoding:
    """Renders and encodes the examples of a task for one model."""

    def __init__(self, adapter: Adapter, source: ExampleSource) -> None:
        self._adapter, self._source = adapter, source
        self._thread: ThreadPoolExecutor | None = None
        self._next: tuple[list[int], Future[Encoded]] | None = None

    @contextmanager
    def ahead(self) -> Iterator[None]:
        """Inside, :meth:`begin` starts a thread; it has ended when the context has."""
        if not self._adapter.encodes_on_host:
            yield
            return
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="encoding") as self._thread:
            try:
                yield
            finally:
                self._next = self._thread = None

    def begin(self, indices: Sequence[int]) -> None:
        """Starts to encode examples in the thread; until :meth:`encoded` the caller leaves the tokenizer alone."""
        if self._thread is not None and indices:
            self._next = list(indices), self._thread.submit(self._encode, indices)

    def encoded(self, indices: Sequence[int]) -> Encoded:
        """The examples of these numbers that can be rendered and encoded, and fit the model's context.

        Raises:
            ExampleError, BatchError: as :func:`encode_examples`.
        """
        begun, self._next = self._next, None
        if begun is not None:
            error = begun[1].exception()  # waits, for others too: tokenizers cannot be used by two threads at once
            # memory that the pass beside it took is free now
            if begun[0] == list(indices) and not (error is not None and out_of_memory(error)):
                return begun[1].result()
        return self._encode(indices)

    def _encode(self, indices: Sequence[int]) -> Encoded:
        skipped: dict[int, ExampleRecord] = {}
        examples: dict[int, Example] = {}
        for index in indices:
            try:
                examples[index] = render_example(self._source, index)
            except ExampleError as error:
                if out_of_memory(error):
                    raise
                skipped[index] = ExampleRecord(id=self._source.ids[index], skipped=printable(error.cause))
        longest = self._adapter.processing.context_length
        while examples:
            rows = list(examples)
            try:
                batch = encode_examples(self._adapter, list(examples.values()))
            except ExampleError as error:
                refused = [index for index, example in examples.items() if example.id == error.example_id]
                if not refused or out_of_memory(error):
                    raise
                for index in refused:
                    skipped[index] = record_of_skipped(examples.pop(index), error.cause)
                continue
            too_long = {
                index: f"{length} tokens exceed the model's context of {longest}"
                for index, length in zip(rows, batch.lengths().tolist(), strict=True)
                if longest is not None and length > longest
            }
            if not too_long:
                measured = list(examples.values())
                return Encoded(batch, measured, rows, self._choices(measured, batch.prompts), skipped)
            for index, cause in too_long.items():
                skipped[index] = record_of_skipped(examples.pop(index), cause)
        return Encoded(None, [], [], {}, skipped)

    def _choices(self, examples: Sequence[Example], prompts: Sequence[str]) -> dict[int, list[int] | str]:
        """The tokens of each choice that is one short word."""
        found: dict[int, list[int] | str] = {}
        for row, (example, prompt) in enumerate(zip(examples, prompts, strict=True)):
            if example.choices is not None and example.has_short_choices:
                try:
                    ids = self._adapter.choice_token_ids(prompt, example.choices)
                except AdapterError as error:
                    found[row] = str(error)
                    continue
                if len(set(ids)) < len(ids):  # such as the unknown token for each
                    found[row] = f"two of the choices {', '.join(example.choices)} are the same token"
                else:
                    found[row] = ids
        return found


def record_of_skipped(example: Example, cause: str) -> ExampleRecord:
    return ExampleRecord(id=example.id, example_sha256=example_sha256(example), skipped=printable(cause))
