"""What is kept of one batch: the selected tokens' states at every boundary, and a record of each example."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from microscope_bench.adapters.base import LABELS, MODALITIES, PADDING, Adapter, Batch
from microscope_bench.capture.example_record import ExampleRecord
from microscope_bench.capture.fingerprints import example_sha256, media_sha256
from microscope_bench.capture.host_copies import HostCopies
from microscope_bench.capture.origins import token_origins
from microscope_bench.capture.selection import number_from_last, select_positions
from microscope_bench.errors import AdapterError, CaptureError
from microscope_bench.example import Example
from microscope_bench.protocol import Protocol


@dataclass(frozen=True)
class _Selected:
    """The kept tokens of one batch: (row, column) into (B, S), and what they are."""

    row: np.ndarray
    column: np.ndarray
    modality: np.ndarray
    position: np.ndarray
    number: np.ndarray


class BatchStates:
    """Takes the boundaries of one forward pass, keeps the selected tokens of each.

    During the pass no more is done than the pass needs: tokens are selected at boundary 0 and copied at each. What
    else is known of the examples is worked out by :meth:`finish`, which a GPU does not wait for: it still runs.

    Args:
        adapter: whose model runs.
        protocol: decides how many tokens are kept.
        batch: what runs; positions labelled as padding are never kept.
        examples: one for each row of the batch.
        rows: for each example its row in the hidden states, where these hold others too; None means all in order.

    """

    def __init__(
        self,
        adapter: Adapter,
        protocol: Protocol,
        batch: Batch,
        examples: Sequence[Example],
        rows: Sequence[int] | None = None,
    ) -> None:
        self._adapter, self._protocol, self._examples, self._rows = adapter, protocol, examples, rows
        self._tokens = batch.tokens
        self._batch: Batch | None = batch
        self._labels: np.ndarray | None = None
        self._selected: _Selected | None = None
        self._copies: HostCopies | None = None
        self._tensors: dict[str, Tensor] = {}
        self._origins: tuple[np.ndarray, np.ndarray] | None = None
        self._records: list[ExampleRecord] = []

    def keep_boundary(self, layer: int, hidden: Tensor) -> None:
        """Keeps the selected tokens of boundary ``layer``; an ``on_boundary`` of :mod:`capture.hooks`.

        Args:
            layer: 0 comes first.
            hidden: (B, S, d).

        Raises:
            AdapterError: the labels are of another shape.
            CaptureError: an example's medium is nowhere in its sequence.
        """
        self.keep(f"boundary.{layer}", hidden)

    def keep(self, name: str, hidden: Tensor) -> None:
        """Keeps the selected tokens of a tensor (B, S, d) under a name; see :meth:`keep_boundary`."""
        if self._batch is not None:  # boundary 0 comes before everything else
            self._begin(self._batch, hidden)
            self._batch = None  # its pixels need not wait for the rest of the part
        assert self._copies is not None  # made with the selection
        self._tensors[name] = self._copies.take(hidden)

    def finish(self) -> None:
        """Works out the records and where the tokens come from, then waits for the copies. Again, it does nothing.

        Raises:
            CaptureError: no boundary was handed over.
        """
        if self._origins is None:
            chosen = self.selected
            assert self._labels is not None and self._copies is not None  # set where the tokens are selected
            media = [media_sha256(example) for example in self._examples]
            self._records = list(self._describe(self._labels, media))
            origins = self._find_origins(self._labels, chosen, media)
            self._copies.wait()
            self._origins = origins  # last: an interrupt before it leaves the rest to be done again

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Name, such as "boundary.3", → (n, d), the kept states, on the host; to be read after the pass."""
        self.finish()
        return self._tensors

    @property
    def records(self) -> list[ExampleRecord]:
        """One for each example."""
        self.finish()
        return self._records

    @property
    def origins(self) -> tuple[np.ndarray, np.ndarray]:
        """uint64 (n,) twice: of each kept token the keys of :func:`~microscope_bench.capture.origins.token_origins`."""
        self.finish()
        assert self._origins is not None
        return self._origins

    @property
    def selected(self) -> _Selected:
        """Which tokens are kept."""
        if self._selected is None:
            raise CaptureError(f"{self._adapter.info.name}: no boundary was handed over")
        return self._selected

    def score_choices(self, logits: Tensor, prompts: Sequence[str]) -> None:
        """Notes the log-probability of each choice that is one short word, as the next token.

        Args:
            logits: float32 (B, vocabulary), those after each example's last token.
            prompts: the batch's.
        """
        ids = [self._choice_ids(example, prompt) for example, prompt in zip(self._examples, prompts, strict=True)]
        for row, (found, record) in enumerate(zip(ids, self.records, strict=True)):  # a GPU is waited for here
            if isinstance(found, str):
                record.unscored = found
            elif found is not None:
                logprobs = torch.log_softmax(logits[row].double(), dim=-1)[found].tolist()
                if np.isfinite(logprobs).all():
                    record.choice_logprobs = logprobs
                else:
                    record.unscored = "the logits hold NaN or infinity"

    def _choice_ids(self, example: Example, prompt: str) -> list[int] | str | None:
        """One token for each choice; why there is not; or None where one pass is not asked to score them."""
        if not example.has_short_choices or example.choices is None:
            return None
        try:
            ids = self._adapter.choice_token_ids(prompt, example.choices)
        except AdapterError as error:
            return str(error)
        if len(set(ids)) < len(ids):  # such as the unknown token for each
            return f"two of the choices {', '.join(example.choices)} are the same token"
        return ids

    def _begin(self, batch: Batch, hidden: Tensor) -> None:
        if self._rows is not None:
            hidden = hidden[torch.as_tensor(self._rows, device=hidden.device)]
        self._adapter.check_labels(batch, hidden)
        labels = self._adapter.refine_labels(batch, hidden)
        self._check_media_found(labels)
        pieces = list(self._select(labels))
        chosen = _Selected(
            *(np.concatenate([p[k] for p in pieces]) if pieces else np.empty(0, dtype=np.int64) for k in range(5))
        )
        self._labels, self._selected = labels, chosen
        row = chosen.row if self._rows is None else np.asarray(self._rows, dtype=np.int64)[chosen.row]
        self._copies = HostCopies(row, chosen.column)

    def _select(self, labels: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
        for row, example in enumerate(self._examples):
            real = np.flatnonzero(labels[row] != PADDING)
            for modality in MODALITIES:
                code = LABELS.index(modality)
                # positions count real tokens only, so that padding on either side cannot change the choice
                of_modality = np.flatnonzero(labels[row][real] == code)
                positions = select_positions(
                    of_modality,
                    limit=self._protocol.tokens_per_example,
                    seed=self._protocol.seed,
                    example_id=example.id,
                    modality=modality,
                )
                n = len(positions)
                number = number_from_last(positions, of_modality)
                yield np.full(n, row), real[positions], np.full(n, code), positions, number

    def _find_origins(
        self, labels: np.ndarray, chosen: _Selected, media: Sequence[str | None]
    ) -> tuple[np.ndarray, np.ndarray]:
        origin, prefix = (np.empty(len(chosen.row), dtype=np.uint64) for _ in range(2))
        for row, example in enumerate(self._examples):
            keys = token_origins(
                labels[row][labels[row] != PADDING],
                self._tokens[row],
                media=media[row],
                example_id=example.id,
                sees=self._adapter.sees,
            )
            of_row = chosen.row == row
            origin[of_row], prefix[of_row] = (key[chosen.position[of_row]] for key in keys)
        return origin, prefix

    def _check_media_found(self, labels: np.ndarray) -> None:
        for row, example in enumerate(self._examples):
            for modality, media in example.media.items():
                if modality not in self._adapter.unplaced and not (labels[row] == LABELS.index(modality)).any():
                    raise CaptureError(
                        f"{self._adapter.info.name}: example {example.id} has {len(media)} {modality}(s), but "
                        f"no position of its sequence is labelled as one. Run: microscope-bench check, which says why"
                    )

    def _describe(self, labels: np.ndarray, media: Sequence[str | None]) -> Iterator[ExampleRecord]:
        for row, example in enumerate(self._examples):
            counts = np.bincount(labels[row], minlength=len(LABELS))
            yield ExampleRecord(
                id=example.id,
                tokens_seen={LABELS[code]: int(n) for code, n in enumerate(counts) if n and code != PADDING},
                example_sha256=example_sha256(example, media[row]),
                tokens_sha256=hashlib.sha256(
                    np.ascontiguousarray(self._tokens[row]).astype("<i8").tobytes()
                ).hexdigest(),
                media_sha256=media[row],
                converted_from=list(example.converted_from),
                answer=example.answer,
                unscored=example.unscored,
            )


def join(collected: Sequence[BatchStates], numbers: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """The tensors of a part: one per boundary and state of the chain, rows ordered by example, modality and position.

    Args:
        collected: the batches of the part.
        numbers: for each batch, the number of each of its examples within the part.
    """
    if not collected:
        nothing = torch.empty(0, dtype=torch.int64)
        names = ("example", "position", "number", "origin", "prefix")
        return {"modality": nothing.to(torch.int8), **{name: nothing.clone() for name in names}}
    chosen = [states.selected for states in collected]
    example = np.concatenate([np.asarray(n)[s.row] for s, n in zip(chosen, numbers, strict=True)])
    modality = np.concatenate([s.modality for s in chosen])
    position = np.concatenate([s.position for s in chosen])
    order = np.lexsort((position, modality, example))
    permutation = torch.from_numpy(order)
    tensors = {
        name: torch.cat([states.tensors[name] for states in collected])[permutation] for name in collected[0].tensors
    }
    tensors["modality"] = torch.from_numpy(modality[order].astype(np.int8))
    tensors["example"] = torch.from_numpy(example[order].astype(np.int64))
    tensors["position"] = torch.from_numpy(position[order].astype(np.int64))
    tensors["number"] = torch.from_numpy(np.concatenate([s.number for s in chosen])[order].astype(np.int64))
    for k, name in enumerate(("origin", "prefix")):
        column = np.concatenate([states.origins[k] for states in collected])[order]
        tensors[name] = torch.from_numpy(column.view(np.int64))  # 64 bits are 64 bits, signed or not
    return tensors
