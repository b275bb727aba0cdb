"""What is kept of one batch: the selected tokens' states at every boundary, and a record of each example."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from microscope_bench.adapters.base import LABELS, MODALITIES, PADDING, Adapter, Batch
from microscope_bench.capture.example_record import ExampleRecord
from microscope_bench.capture.fingerprints import example_sha256, media_sha256
from microscope_bench.capture.host_copies import HostCopies
from microscope_bench.capture.origins import token_origins
from microscope_bench.capture.selection import number_from_last, select_positions
from microscope_bench.errors import CaptureError
from microscope_bench.example import Example
from microscope_bench.protocol import Protocol

# one number of each token: int8 for the modality and int64 for the others
TOKEN_COLUMNS = ("modality", "example", "position", "number", "origin", "prefix")


class BatchStates:
    """Takes the boundaries of one forward pass, keeps the selected tokens of each.

    During the pass no more is done than the pass needs: tokens are selected at boundary 0 and copied at each. What
    else is known of the examples is worked out by :meth:`finish`, which a GPU does not wait for: it still runs.
    ``rows`` are the examples' rows in the hidden states, where these hold others too; None means all in order.
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
        self._selected: dict[str, np.ndarray] = {}
        self._copies: HostCopies | None = None
        self._tensors: dict[str, Tensor] = {}
        self._records: list[ExampleRecord] = []
        self._columns: dict[str, np.ndarray] | None = None

    def keep_boundary(self, layer: int, hidden: Tensor) -> None:
        """Keeps the selected tokens of boundary ``layer`` of ``hidden``, (B, S, d); boundary 0 comes first."""
        self._keep(f"boundary.{layer}", hidden)

    def keep_mainflow(self, layer: int, hidden: Tensor) -> None:
        self._keep(f"mainflow.{layer}", hidden)

    def _keep(self, name: str, hidden: Tensor) -> None:
        if self._batch is not None:  # boundary 0 comes before everything else
            self._begin(self._batch, hidden)
            self._batch = None  # its pixels need not wait for the rest of the part
        assert self._copies is not None  # made with the selection
        self._tensors[name] = self._copies.take(hidden)

    def finish(self) -> None:
        """Works out the records and where the tokens come from, once, then waits for the copies."""
        if self._columns is None:
            if self._labels is None or self._copies is None:
                raise CaptureError(f"{self._adapter.info.name}: no boundary was handed over")
            media = [media_sha256(example) for example in self._examples]
            self._records = list(self._describe(self._labels, media))
            columns = self._selected | self._find_origins(self._labels, media)
            self._copies.wait()
            self._columns = columns  # last: an interrupt before it leaves the rest to be done again

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Name, such as "boundary.3", → (n, d), the kept states, on the host; to be read after the pass."""
        self.finish()
        return self._tensors

    @property
    def records(self) -> list[ExampleRecord]:
        self.finish()
        return self._records

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """Name → (n,), what the kept tokens are: ``row`` and ``column`` in (B, S), and :data:`TOKEN_COLUMNS`."""
        self.finish()
        assert self._columns is not None
        return self._columns

    def score_choices(self, logits: Tensor, choices: Mapping[int, list[int] | str]) -> None:
        """Notes the log-probability of each choice as the next token: ``logits`` (B, vocabulary).

        ``choices`` maps a row to the token of each choice, or to the reason why they cannot be scored.
        """
        records = self.records  # a GPU is waited for here
        for row, ids in choices.items():
            if isinstance(ids, str):
                records[row].unscored = ids
                continue
            logprobs = torch.log_softmax(logits[row].double(), dim=-1)[ids].tolist()
            if np.isfinite(logprobs).all():
                records[row].choice_logprobs = logprobs
            else:
                records[row].unscored = "the logits hold NaN or infinity"

    def _begin(self, batch: Batch, hidden: Tensor) -> None:
        if self._rows is not None:
            hidden = hidden[torch.as_tensor(self._rows, device=hidden.device)]
        self._adapter.check_labels(batch, hidden)
        self._labels = self._adapter.refine_labels(batch, hidden)
        self._check_media_found(self._labels)
        self._selected = self._select(self._labels)
        row = self._selected["row"]
        if self._rows is not None:
            row = np.asarray(self._rows, dtype=np.int64)[row]
        self._copies = HostCopies(row, self._selected["column"])

    def _select(self, labels: np.ndarray) -> dict[str, np.ndarray]:
        found = [(np.empty(0, dtype=np.int64),) * 5]
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
                n, number = len(positions), number_from_last(positions, of_modality)
                found.append((np.full(n, row), real[positions], np.full(n, code), positions, number))
        names = ("row", "column", "modality", "position", "number")
        return {name: np.concatenate(pieces) for name, pieces in zip(names, zip(*found, strict=True), strict=True)}

    def _find_origins(self, labels: np.ndarray, media: Sequence[str | None]) -> dict[str, np.ndarray]:
        rows, positions = self._selected["row"], self._selected["position"]
        found = {name: np.empty(len(rows), dtype=np.uint64) for name in ("origin", "prefix")}
        for row, example in enumerate(self._examples):
            keys = token_origins(
                labels[row][labels[row] != PADDING],
                self._tokens[row],
                media=media[row],
                example_id=example.id,
                sees=self._adapter.sees,
            )
            of_row = rows == row
            for column, key in zip(found.values(), keys, strict=True):
                column[of_row] = key[positions[of_row]]
        return {name: column.view(np.int64) for name, column in found.items()}  # 64 bits are 64 bits, signed or not

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
                media_sha256=example.dataset_media or media[row],
                converted_from=list(example.converted_from),
                answer=example.answer,
                unscored=example.unscored,
            )


def join(collected: Sequence[BatchStates], numbers: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """The tensors of a part, rows ordered by example, modality and position."""
    columns = {name: [states.columns[name] for states in collected] for name in TOKEN_COLUMNS if name != "example"}
    columns["example"] = [np.asarray(n)[s.columns["row"]] for s, n in zip(collected, numbers, strict=True)]
    joined = {name: np.concatenate([np.empty(0, np.int64), *columns[name]]) for name in TOKEN_COLUMNS}
    joined["modality"] = joined["modality"].astype(np.int8)
    order = np.lexsort((joined["position"], joined["modality"], joined["example"]))
    names = collected[0].tensors if collected else ()
    tensors = {name: torch.cat([s.tensors[name] for s in collected])[torch.from_numpy(order)] for name in names}
    return tensors | {name: torch.from_numpy(column[order]) for name, column in joined.items()}
