"""What is kept of one batch: the selected tokens' states at every boundary, and a record of each example."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from microscope_bench.adapters.base import LABELS, MODALITIES, PADDING, Adapter, Batch
from microscope_bench.capture.fingerprints import example_sha256, media_sha256
from microscope_bench.capture.origins import token_origins
from microscope_bench.capture.records import ExampleRecord
from microscope_bench.capture.selection import number_from_last, select_positions
from microscope_bench.errors import AdapterError, CaptureError
from microscope_bench.examples import Example
from microscope_bench.protocol import Protocol


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


class BatchStates:
    """Takes the boundaries of one forward pass, keeps the selected tokens of each.

    Args:
        adapter: whose model runs.
        protocol: decides how many tokens are kept.
        batch: what runs; positions labelled as padding are never kept.
        examples: one for each row of the batch.
        rows: for each example its row in the hidden states, where these hold others too; None means all in order.

    Attributes:
        tensors: "boundary.<l>" and the like → (n, d), the kept states.
        records: one for each example; complete once the first boundary has come.
    """

    def __init__(
        self,
        adapter: Adapter,
        protocol: Protocol,
        batch: Batch,
        examples: Sequence[Example],
        rows: Sequence[int] | None = None,
    ) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.records: list[ExampleRecord] = []
        self._adapter, self._protocol, self._examples, self._rows = adapter, protocol, examples, rows
        self._batch: Batch | None = batch
        self._selected: _Selected | None = None
        self._on_device: dict[torch.device, tuple[Tensor, Tensor]] = {}

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
        if self._rows is not None:
            hidden = hidden[torch.as_tensor(self._rows, device=hidden.device)]
        if self._batch is not None:  # boundary 0 comes before everything else
            self._begin(self._batch, hidden)
            self._batch = None  # its pixels need not wait for the rest of the part
        chosen = self.selected
        if hidden.device not in self._on_device:
            self._on_device[hidden.device] = (
                torch.from_numpy(chosen.row).to(hidden.device),
                torch.from_numpy(chosen.column).to(hidden.device),
            )
        self.tensors[name] = hidden[self._on_device[hidden.device]].cpu()

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
        for row, (example, record) in enumerate(zip(self._examples, self.records, strict=True)):
            if not example.has_short_choices or example.choices is None:
                continue
            try:
                ids = self._adapter.choice_token_ids(prompts[row], example.choices)
                if len(set(ids)) < len(ids):  # such as the unknown token for each
                    raise AdapterError(f"two of the choices {', '.join(example.choices)} are the same token")
                logprobs = torch.log_softmax(logits[row].double(), dim=-1)[ids].tolist()
                if np.isfinite(logprobs).all():
                    record.choice_logprobs = logprobs
                else:
                    record.unscored = "the logits hold NaN or infinity"
            except AdapterError as error:
                record.unscored = str(error)

    def _begin(self, batch: Batch, hidden: Tensor) -> None:
        self._adapter.check_labels(batch, hidden)
        labels = self._adapter.refine_labels(batch, hidden)
        self._check_media_found(labels)
        pieces = list(self._select(labels, batch))
        self._selected = _Selected(
            *(np.concatenate([p[k] for p in pieces]) if pieces else np.empty(0, dtype=np.int64) for k in range(7))
        )
        self.records = list(self._records(labels, batch))

    def _select(self, labels: np.ndarray, batch: Batch) -> Iterator[tuple[np.ndarray, ...]]:
        for row, example in enumerate(self._examples):
            real = np.flatnonzero(labels[row] != PADDING)
            origin, prefix = token_origins(
                labels[row][real],
                batch.tokens[row],
                media=media_sha256(example),
                example_id=example.id,
                sees=self._adapter.sees,
            )
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
                chosen = (real[positions], np.full(n, code), positions, number, origin[positions], prefix[positions])
                yield (np.full(n, row), *chosen)

    def _check_media_found(self, labels: np.ndarray) -> None:
        for row, example in enumerate(self._examples):
            for modality, media in example.media.items():
                if modality not in self._adapter.unplaced and not (labels[row] == LABELS.index(modality)).any():
                    raise CaptureError(
                        f"{self._adapter.info.name}: example {example.id} has {len(media)} {modality}(s), but "
                        f"no position of its sequence is labelled as one. Run: microscope-bench check, which says why"
                    )

    def _records(self, labels: np.ndarray, batch: Batch) -> Iterator[ExampleRecord]:
        for row, example in enumerate(self._examples):
            counts = np.bincount(labels[row], minlength=len(LABELS))
            yield ExampleRecord(
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
    for name in ("number", "origin", "prefix"):  # 64 bits are 64 bits, signed or not
        column = np.concatenate([getattr(s, name) for s in chosen])[order]
        tensors[name] = torch.from_numpy(column.view(np.int64))
    return tensors
