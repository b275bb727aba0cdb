"""The lm-eval model around a model of one's own, whose ``sequence()`` alone knows how it reads a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import numpy as np
from tqdm import tqdm

from microscope_bench.adapters.base import TEXT
from microscope_bench.adapters.evaluation_mode import evaluation_mode
from microscope_bench.adapters.own_model import OwnModel
from microscope_bench.adapters.pieces import Row, batch_of
from microscope_bench.config import RunConfig
from microscope_bench.errors import AdapterError
from microscope_bench.example import PLACEHOLDERS, Example
from microscope_bench.lm_eval_plugin import images
from microscope_bench.lm_eval_plugin.documents import Document, document_of
from microscope_bench.lm_eval_plugin.geometry import Geometry
from microscope_bench.lm_eval_plugin.internals import LM, Instance, output_path, running
from microscope_bench.lm_eval_plugin.refused_evaluations import check_images, refuse_cached_answers
from microscope_bench.tasks.lm_eval_tasks import directories_of

Planned = tuple[Row, images.Row]
"""A sequence as the model reads it, and what is asked of it."""


class OwnModelLM(LM):  # type: ignore[misc]
    """Says how likely continuations are: their tokens stand behind what ``sequence()`` makes of the prompt."""

    MULTIMODAL = True

    def __init__(self, adapter: OwnModel, config: RunConfig | None, batch_size: int) -> None:
        super().__init__()
        self.adapter, self.batch_size = adapter, batch_size
        self.geometry = None if config is None else Geometry(adapter, config)
        self._summary: dict[str, Any] = {}

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[images.Answer]:
        """Log-likelihood of each continuation after its context; see lm-eval's ``LM.loglikelihood``."""
        now = running()
        tasks = {} if now is None else now.tasks
        check_images(requests, tasks)
        directories = {name: directories_of(task.config) for name, task in tasks.items()}
        if self.geometry is not None:
            self.geometry.begin(requests)
        prompts: dict[tuple[Document, str], list[int]] = {}
        for number, request in enumerate(requests):
            prompts.setdefault((document_of(request), str(request.args[0])), []).append(number)
        groups, found = list(prompts.values()), dict[int, images.Answer]()
        seen: set[Document] = set()
        checked = False
        with evaluation_mode(self.adapter):
            for start in tqdm(range(0, len(groups), self.batch_size), desc="Scoring", disable=disable_tqdm):
                group = groups[start : start + self.batch_size]
                examples = [
                    images.example_of(requests[members[0]], templated=False, directories=directories)
                    for members in group
                ]
                planned, longer = self._plan(requests, group, examples)
                if planned:
                    found.update(self._answers(planned, seen))
                if longer and not checked:
                    checked = True
                    self._check_causal(*longer[0])
                for first in range(0, len(longer), self.batch_size):
                    found.update(self._answers(longer[first : first + self.batch_size], seen))
            scored = [found[number] for number in range(len(requests))]
            if self.geometry is not None:
                self.geometry.scored(requests, scored)
        for request, answer in zip(requests, scored, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return scored

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> NoReturn:
        """Always raises; see :meth:`generate_until`."""
        self.generate_until(requests)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> NoReturn:
        """Always raises: the contract of a model of one's own has one pass over a prompt and what follows it."""
        raise AdapterError(
            f"{requests[0].task_name}: {self.adapter.info.name} is a model of one's own, which lm-eval can ask how "
            f"likely answers are, and nothing else. Take a task of output_type multiple_choice; the geometry alone "
            f"comes from: microscope-bench run"
        )

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval names caches of templated prompts by, and asks for before it applies a template."""
        return self.adapter.info.name

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> NoReturn:
        """Always raises: the model's own code decides what stands around the task's words."""
        raise AdapterError(
            f"{self.adapter.info.name}: its sequence() writes what stands around a task's words; leave "
            f"--apply_chat_template out"
        )

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Called where answers are to come from ``--use_cache``."""
        refuse_cached_answers(geometry=self.geometry is not None)
        super().set_cache_hook(cache_hook)

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval's results say of the model, with ``microscope``: where each task's result is."""
        model = self.adapter.info
        info = {"model_num_parameters": model.n_parameters, "model_dtype": model.dtype, "model_sha": model.revision}
        if self.geometry is None:
            return info
        self._summary |= self.geometry.finish(output_path())
        return {**info, "microscope": self._summary}

    def _plan(
        self, requests: Sequence[Instance], groups: Sequence[Sequence[int]], examples: Sequence[Example]
    ) -> tuple[list[Planned], list[Planned]]:
        """The prompts, which answer for continuations of one token, and a sequence for each longer continuation."""
        prompts: list[Planned] = []
        longer: list[Planned] = []
        for members, example, row in zip(groups, examples, self.adapter.rows(examples), strict=True):
            request = requests[members[0]]
            alone = images.Row(request, document_of(request), "", 0, 0, [])
            for number in members:
                continuation = str(requests[number].args[1])
                ids = self._continuation(example, continuation)
                if len(ids) == 1:
                    alone.asked.append((number, ids))
                else:
                    asked = images.Row(request, alone.document, continuation, len(ids), 0, [], [(number, ids)])
                    longer.append((_followed(row, ids), asked))
            if alone.asked or self.geometry is not None:
                prompts.append((row, alone))
        return prompts, longer

    def _answers(self, planned: Sequence[Planned], seen: set[Document]) -> Iterator[tuple[int, images.Answer]]:
        """One pass; of documents not yet seen it is watched."""
        rows = [asked for _, asked in planned]
        names = tuple(f"{row.document[0]}, document {row.document[1]}" for row in rows)
        batch = batch_of([row for row, _ in planned], names, self.adapter.device)
        longest, limit = int(batch.lengths().max()), self.adapter.processing.context_length
        if limit is not None and longest > limit:
            raise AdapterError(
                f"{names[int(batch.lengths().argmax())]}: {longest} tokens, pictures and answer included, exceed the "
                f"{limit} of {self.adapter.info.name}; leave the document out with --samples"
            )
        positions = images.scored_positions(batch, rows)
        new = []
        for number, row in enumerate(rows):
            if self.geometry is not None and not row.n_after and row.document not in seen:
                seen.add(row.document)
                new.append((number, row.document, 0))
        if self.geometry is None or not new:
            logits = self.adapter.logits_at(batch, positions)
        else:
            with self.geometry.capturing(batch, images.watched_rows(batch, new)):
                logits = self.adapter.logits_at(batch, positions)
        return images.answers(batch, rows, positions, logits.float())

    def _check_causal(self, followed: Row, asked: images.Row) -> None:
        """Raises where what the model computes of a prompt depends on the continuation behind it."""
        n = asked.n_after
        alone = followed._replace(ids=followed.ids[:-n], labels=followed.labels[:-n])
        both = [(batch_of([row], ("",), self.adapter.device), back) for row, back in ((alone, 0), (followed, n))]
        images.refuse_seen_answers(self.adapter, both)

    def _continuation(self, example: Example, text: str) -> list[int]:
        """The tokens by which a text continues an example's last words."""
        words = example.text.rpartition(PLACEHOLDERS["image"])[2]
        before, after = self.adapter.ids(words), self.adapter.ids(words + text)
        if len(after) == len(before) or after[: len(before)] != before:
            raise AdapterError(
                f"{example.id}: {text!r} is no token of its own behind a prompt that ends in {words[-12:]!r}; end the "
                f"prompt without white space, or give the task another target_delimiter"
            )
        return after[len(before) :]


def _followed(row: Row, ids: Sequence[int]) -> Row:
    """A row with token ids of text behind it."""
    labels = np.full(len(ids), TEXT, dtype=row.labels.dtype)
    return row._replace(ids=np.append(row.ids, ids), labels=np.append(row.labels, labels))
