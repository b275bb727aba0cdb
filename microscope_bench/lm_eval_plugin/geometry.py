"""Geometry from lm-eval's forward passes: whose states are whose, one recorder per task, and the results."""

from __future__ import annotations

import hashlib
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from microscope_bench.adapters.base import PADDING, Batch
from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.capture.hooks import watched
from microscope_bench.capture.states import BatchStates
from microscope_bench.errors import CaptureError, ExampleError, MicroscopeError
from microscope_bench.examples import Example
from microscope_bench.lm_eval_plugin.arguments import Settings
from microscope_bench.lm_eval_plugin.internals import Instance, Running, pictures_of, running
from microscope_bench.lm_eval_plugin.recorder import TaskRecorder
from microscope_bench.lm_eval_plugin.refusals import check_evaluation
from microscope_bench.publish.terminal import summary_table
from microscope_bench.resolve import resolve_limit
from microscope_bench.results.files import result_path
from microscope_bench.results.result import Result
from microscope_bench.tasks.running import task_around
from microscope_bench.tasks.settings import Seeds, TaskSettings

LOG = logging.getLogger("microscope_bench")

Document = tuple[str, int]
"""Task name and lm-eval's number of the document."""


@dataclass(frozen=True)
class Watched:
    """One row of a batch that holds a document's prompt.

    Attributes:
        document: whose.
        row: in the hidden states.
        labels: int8 (S,), padding wherever something else than the prompt stands.
        tokens: int64, the prompt's token ids.
        prompt: its text.
    """

    document: Document
    row: int
    labels: np.ndarray
    tokens: np.ndarray
    prompt: str


class Geometry:
    """What is measured beside an evaluation.

    Args:
        adapter: the loaded model; its prompts follow what lm-eval does with the chat template.
        settings: what to measure.
    """

    def __init__(self, adapter: HFAdapter, settings: Settings) -> None:
        self.adapter, self.settings = adapter, settings
        self._recorders: dict[str, TaskRecorder] = {}
        self._examples: dict[Document, Example] = {}
        self._left_out: set[Document] = set()
        self._logprobs: dict[str, dict[str, list[float]]] = {}

    def begin(self, requests: Sequence[Instance]) -> None:
        """Gets ready for all requests of one kind.

        Raises:
            CaptureError: the evaluation is one whose geometry would be wrong or could not be told apart.
        """
        now = running()
        if now is None:
            raise CaptureError(
                "microscope: geometry needs to know the task, and no evaluation of lm_eval.evaluator is running; call "
                "lm_eval.simple_evaluate, or load the model with geometry=false"
            )
        check_evaluation(now)
        wanted: dict[str, set[int]] = {}
        for request in requests:
            if request.task_name in self._recorders:
                raise CaptureError(f"{request.task_name} was measured by this model object before; load another")
            wanted.setdefault(str(request.task_name), set()).add(int(request.doc_id))
        for name, documents in wanted.items():
            task = task_around(now.tasks[name], _settings(now))
            protocol = self.settings.protocol.with_changes(limit=resolve_limit(now.limit, task))
            adapter = self.adapter = self.adapter.with_template(now.templated)
            self._recorders[name] = TaskRecorder(adapter, task, protocol, len(documents))
        for request in requests:
            document = document_of(request)
            if document not in self._examples and document not in self._left_out:
                try:
                    self._examples[document] = self._example(request, now.templated)
                except ExampleError as error:
                    self._left_out.add(document)
                    self._recorders[document[0]].skip(error.example_id, error.cause)

    def measures(self, document: Document) -> bool:
        """Whether the document's prompt is wanted; not where it could not be rendered as an example."""
        return document in self._examples

    def skip(self, document: Document, cause: str) -> None:
        """Notes a document whose prompt did not reach the model whole."""
        self._recorders[document[0]].skip(self._examples[document].id, cause)

    @contextmanager
    def capturing(
        self, batch: Batch | None, rows: Sequence[Watched], *, first_pass_only: bool = False
    ) -> Iterator[None]:
        """Keeps the states of some rows of the forward pass inside this context.

        Args:
            batch: what runs, where the adapter encoded it.
            rows: which documents stand where; none means that nothing is kept.
            first_pass_only: whether decode steps follow.
        """
        if not rows:
            yield
            return
        by_task: dict[str, list[Watched]] = {}
        for row in rows:
            by_task.setdefault(row.document[0], []).append(row)
        kept = {name: self._states(name, members, batch) for name, members in by_task.items()}

        def on_boundary(layer: int, hidden: Any) -> None:
            for states in kept.values():
                states.keep_boundary(layer, hidden)

        begin = time.perf_counter()
        with watched(self.adapter, on_boundary, first_pass_only=first_pass_only):
            yield
        seconds = time.perf_counter() - begin
        for name, states in kept.items():
            recorder = self._recorders[name]
            recorder.timing.seconds["capture"] += seconds * len(by_task[name]) / len(rows)
            recorder.take(states)

    def scored(self, requests: Sequence[Instance], answers: Sequence[tuple[float, bool]]) -> None:
        """Notes the log-likelihood of each choice, for the accuracy."""
        for request, (logprob, _) in zip(requests, answers, strict=True):
            example = self._examples.get(document_of(request))
            if example is not None and example.choices is not None and request.idx < len(example.choices):
                of_task = self._logprobs.setdefault(str(request.task_name), {})
                of_task.setdefault(example.id, [float("-inf")] * len(example.choices))[request.idx] = logprob

    def finish(self, output_path: str | None) -> dict[str, Any]:
        """Measures every task, writes the results, and says where they are.

        Args:
            output_path: lm-eval's; None writes none.

        Returns:
            Task → summary of its result; JSON types only.
        """
        summary: dict[str, Any] = {}
        for name, recorder in self._recorders.items():
            try:
                result = recorder.result(
                    self.settings.metrics,
                    self._logprobs.get(name, {}),
                    ["lm_eval", *sys.argv[1:]],
                    self.settings.split_by,
                )
                summary[name] = _summary(result, output_path)
            except MicroscopeError as error:
                # the accuracies of hours must not be lost to it; the summary holds no number
                LOG.error("%s: the geometry could not be measured: %s", name, error)
                summary[name] = {"status": "failed", "error": str(error)}
            finally:
                recorder.close()
        self._recorders, self._examples, self._left_out, self._logprobs = {}, {}, set(), {}
        return summary

    def _example(self, request: Instance, templated: bool) -> Example:
        """The document as `microscope-bench run` would ask it; where lm-eval asks otherwise, as it asks it."""
        task, asked = self._recorders[str(request.task_name)].task, str(request.args[0])
        example = task.render(int(request.doc_id), request.doc, pictures=pictures_of(request) or ())
        ours = self.adapter.encoder.prompt(example) if templated else example.text
        return example if ours == asked else replace(example, text=asked, turns=())

    def _states(self, name: str, rows: Sequence[Watched], batch: Batch | None) -> BatchStates:
        numbers = [row.row for row in rows]
        other = None if batch is None or batch.other is None else batch.other[numbers]
        part = Batch(
            inputs={},
            labels=np.stack([row.labels for row in rows]),
            ids=tuple(self._examples[row.document].id for row in rows),
            prompts=tuple(row.prompt for row in rows),
            tokens=tuple(row.tokens for row in rows),
            other=other,
        )
        examples = [self._examples[row.document] for row in rows]
        return BatchStates(self.adapter, self._recorders[name].protocol, part, examples, rows=numbers)


def without_tail(labels: np.ndarray, n: int) -> np.ndarray:
    """Labels (S,) with the last ``n`` positions that are not padding made padding.

    >>> without_tail(np.array([3, 3, 3, 0], dtype=np.int8), 1).tolist()
    [3, 3, 0, 0]
    """
    labels = labels.copy()
    if n:
        labels[np.flatnonzero(labels != PADDING)[-n:]] = PADDING
    return labels


def document_of(request: Instance) -> Document:
    """Whose a request is."""
    return str(request.task_name), int(request.doc_id)


def _settings(now: Running) -> TaskSettings:
    """What the evaluation asks of its tasks, as `microscope-bench run` would be asked it."""
    own = Seeds()
    python, numpy, fewshot = (
        default if seed is None else seed for seed, default in zip(now.seeds, astuple(own), strict=True)
    )
    return TaskSettings(None, now.system_instruction, now.samples, Seeds(python, numpy, fewshot))


def _summary(result: Result, output_path: str | None) -> dict[str, Any]:
    """Of a result, written beside lm-eval's where there is a place."""
    summary: dict[str, Any] = {
        "status": result.status,
        "signature": result.signature,
        "n_examples": result.identity.n_examples,
        "tokens_seen": dict(result.inputs.tokens_seen),
        "example_ids_sha256": result.identity.example_ids_sha256,
        "prompt_sha256": result.identity.prompt_sha256,
        "path": None,
        "sha256": None,
    }
    LOG.info("%s", summary_table(result))
    if output_path is not None:
        root = Path(output_path)
        root = root.parent if root.suffix == ".json" else root
        path = result_path(root / "microscope", result)
        result.save(path)
        LOG.info("wrote %s", path)
        summary["path"] = path.relative_to(root).as_posix()
        summary["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return summary
