"""The geometry of one lm-eval task: states of its documents into a token store, and from that a result."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from microscope_bench.adapters.base import Adapter
from microscope_bench.capture.cropped_pictures import CroppedPictures
from microscope_bench.capture.example_record import ExampleRecord
from microscope_bench.capture.failing_examples import check_skipped
from microscope_bench.capture.states import BatchStates, join
from microscope_bench.capture.store import TokenStore
from microscope_bench.config import RunConfig
from microscope_bench.errors import CaptureError, MicroscopeError
from microscope_bench.results.result import Result
from microscope_bench.run.command_line import command_line
from microscope_bench.run.pipeline import PART_EXAMPLES, check_space, environment_of, finish_capture, measure, write
from microscope_bench.run.resolve import Stopwatch, resolve_loaded
from microscope_bench.tasks import Task


class TaskRecorder:
    """Takes the states of a task's documents in whatever order lm-eval runs them."""

    def __init__(self, adapter: Adapter, task: Task, config: RunConfig, rows: Sequence[int]) -> None:
        self.stopwatch = Stopwatch()
        self.error: MicroscopeError | None = None  # why nothing more of this task can be taken
        self.unscored: str | None = None  # why what lm-eval scored is no accuracy of ours
        self.choice_logprobs: dict[str, list[float]] = {}
        self.cropped = CroppedPictures(adapter)
        self.resolved = resolve_loaded(adapter, task, config, self.stopwatch, rows)
        self._directory = tempfile.TemporaryDirectory(prefix="microscope-lm-eval-")
        with self.stopwatch.stage("capture"):
            store = Path(self._directory.name) / "store"
            self._store = TokenStore.open_or_create(
                store, self.resolved.states, n_examples=len(rows), part_examples=PART_EXAMPLES
            )
            check_space(store, adapter, self.resolved.protocol, len(rows))
        self._waiting: list[dict[str, Tensor]] = []
        self._records: list[ExampleRecord] = []
        self._parts = 0
        self._taken = 0

    def take(self, states: BatchStates) -> None:
        """Stores the states of a few documents that have not come before."""
        if self.error is not None:
            return
        numbers = range(len(self._records), len(self._records) + len(states.records))
        self._waiting.append(join([states], [list(numbers)]))
        self._records += states.records
        self._taken += len(states.records)
        while len(self._records) >= PART_EXAMPLES:
            self._write(PART_EXAMPLES)

    def skip(self, example_id: str, cause: str) -> None:
        """Notes a document that lm-eval could not give the model whole."""
        self._records.append(ExampleRecord(id=example_id, skipped=cause))
        self._taken += 1
        if len(self._records) >= PART_EXAMPLES:
            self._write(PART_EXAMPLES)

    def result(self, output_path: Path | None) -> Result:
        """Measures what was stored, and writes the result where there is an ``output_path``."""
        if self.error is not None:
            raise self.error
        self._check_all_came()
        self.cropped.tell()
        if self._records:
            self._write(len(self._records))
        skipped = [record for record in self._store.records if record.skipped]
        check_skipped(self.resolved.protocol, len(skipped), self.resolved.n_examples, skipped)
        for record in self._store.records:
            if record.skipped is None:
                self._note_choices(record)
        config = replace(self.resolved.config, output_path=output_path)
        captured = finish_capture(self.resolved, self._store, environment_of(self.resolved.adapter, self._command()))
        return write(captured, measure(captured, config), config)

    def _command(self) -> str:
        """How lm-eval asks for it: ``model_args`` has the fields of the config that lm-eval has no options for."""
        config = self.resolved.config
        names = ("model_args", "apply_chat_template", "limit", "samples", "system_instruction", "seed", "device")
        asked = RunConfig(**{name: getattr(config, name) for name in names})
        return command_line("lm_eval run", asked, model="microscope", tasks=self.resolved.source.name)

    def _check_all_came(self) -> None:
        if self._taken != self.resolved.n_examples:
            raise CaptureError(
                f"{self.resolved.source.name}: {self._taken} of {self.resolved.n_examples} documents went through the "
                "model where they could be watched; the rest of lm-eval's requests did not reach it as prompts of "
                "their own"
            )

    def _note_choices(self, record: ExampleRecord) -> None:
        """What lm-eval got for the choices, or why there is no accuracy."""
        if record.answer is not None and self.unscored is not None:
            record.unscored = self.unscored
        logprobs = self.choice_logprobs.get(record.id)
        if logprobs is not None and np.isfinite(logprobs).all():
            record.choice_logprobs, record.unscored = logprobs, None
        elif logprobs is not None:
            record.unscored = "the logits hold NaN or infinity"

    def close(self) -> None:
        """Deletes the stored states."""
        self._directory.cleanup()

    def _write(self, n: int) -> None:
        """Writes the first ``n`` waiting documents as a part."""
        waiting = {}
        if self._waiting:
            waiting = {name: torch.cat([tensors[name] for tensors in self._waiting]) for name in self._waiting[0]}
        else:
            waiting = join([], [])
        first = waiting["example"] < n
        part = {name: tensor[first] for name, tensor in waiting.items()}
        rest = {name: tensor[~first] for name, tensor in waiting.items()}
        rest["example"] -= n
        self._store.write_part(self._parts, part, self._records[:n])
        self._waiting, self._records = ([rest] if len(rest["example"]) else []), self._records[n:]
        self._parts += 1
