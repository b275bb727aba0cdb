"""The geometry of one lm-eval task: states of its documents into a token store, and from that a result."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from microscope_bench.adapters.base import Adapter
from microscope_bench.capture.disk_space import check_space
from microscope_bench.capture.example_record import ExampleRecord
from microscope_bench.capture.fingerprints import probe_inputs, run_identity
from microscope_bench.capture.states import BatchStates, join
from microscope_bench.capture.store import TokenStore
from microscope_bench.errors import CaptureError, MicroscopeError
from microscope_bench.measure import measure
from microscope_bench.protocol import Protocol
from microscope_bench.results.provenance import environment
from microscope_bench.results.result import Result
from microscope_bench.run.result_building import Timing, assemble
from microscope_bench.system.devices import device_name
from microscope_bench.tasks import Task

PART_EXAMPLES = 16
PROBE_EXAMPLES = 8


class TaskRecorder:
    """Takes the states of a task's documents in whatever order lm-eval runs them.

    Args:
        adapter: whose model runs.
        task: the documents.
        protocol: decides how many tokens are kept.
        n_examples: how many documents will come.

    Attributes:
        error: why nothing more of this task can be taken; None while all is well.
        unscored: why what lm-eval scored is no accuracy of ours, or None.
    """

    def __init__(self, adapter: Adapter, task: Task, protocol: Protocol, n_examples: int) -> None:
        self.adapter, self.task, self.protocol = adapter, task, protocol
        self.timing = Timing()
        self._n_examples = n_examples
        self._directory = tempfile.TemporaryDirectory(prefix="microscope-lm-eval-")
        with self.timing.stage("capture"):
            self._probe = probe_inputs(adapter, task, min(PROBE_EXAMPLES, n_examples))
            self._store = TokenStore.open_or_create(
                Path(self._directory.name) / "store",
                run_identity(adapter, task, protocol, self._probe),
                n_examples=n_examples,
                part_examples=PART_EXAMPLES,
            )
            check_space(self._store.path, adapter, protocol, n_examples, mainflow=False)
        self.error: MicroscopeError | None = None
        self.unscored: str | None = None
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

    def result(
        self,
        metrics: Sequence[str],
        choice_logprobs: Mapping[str, Sequence[float]],
        command: Sequence[str],
        split_by: str | None = None,
    ) -> Result:
        """Measures what was stored and deletes it.

        Args:
            metrics: names.
            choice_logprobs: example id → what lm-eval got for each choice; no entry for an open question.
            command: the command line to note in the result.
            split_by: by what the scores are split too, or None.

        Raises:
            CaptureError: too many documents were cut, or not all of them came.
        """
        if self.error is not None:
            raise self.error
        if self._taken != self._n_examples:
            raise CaptureError(
                f"{self.task.name}: {self._taken} of {self._n_examples} documents went through the model where they "
                f"could be watched; the rest of lm-eval's requests did not reach it as prompts of their own"
            )
        if self._records:
            self._write(len(self._records))
        store = self._store
        skipped = [record for record in store.records if record.skipped]
        if len(skipped) > int(self.protocol.max_skipped * self._n_examples):
            raise CaptureError(
                f"{self.task.name}: {len(skipped)} of {self._n_examples} documents could not be measured; first: "
                f"{skipped[0].id}: {skipped[0].skipped}. To measure the others: --model_args ...,max_skipped=SHARE"
            )
        for record in store.records:
            if record.skipped is None and record.answer is not None and self.unscored is not None:
                record.unscored = self.unscored
            if record.skipped is None and record.id in choice_logprobs:
                logprobs = list(choice_logprobs[record.id])
                if np.isfinite(logprobs).all():
                    record.choice_logprobs, record.unscored = logprobs, None
                else:
                    record.unscored = "the logits hold NaN or infinity"
        where = environment(
            device=device_name(self.adapter.device),
            processor=self.adapter.info.processor,
            image_processor=self.adapter.info.image_processor,
            command=list(command),
        )
        about = {"protocol": self.protocol.as_dict(), "media_sha256": self._probe.media_sha256}
        seconds = self.timing.seconds["capture"]
        store.finish({**about, "environment": asdict(where), "capture_seconds": seconds})
        with self.timing.stage("measure"):
            measurement = measure(
                store,
                self.protocol,
                metrics,
                n_layers=self.adapter.info.n_layers,
                split_by=split_by,
                device=self.adapter.device,
                progress=False,
            )
        return assemble(store, self.protocol, metrics, measurement, where, self.timing, split_by)

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
