"""Runs a model over a task and fills a token store, part by part."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from microscope_bench.adapters.base import LABELS, MODALITIES, PADDING, Adapter, Batch
from microscope_bench.capture.fingerprints import ExampleSource, example_sha256, media_sha256
from microscope_bench.capture.hooks import run_pass
from microscope_bench.capture.mainflow import mainflow_hooks, mainflow_or_reason
from microscope_bench.capture.origins import token_origins
from microscope_bench.capture.records import ExampleRecord
from microscope_bench.capture.selection import number_from_last, select_positions
from microscope_bench.capture.store import TokenStore
from microscope_bench.errors import AdapterError, CaptureError, ExampleError
from microscope_bench.examples import Example
from microscope_bench.protocol import Protocol

MAINFLOW_EXAMPLES = 16
"""Examples among which one with a medium and one without are looked for, to see whether the model has a main flow."""


@dataclass(frozen=True)
class _Selected:
    """The kept tokens of one batch: (row, column) into (B, S), what they are, and where they come from."""

    row: np.ndarray
    column: np.ndarray
    modality: np.ndarray
    position: np.ndarray
    number: np.ndarray
    origin: np.ndarray
    prefix: np.ndarray


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

    def fill(self, store: TokenStore, parts: Sequence[int], on_examples: Callable[[int], object]) -> None:
        """Captures the given parts.

        Args:
            store: opened for this run, its lock held.
            parts: the parts to capture.
            on_examples: called with the number of examples just finished.

        Raises:
            CaptureError: more examples had to be skipped than the protocol allows, or the model broke the contract.
        """
        n_examples = int(store.manifest["n_examples"])
        allowed = int(self.protocol.max_skipped * n_examples)
        done = [part for part in range(store.n_parts) if part not in set(parts)]
        skipped = [record for part in done for record in store.part_records(part) if record.skipped]
        for part in parts:
            records, tensors = self._capture_part(store.part_range(part), on_examples, store.mainflow is True)
            skipped += [record for record in records if record.skipped]
            if len(skipped) > allowed:
                first = "; ".join(f"{r.id}: {r.skipped}" for r in skipped[:3])
                raise CaptureError(
                    f"{len(skipped)} of {n_examples} examples could not be measured, {allowed} may be "
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
        collected: list[tuple[dict[str, Tensor], _Selected, list[int]]] = []
        for start in range(0, len(indices), self.batch_size):
            chunk = indices[start : start + self.batch_size]
            batch, examples, of_row, skipped = self._encode(chunk)
            records.update(skipped)
            if batch is not None:
                states, selected, batch_records = self._capture_batch(batch, examples, mainflow)
                records.update(zip(of_row, batch_records, strict=True))
                collected.append((states, selected, [indices.index(i) for i in of_row]))
            on_examples(len(chunk))
        return [records[index] for index in indices], self._join(collected)

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

    def _capture_batch(
        self, batch: Batch, examples: Sequence[Example], mainflow: bool
    ) -> tuple[dict[str, Tensor], _Selected, list[ExampleRecord]]:
        states: dict[str, Tensor] = {}
        labels = batch.labels
        selected: _Selected | None = None
        on_device: dict[torch.device, tuple[Tensor, Tensor]] = {}

        def keep(name: str, hidden: Tensor) -> None:
            nonlocal labels, selected
            if selected is None:  # boundary 0 comes before everything else
                self.adapter.check_labels(batch, hidden)
                labels = self.adapter.refine_labels(batch, hidden)
                self._check_media_found(labels, examples)
                selected = self._select(labels, batch, examples)
            if hidden.device not in on_device:
                on_device[hidden.device] = (
                    torch.from_numpy(selected.row).to(hidden.device),
                    torch.from_numpy(selected.column).to(hidden.device),
                )
            states[name] = hidden[on_device[hidden.device]].cpu()

        def keep_boundary(layer: int, hidden: Tensor) -> None:
            keep(f"boundary.{layer}", hidden)

        def keep_mainflow(layer: int, hidden: Tensor) -> None:
            keep(f"mainflow.{layer}", hidden)

        def chain() -> AbstractContextManager[None]:
            return mainflow_hooks(self.adapter.blocks(), batch.labels, keep_mainflow) if mainflow else nullcontext()

        scorable = any(example.has_short_choices for example in examples)
        logits = run_pass(self.adapter, batch, keep_boundary, logits=scorable, beside=chain)
        assert selected is not None  # run_pass raises unless every boundary came
        return states, selected, self._records(batch, examples, labels, logits)

    def _select(self, labels: np.ndarray, batch: Batch, examples: Sequence[Example]) -> _Selected:
        pieces = list(self._select_each(labels, batch, examples))
        return _Selected(
            *(np.concatenate([p[k] for p in pieces]) if pieces else np.empty(0, dtype=np.int64) for k in range(7))
        )

    def _select_each(
        self, labels: np.ndarray, batch: Batch, examples: Sequence[Example]
    ) -> Iterator[tuple[np.ndarray, ...]]:
        for row, example in enumerate(examples):
            real = np.flatnonzero(labels[row] != PADDING)
            origin, prefix = token_origins(
                labels[row][real],
                batch.tokens[row],
                media=media_sha256(example),
                example_id=example.id,
                sees=self.adapter.sees,
            )
            for modality in MODALITIES:
                code = LABELS.index(modality)
                # positions count real tokens only, so that padding on either side cannot change the choice
                of_modality = np.flatnonzero(labels[row][real] == code)
                positions = select_positions(
                    of_modality,
                    limit=self.protocol.tokens_per_example,
                    seed=self.protocol.seed,
                    example_id=example.id,
                    modality=modality,
                )
                n = len(positions)
                number = number_from_last(positions, of_modality)
                chosen = (real[positions], np.full(n, code), positions, number, origin[positions], prefix[positions])
                yield (np.full(n, row), *chosen)

    def _check_media_found(self, labels: np.ndarray, examples: Sequence[Example]) -> None:
        for row, example in enumerate(examples):
            for modality, media in example.media.items():
                if modality not in self.adapter.unplaced and not (labels[row] == LABELS.index(modality)).any():
                    raise CaptureError(
                        f"{self.adapter.info.name}: example {example.id} has {len(media)} {modality}(s), but "
                        f"no position of its sequence is labelled as one. Run: microscope-bench check, which says why"
                    )

    def _records(
        self, batch: Batch, examples: Sequence[Example], labels: np.ndarray, logits: Tensor | None
    ) -> list[ExampleRecord]:
        records = []
        for row, example in enumerate(examples):
            counts = np.bincount(labels[row], minlength=len(LABELS))
            record = ExampleRecord(
                id=example.id,
                tokens_seen={LABELS[code]: int(n) for code, n in enumerate(counts) if n and code != PADDING},
                example_sha256=example_sha256(example),
                tokens_sha256=hashlib.sha256(
                    np.ascontiguousarray(batch.tokens[row]).astype("<i8").tobytes()
                ).hexdigest(),
                media_sha256=media_sha256(example),
                converted_from=list(example.converted_from),
                answer=example.answer,
                unscored=example.unscored,
            )
            if logits is not None and example.has_short_choices and example.choices is not None:
                try:
                    ids = self.adapter.choice_token_ids(batch.prompts[row], example.choices)
                    if len(set(ids)) < len(ids):  # such as the unknown token for each
                        raise AdapterError(f"two of the choices {', '.join(example.choices)} are the same token")
                    logprobs = torch.log_softmax(logits[row].double(), dim=-1)[ids].tolist()
                    if np.isfinite(logprobs).all():
                        record.choice_logprobs = logprobs
                    else:
                        record.unscored = "the logits hold NaN or infinity"
                except AdapterError as error:
                    record.unscored = str(error)
            records.append(record)
        return records

    def _join(self, collected: list[tuple[dict[str, Tensor], _Selected, list[int]]]) -> dict[str, Tensor]:
        """One tensor per boundary and state of the chain, rows ordered by example, modality and position."""
        if not collected:
            nothing = torch.empty(0, dtype=torch.int64)
            names = ("example", "position", "number", "origin", "prefix")
            return {"modality": nothing.to(torch.int8), **{name: nothing.clone() for name in names}}
        example = np.concatenate([np.asarray(of_row)[s.row] for _, s, of_row in collected])
        modality = np.concatenate([s.modality for _, s, _ in collected])
        position = np.concatenate([s.position for _, s, _ in collected])
        order = np.lexsort((position, modality, example))
        permutation = torch.from_numpy(order)
        tensors = {
            name: torch.cat([states[name] for states, _, _ in collected])[permutation] for name in collected[0][0]
        }
        tensors["modality"] = torch.from_numpy(modality[order].astype(np.int8))
        tensors["example"] = torch.from_numpy(example[order].astype(np.int64))
        tensors["position"] = torch.from_numpy(position[order].astype(np.int64))
        for name in ("number", "origin", "prefix"):  # 64 bits are 64 bits, signed or not
            column = np.concatenate([getattr(s, name) for _, s, _ in collected])[order]
            tensors[name] = torch.from_numpy(column.view(np.int64))
        return tensors


def _skipped(example: Example, cause: str) -> ExampleRecord:
    return ExampleRecord(id=example.id, example_sha256=example_sha256(example), skipped=cause)
