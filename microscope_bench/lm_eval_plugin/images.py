"""Requests with pictures: which forward passes answer them, and what is read off each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from microscope_bench.adapters.base import Batch
from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.adapters.own_model import OwnModel
from microscope_bench.errors import AdapterError, first_line
from microscope_bench.example import Example
from microscope_bench.lm_eval_plugin.documents import Document, Turns, document_of
from microscope_bench.lm_eval_plugin.geometry import Watched, without_tail
from microscope_bench.lm_eval_plugin.internals import Instance, pictures_of
from microscope_bench.lm_eval_plugin.text import common
from microscope_bench.rgb_pictures import open_picture

CAUSAL_TOLERANCE = 0.1
"""Of the logits' spread: far above rounding in any precision, far below what an answer in sight does."""
Answer = tuple[float, bool]
"""Log-likelihood of a continuation, and whether greedy decoding would give it."""
Directories = Mapping[str, Sequence[Path]]
"""Task → the directories of its local data set, in which the files that its rows name must lie."""
BLANK = Image.new("RGB", (1, 1))


@dataclass
class Row:
    """One sequence to run, and what is asked of it.

    Attributes:
        request: one of those that it answers; its pictures are opened when the sequence is encoded.
        document: whose.
        continuation: text behind the prompt; "" for the prompt alone.
        n_after: how many tokens at its end do not belong to the prompt.
        n_melted: how many of the prompt's last tokens became others in front of the continuation.
        tail: token ids that the sequence must end with, to make sure that it was encoded as it was planned.
        asked: (number of the request, ids to score); the last id comes after the sequence where ``n_after`` is 0, and
            in place of its last token elsewhere.
    """

    request: Instance
    document: Document
    continuation: str
    n_after: int
    n_melted: int
    tail: list[int]
    asked: list[tuple[int, list[int]]] = field(default_factory=list)

    @property
    def n_scored(self) -> int:
        """How many tokens are scored at most."""
        return max((len(ids) for _, ids in self.asked), default=1)

    @property
    def order(self) -> tuple[bool, int]:
        """Sequences with pictures apart from those without, the longest first."""
        return bool(pictures_of(self.request)), -len(str(self.request.args[0])) - len(self.continuation)


def example_of(
    request: Instance,
    *,
    templated: bool,
    directories: Directories | None,
    continuation: str = "",
    turns: Turns = (),
) -> Example:
    """A request as the adapter encodes it.

    Args:
        request: lm-eval's.
        templated: whether its prompt is one that a chat template made.
        directories: by which its pictures are opened; without them blank ones stand for them.
        continuation: text behind the prompt.
        turns: those that the prompt was made of.
    """
    name, text = f"{request.task_name}, document {request.doc_id}", str(request.args[0]) + continuation
    pictures = pictures_of(request) or []
    try:
        if directories is None:
            images = (BLANK,) * len(pictures)
        else:
            images = tuple(open_picture(picture, directories.get(request.task_name, ())) for picture in pictures)
        return Example(name, text, images, prompt=text if templated else None, turns=turns)
    except Exception as error:  # of the picture library
        raise AdapterError(f"{name}: {first_line(error)}. Mend it, or leave the document out with --samples") from error


def plan_scoring(
    adapter: HFAdapter, requests: Sequence[Instance], *, templated: bool, whole_prompts: bool
) -> list[Row]:
    """The sequences to run, the longest first.

    Continuations of a prompt that differ in their last token alone share one, so that lettered choices need one forward
    pass. What counts as the continuation follows lm-eval: white space at the end of a context belongs to it.
    """
    shared: dict[tuple[Document, str, tuple[int, ...]], Row] = {}
    prompts: dict[tuple[Document, str], tuple[str, list[int]]] = {}
    tokenize, end = adapter.encoder.tokenize_plainly, adapter.encoder.prompt_end
    for number, request in enumerate(requests):
        document, context, continuation = document_of(request), str(request.args[0]), str(request.args[1])
        if (document, context) not in prompts:
            prompt = adapter.encoder.prompt(example_of(request, templated=templated, directories=None)) + end
            prompts[document, context] = prompt, tokenize(prompt)
        prompt, before = prompts[document, context]
        after = tokenize(prompt + continuation)
        scored = after[len(before if end else tokenize(prompt.rstrip())) :]
        if not scored:
            raise AdapterError(
                f"{request.task_name}, document {request.doc_id}: the continuation {continuation!r} adds no token to "
                f"its prompt"
            )
        begins = (document, context, tuple(after[:-1]))
        if begins not in shared and after[:-1] == before:
            shared[begins] = Row(request, document, "", 0, 0, before[-1:])
        elif begins not in shared:
            if end:
                raise AdapterError(
                    f"{adapter.info.name}: its processor ends each prompt with {end!r}, behind which "
                    f"{continuation!r} is not one token, so it cannot be scored; use lettered choices or generate_until"
                )
            n = common(before, after)
            shared[begins] = Row(request, document, continuation, len(after) - n, len(before) - n, scored)
        shared[begins].asked.append((number, scored))
    rows = list(shared.values())
    if whole_prompts:
        whole = {row.document for row in rows if not row.n_melted}
        melted = {row.document: row for row in rows if row.document not in whole}
        rows += [
            Row(row.request, document, "", 0, 0, prompts[document, str(row.request.args[0])][1][-1:])
            for document, row in melted.items()
        ]
    return sorted(rows, key=lambda row: row.order)


def check_causal(adapter: HFAdapter, rows: Sequence[Row], *, templated: bool, directories: Directories) -> None:
    """Raises where a continuation changes what the model computes of the prompt before it.

    Such a model (PaliGemma) takes all it is given for the prompt: it would see the answer that it is scored on.

    The model runs twice for it, where a row holds a continuation at all.
    """
    row = next((row for row in rows if row.n_after), None)
    if row is None:
        return
    make = partial(example_of, row.request, templated=templated, directories=directories)
    asked = (("", row.n_melted), (row.continuation, row.n_after))
    refuse_seen_answers(adapter, ((adapter.encode([make(continuation=words)]), back) for words, back in asked))


def refuse_seen_answers(adapter: HFAdapter | OwnModel, batches: Iterable[tuple[Batch, int]]) -> None:
    """Raises where two batches of one row differ in their logits so many positions before the last."""
    after = [adapter.logits_at(batch, batch.last_positions() - back)[0, 0].float() for batch, back in batches]
    if float((after[0] - after[1]).abs().max()) > CAUSAL_TOLERANCE * float(after[0].std()):
        raise AdapterError(
            f"{adapter.info.name}: a continuation changes what comes before it, so its attention is not causal and "
            f"choices of several tokens cannot be scored; use a task with lettered choices, or generate_until"
        )


def scored_positions(batch: Batch, rows: Sequence[Row]) -> np.ndarray:
    """int64 (k,), ascending: the positions whose logits are read."""
    last = batch.last_positions()
    columns = {
        int(position) - back
        for position, row in zip(last, rows, strict=True)
        for back in range(bool(row.n_after), row.n_scored + bool(row.n_after))
    }
    return np.array(sorted(columns), dtype=np.int64)


def answers(batch: Batch, rows: Sequence[Row], positions: np.ndarray, logits: Tensor) -> Iterator[tuple[int, Answer]]:
    """(Number of the request, answer) for everything that is asked of a batch.

    Args:
        batch: what ran.
        rows: one for each of its rows.
        positions: from :func:`scored_positions`.
        logits: float32 (B, k, vocabulary), those after each of the positions.
    """
    last = batch.last_positions()
    for number, row in enumerate(rows):
        end = int(last[number]) - bool(row.n_after)
        for request, ids in row.asked:
            where = np.searchsorted(positions, np.arange(end - len(ids) + 1, end + 1))
            logprobs = torch.log_softmax(logits[number, torch.from_numpy(where).to(logits.device)], dim=-1)
            targets = torch.tensor(ids, device=logits.device)
            total = logprobs.gather(1, targets[:, None]).sum()
            yield request, (float(total), bool((logprobs.argmax(dim=-1) == targets).all()))


def check_encoded(
    adapter: HFAdapter, batch: Batch, rows: Sequence[Row], examples: Sequence[Example], max_length: int | None
) -> None:
    """Raises unless every row was encoded as planned and fits."""
    for row, example, tokens, length in zip(rows, examples, batch.tokens, batch.lengths().tolist(), strict=True):
        check_length(example, length, max_length)
        if tokens[-len(row.tail) :].tolist() != row.tail:
            raise AdapterError(
                f"{adapter.info.name}: {example.id} was to end in tokens {row.tail} but ends in "
                f"{tokens[-len(row.tail) :].tolist()}. Its tokenizer writes a mark after each text, or encodes a text "
                f"otherwise beside a picture, so that continuations cannot be scored; use a generate_until task"
            )


def check_length(example: Example, length: int, max_length: int | None) -> None:
    """Raises for a prompt that does not fit; lm-eval would cut its beginning, and its pictures with it."""
    if max_length is not None and length > max_length:
        raise AdapterError(
            f"{example.id}: {length} tokens, pictures included, exceed the {max_length} there is room for; cutting "
            f"them would cut through the picture. Give the task smaller pictures or, if the model takes more, "
            f"--model_args max_length=N"
        )


def watched_rows(batch: Batch, rows: Sequence[tuple[int, Document, int]]) -> list[Watched]:
    """The prompts in a batch that the adapter encoded; ``rows``: (row, whose, tokens behind the prompt)."""
    return [
        Watched(
            document,
            row,
            without_tail(batch.labels[row], n_after),
            batch.tokens[row][: len(batch.tokens[row]) - n_after],
            batch.prompts[row],
        )
        for row, document, n_after in rows
    ]
