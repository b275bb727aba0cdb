"""Runs a model over a task and fills a token store, part by part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

from torch import Tensor

from microscope_bench.adapters.base import Adapter, Batch
from microscope_bench.capture.fingerprints import ExampleSource, example_sha256
from microscope_bench.capture.hooks import run_pass
from microscope_bench.capture.mainflow import mainflow_hooks, mainflow_or_reason
from microscope_bench.capture.records import ExampleRecord
from microscope_bench.capture.states import BatchStates, join
from microscope_bench.capture.store import TokenStore
from microscope_bench.errors import CaptureError, ExampleError
from microscope_bench.examples import Example
from microscope_bench.processes import ALONE, Processes
from microscope_bench.protocol import Protocol

MAINFLOW_EXAMPLES = 16
"""Examples among which one with a medium and one without are looked for, to see whether the model has a main flow."""


class Capture:
    """The capture of one run.

    Args:
        adapter: the loaded model.
        source: the examples.
        protocol: decides how many tokens are kept, and of how many examples.
        batch_size: examples per forward pass.
    """

    def __init__(self, adapter: Adapter, source: ExampleSource, protocol: Protocol, batch_size: int) -> None:
        self.adapter = adapter
        self.source = source
        self.protocol = protocol
        self.batch_size = min(batch_size, adapter.max_batch or batch_size)

    def fill(
        self,
        store: TokenStore,
        parts: Sequence[int],
        on_examples: Callable[[int], object],
        processes: Processes = ALONE,
    ) -> None:
        """Captures the given parts.

        Args:
            store: opened for this run, its lock held.
            parts: the parts to capture.
            on_examples: called with the number of examples just finished.
            processes: those that share the parts; skipped examples are counted over all of them.

        Raises:
            CaptureError: more examples had to be skipped than the protocol allows, or the model broke the contract.
        """
        n_examples = int(store.manifest["n_examples"])
        allowed = int(self.protocol.max_skipped * n_examples)
        done = [part for part in range(store.n_parts) if part not in set(parts)]
        skipped = [record for part in done for record in store.part_records(part) if record.skipped]
        n_before, count = len(skipped), processes.counter()
        for part in processes.take(parts):
            records, tensors = self._capture_part(store.part_range(part), on_examples, store.mainflow is True)
            just_skipped = [record for record in records if record.skipped]
            skipped += just_skipped
            n_skipped = n_before + count(len(just_skipped))
            if n_skipped > allowed:
                first = "; ".join(f"{r.id}: {r.skipped}" for r in skipped[:3])
                raise CaptureError(
                    f"{n_skipped} of {n_examples} examples could not be measured, {allowed} may be "
                    f"(max_skipped={self.protocol.max_skipped:g}). First: {first}. Repair them, or raise --max_skipped"
                )
            store.write_part(part, tensors, records)

    def mainflow_or_reason(self) -> Literal[True] | str:
        """Whether the model has a main flow: True, or why not.

        The first examples decide: one with a medium and one without, where both are among them, since some models treat
        the two differently.
        """
        found: dict[bool, Literal[True] | str] = {}
        for index in range(len(self.source.ids))[: self.protocol.limit]:
            if len(found) == 2 or (found and index >= MAINFLOW_EXAMPLES):
                break
            batch, *_ = self._encode([index])
            if batch is not None and bool(batch.media) not in found:
                found[bool(batch.media)] = mainflow_or_reason(self.adapter, batch)
        reasons = [outcome for outcome in found.values() if outcome is not True]
        if reasons or not found:
            return reasons[0] if reasons else "no example could be measured"
        return True

    def outdated_parts(self, store: TokenStore, parts: Sequence[int]) -> list[int]:
        """Those of the parts that hold an example the task now renders otherwise: its wording or data was edited."""
        return [
            part for part in parts if not all(map(self._is_current, store.part_range(part), store.part_records(part)))
        ]

    def _is_current(self, index: int, record: ExampleRecord) -> bool:
        try:
            return record.example_sha256 == example_sha256(self.source.example(index))
        except ExampleError:
            return record.example_sha256 == ""

    def _capture_part(
        self, indices: Sequence[int], on_examples: Callable[[int], object], mainflow: bool
    ) -> tuple[list[ExampleRecord], dict[str, Tensor]]:
        records: dict[int, ExampleRecord] = {}
        collected: list[BatchStates] = []
        numbers: list[list[int]] = []
        for start in range(0, len(indices), self.batch_size):
            chunk = indices[start : start + self.batch_size]
            batch, examples, of_row, skipped = self._encode(chunk)
            records.update(skipped)
            if batch is not None:
                states = self._capture_batch(batch, examples, mainflow)
                records.update(zip(of_row, states.records, strict=True))
                collected.append(states)
                numbers.append([indices.index(i) for i in of_row])
            on_examples(len(chunk))
        return [records[index] for index in indices], join(collected, numbers)

    def _encode(
        self, indices: Sequence[int]
    ) -> tuple[Batch | None, list[Example], list[int], dict[int, ExampleRecord]]:
        """One batch of the examples that can be rendered, encoded, and fit the model's context; records of the rest."""
        skipped: dict[int, ExampleRecord] = {}
        examples: dict[int, Example] = {}
        for index in indices:
            try:
                examples[index] = self.source.example(index)
            except ExampleError as error:
                skipped[index] = ExampleRecord(id=self.source.ids[index], skipped=error.cause)
        longest = self.adapter.info.context_length
        while examples:
            rows = list(examples)
            try:
                batch = self.adapter.encode(list(examples.values()))
            except ExampleError as error:
                refused = [index for index, example in examples.items() if example.id == error.example_id]
                if not refused:
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

        def keep_mainflow(layer: int, hidden: Tensor) -> None:
            states.keep(f"mainflow.{layer}", hidden)

        def chain() -> AbstractContextManager[None]:
            return mainflow_hooks(self.adapter.blocks(), batch.labels, keep_mainflow) if mainflow else nullcontext()

        scorable = any(example.has_short_choices for example in examples)
        logits = run_pass(self.adapter, batch, states.keep_boundary, logits=scorable, beside=chain)
        if logits is not None:
            states.score_choices(logits, batch.prompts)
        return states


def _skipped(example: Example, cause: str) -> ExampleRecord:
    return ExampleRecord(id=example.id, example_sha256=example_sha256(example), skipped=cause)
