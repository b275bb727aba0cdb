"""Geometry from lm-eval's forward passes: whose states are whose, one recorder per task, and the results."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from microscope_bench.adapters.base import PADDING, Batch
from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.adapters.own_model import OwnModel
from microscope_bench.capture.hooks import watched
from microscope_bench.capture.states import BatchStates
from microscope_bench.config import RunConfig
from microscope_bench.errors import AdapterError, CaptureError, ExampleError, MicroscopeError
from microscope_bench.example import Example
from microscope_bench.lm_eval_plugin.documents import Document, Documents, Turns, document_of
from microscope_bench.lm_eval_plugin.internals import Instance, running
from microscope_bench.lm_eval_plugin.recorder import TaskRecorder
from microscope_bench.lm_eval_plugin.refused_evaluations import check_evaluation
from microscope_bench.publish.terminal import summary_table
from microscope_bench.results.result import Result
from microscope_bench.results.result_files import result_path
from microscope_bench.run.task_settings import task_settings
from microscope_bench.tasks.lm_eval_tasks import task_around

LOG = logging.getLogger("microscope_bench")
RESULTS = "microscope"
"""Where the results go, in lm-eval's output directory."""


@dataclass(frozen=True)
class Watched:
    """One row of a batch that holds a document's prompt."""

    document: Document
    row: int  # in the hidden states
    labels: np.ndarray  # int8 (S,), padding wherever something else than the prompt stands
    tokens: np.ndarray  # int64, the prompt's token ids
    prompt: str


class Geometry:
    """What is measured beside an evaluation; ``conversations`` says of what turns the chat template made a prompt."""

    def __init__(self, adapter: HFAdapter | OwnModel, config: RunConfig) -> None:
        self.adapter, self.config = adapter, config
        self._evaluated: list[Any] = []
        self._recorders: dict[str, TaskRecorder] = {}
        self.conversations: dict[str, Turns] = {}
        self._documents = Documents(adapter, {}, {}, templated=False)
        self._same_delimiter: dict[str, bool] = {}

    @property
    def hf(self) -> HFAdapter:
        """The adapter of a model of transformers."""
        assert isinstance(self.adapter, HFAdapter)
        return self.adapter

    def begin(self, requests: Sequence[Instance]) -> None:
        """Gets ready for all requests of one kind."""
        now = check_evaluation(running())
        tasks = list(now.tasks.values())
        if len(tasks) != len(self._evaluated) or any(a is not b for a, b in zip(tasks, self._evaluated, strict=True)):
            self._forget()  # what an interrupted evaluation left
            self._evaluated = tasks
        if not isinstance(self.adapter, OwnModel):  # which has no template
            self.adapter = self.adapter.with_template(now.templated)
        adapter = self.adapter
        wanted: dict[str, set[int]] = {}
        for request in requests:
            wanted.setdefault(str(request.task_name), set()).add(int(request.doc_id))
        for name in wanted:
            if name in self._recorders:
                raise CaptureError(
                    f"{name} asks for likelihoods and for answers too, so that each prompt would count twice; load the "
                    f"model with geometry=false"
                )
        config = replace(now.filled_into(self.config), device=str(adapter.device))
        found = {name: task_around(now.tasks[name], task_settings(config)) for name in wanted}
        for name, task in found.items():
            self._recorders[name] = TaskRecorder(adapter, task, config, sorted(wanted[name]))
        tasks_so_far = {**self._documents.tasks, **found}
        self._documents = Documents(adapter, tasks_so_far, self.conversations, templated=now.templated)
        for request in requests:
            self._documents.add(request)

    def example(self, document: Document) -> Example | None:
        """A document as an example; None, and noted, where it cannot be rendered."""
        try:
            return self._documents.example(document)
        except ExampleError as error:
            if self._documents.leave_out(document):
                self._recorders[document[0]].skip(error.example_id, error.cause)
            return None

    def encoded(self, document: Document) -> tuple[np.ndarray, np.ndarray] | None:
        """Tokens, int64, and labels, int8, that our own run gives a document without pictures; None: it is left out."""
        example = self.example(document)
        if example is None:
            return None
        batch = self.hf.encoder([example])
        return np.asarray(batch.tokens[0]), batch.labels[0][batch.labels[0] != PADDING]

    def skip(self, document: Document, cause: str) -> None:
        """Notes a document whose prompt did not reach the model as a run of our own would put it."""
        if self._documents.leave_out(document):
            self._recorders[document[0]].skip(self._documents.id_of(document), cause)

    @contextmanager
    def capturing(
        self, batch: Batch | None, rows: Sequence[Watched], *, first_pass_only: bool = False
    ) -> Iterator[None]:
        """Keeps the states of some rows of the forward pass inside this context."""
        examples = {row.document: self.example(row.document) for row in rows}
        by_task: dict[str, list[Watched]] = {}
        for row in rows:
            if examples[row.document] is not None:
                by_task.setdefault(row.document[0], []).append(row)
        if not by_task:
            yield
            return
        kept = {
            name: self._states(name, members, [e for row in members if (e := examples[row.document])], batch)
            for name, members in by_task.items()
        }

        def on_boundary(layer: int, hidden: Any) -> None:
            for name, states in kept.items():
                recorder = self._recorders[name]
                try:
                    if recorder.error is None:
                        states.keep_boundary(layer, hidden)
                except MicroscopeError as error:
                    recorder.error = error  # the answers go on

        begin = time.perf_counter()
        with watched(self.adapter, on_boundary, first_pass_only=first_pass_only):
            yield
        seconds = time.perf_counter() - begin
        for name, states in kept.items():
            recorder = self._recorders[name]
            recorder.stopwatch.seconds["capture"] += seconds * len(by_task[name]) / len(rows)
            recorder.take(states)

    def scored(self, requests: Sequence[Instance], answers: Sequence[tuple[float, bool]]) -> None:
        """Notes the log-likelihood of each choice, for the accuracy."""
        for request, (logprob, _) in zip(requests, answers, strict=True):
            document = document_of(request)
            n_choices = self._documents.n_choices(document)
            if request.idx < n_choices and self._scores_as_a_run_would(request):
                of_task = self._recorders[document[0]].choice_logprobs
                of_task.setdefault(self._documents.id_of(document), [math.nan] * n_choices)[request.idx] = logprob

    def _scores_as_a_run_would(self, request: Instance) -> bool:
        """Whether lettered choices have the delimiter of a run of our own; it is the same for all of a task."""
        name, document = str(request.task_name), document_of(request)
        if name not in self._same_delimiter:
            example = self.example(document)
            self._same_delimiter[name] = True
            if example is not None and example.has_short_choices and example.choices is not None:
                if isinstance(self.adapter, OwnModel):
                    prompt, tokens_of = self.adapter.encode([example]).prompts[0], self.adapter.ids
                else:
                    encoder = self.adapter.encoder
                    prompt, tokens_of = encoder.prompt(example) + encoder.prompt_end, encoder.tokenize_plainly
                try:
                    ours = self.adapter.choice_token_ids(prompt, example.choices)[request.idx]
                except AdapterError:
                    return True  # a run of our own could not score them at all
                theirs = tokens_of(prompt + str(request.args[1]))
                self._same_delimiter[name] = theirs[len(tokens_of(prompt)) :] == [ours]
            if not self._same_delimiter[name]:
                self._recorders[name].unscored = (
                    f"lm-eval scores the answer as {str(request.args[1])!r}, where microscope-bench run has another "
                    f"delimiter before the letter: lm-eval's own file has the accuracy"
                )
        return self._same_delimiter[name]

    def finish(self, output_path: str | None) -> dict[str, Any]:
        """Measures every task, writes the results where lm-eval has an ``output_path``, and says where they are."""
        root = None if output_path is None else Path(output_path)
        root = root.parent if root is not None and root.suffix == ".json" else root
        summary: dict[str, Any] = {}
        for name, recorder in self._recorders.items():
            try:
                result = recorder.result(None if root is None else root / RESULTS)
                summary[name] = _summary(result, root)
            except Exception as error:
                # the accuracies of hours must not be lost to it, memory that ran out included; there is no number then
                LOG.error("%s: the geometry could not be measured: %s", name, error)
                said = str(error) if isinstance(error, MicroscopeError) else f"{type(error).__name__}: {error}"
                summary[name] = {"status": "failed", "error": said}
        self._forget()
        return summary

    def _forget(self) -> None:
        for recorder in self._recorders.values():
            recorder.close()
        self._evaluated, self._recorders, self._same_delimiter = [], {}, {}
        self._documents = Documents(self.adapter, {}, {}, templated=False)

    def _states(
        self, name: str, rows: Sequence[Watched], examples: Sequence[Example], batch: Batch | None
    ) -> BatchStates:
        self._recorders[name].cropped.see(examples)
        numbers = [row.row for row in rows]
        other = None if batch is None or batch.other is None else batch.other[numbers]
        part = Batch(
            inputs={},
            labels=np.stack([row.labels for row in rows]),
            ids=tuple(example.id for example in examples),
            prompts=tuple(row.prompt for row in rows),
            tokens=tuple(row.tokens for row in rows),
            other=other,
        )
        return BatchStates(self.adapter, self._recorders[name].resolved.protocol, part, examples, rows=numbers)


def without_tail(labels: np.ndarray, n: int) -> np.ndarray:
    """Labels (S,) with the last ``n`` positions that are not padding made padding.

    >>> without_tail(np.array([3, 3, 3, 0], dtype=np.int8), 1).tolist()
    [3, 3, 0, 0]
    """
    labels = labels.copy()
    if n:
        labels[np.flatnonzero(labels != PADDING)[-n:]] = PADDING
    return labels


def _summary(result: Result, root: Path | None) -> dict[str, Any]:
    """What lm-eval's results say of a result, and where its file is below their directory."""
    LOG.info("%s", summary_table(result))
    path = None if root is None else result_path(root / RESULTS, result)
    return {
        "status": result.status,
        "signature": result.signature,
        "n_examples": result.inputs.n_examples,
        "tokens_seen": dict(result.inputs.tokens_seen),
        "example_ids_sha256": result.identity.example_ids_sha256,
        "prompt_sha256": result.identity.prompt_sha256,
        "path": None if path is None or root is None else path.relative_to(root).as_posix(),
        "sha256": None if path is None else hashlib.sha256(path.read_bytes()).hexdigest(),
    }
