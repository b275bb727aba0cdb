"""Where each kept token of a store lies, in one canonical order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy

import numpy as np
import torch
from torch import Tensor

from microscope_bench.adapters.base import LABELS, MODALITIES
from microscope_bench.capture.example_record import ExampleRecord
from microscope_bench.capture.safetensors_rows import StoredRows
from microscope_bench.capture.selection import key_hash, splitmix64
from microscope_bench.capture.store import TokenStore
from microscope_bench.errors import StoreError
from microscope_bench.metrics.core.cached import cached_property
from microscope_bench.metrics.core.folds import assign_folds
from microscope_bench.metrics.core.workspace import Workspace
from microscope_bench.protocol import Protocol
from microscope_bench.system.field_types import content_sha256

JOINT = "joint"
BOUNDARY = "boundary"
TOKENS_PER_BLOCK = 1 << 16  # whose hashes are held at once


class StoredTokens:
    """Where each kept token lies, in an order that does not depend on the order of capture.

    Tokens are ordered by example id, then modality, then position, so that sums over them come out the same to the
    last bit whatever the order of examples was. Of a token 13 bytes are held; the store has fewer than 2³¹.

    A token that several examples share, because the same precedes it in each, is one token computed several times. One
    of the copies stands for all: it weighs once, and lies in one fold. A hash chooses it, so that neither the order of
    the examples, nor batches, parts or processes do.

    Attributes:
        records: of the examples that were measured; ``example`` counts them.
        copies: modality → how many tokens were left out as copies of another.
        example: int32 (N,), whose token each is.
        modality: int8 (N,), a place in ``LABELS``.
        row: int32 (N,), within the part.
        workspace: how much of them may be looked at once.
    """

    workspace = Workspace()

    def __init__(self, store: TokenStore, protocol: Protocol, device: torch.device) -> None:
        self.store, self.protocol, self.device = store, protocol, device
        self._stored = StoredRows(store)
        records = store.records
        measured = [(record, index) for index, record in enumerate(records) if record.skipped is None]
        measured.sort(key=lambda pair: (len(pair[0].id), pair[0].id))
        self.records = [record for record, _ in measured]
        indices = np.array([index for _, index in measured], dtype=np.int64)
        rank_of_index = np.full(len(records), -1)
        rank_of_index[indices] = np.arange(len(indices))
        self._part_of_example = (indices // len(store.part_range(0))).astype(np.int32)
        self._rank_of_index = rank_of_index
        prefix = self._order_tokens()
        self._keys = self._sampling_keys()
        self._group_of_example = np.unique(group_names(self.records), return_inverse=True)[1].astype(np.int64)
        self._choose(prefix, np.ones(len(self.records), dtype=bool))

    def _order_tokens(self) -> np.ndarray:
        """Fills the columns with all tokens of the store; returns the key of each one's prefix, int64 (N,)."""
        counts = np.zeros(len(self.records), dtype=np.int64)
        for _, example in self._examples_of_parts():
            counts += np.bincount(example, minlength=len(counts))
        n, first = int(counts.sum()), np.cumsum(counts) - counts
        self.row, self.example = np.empty(n, dtype=np.int32), np.empty(n, dtype=np.int32)
        self.modality, self._number = np.empty(n, dtype=np.int8), np.empty(n, dtype=np.int32)
        prefix = np.empty(n, dtype=np.int64)
        for part, example in self._examples_of_parts():
            modality, position = (self._stored.column(name, part) for name in ("modality", "position"))
            order = np.lexsort((position, modality, example))
            example = example[order]
            # the k-th token of an example stands k places behind its first
            place = first[example] + np.arange(len(order)) - np.searchsorted(example, example)
            self.row[place], self.example[place] = order, example
            self.modality[place] = modality[order]
            self._number[place] = self._stored.column("number", part)[order]
            prefix[place] = self._stored.column("prefix", part)[order]
        return prefix

    def _examples_of_parts(self) -> Iterator[tuple[int, np.ndarray]]:
        for part in np.flatnonzero(self._stored.n_tokens).tolist():
            # each example's place among those that were measured, or −1
            yield part, self._rank_of_index[self.store.part_range(part).start + self._stored.column("example", part)]

    def of_examples(self, kept: np.ndarray) -> StoredTokens:
        """The tokens of some examples only, bool (len(records),), in folds of their own.

        A token may stand for its copies here that is itself one in the whole.
        """
        part = copy(self)
        part._choose(part._order_tokens(), kept)
        return part

    def _choose(self, prefix: np.ndarray, kept: np.ndarray) -> None:
        """Leaves the tokens of some examples, bool (len(records),), one for each key of ``prefix``, and folds them."""
        tokens = np.flatnonzero(kept[self.example])
        copied = self._are_copies(tokens, prefix[tokens])
        counts = np.bincount(self.modality[tokens[copied]], minlength=len(LABELS))
        self.copies = {name: int(counts[LABELS.index(name)]) for name in self.modalities}
        for name in ("row", "example", "modality", "_number"):
            setattr(self, name, getattr(self, name)[tokens[~copied]])
        self._samples: dict[tuple[str, int], np.ndarray] = {}
        self._fold(kept)

    def _are_copies(self, tokens: np.ndarray, prefix: np.ndarray) -> np.ndarray:
        """Which tokens another one of the same key stands for, bool (len(tokens),)."""
        by_key = np.argsort(prefix, kind="stable")
        again = prefix[by_key[1:]] == prefix[by_key[:-1]]
        shared = by_key[np.append(again, False) | np.append(False, again)[: len(by_key)]]
        # hashed once more: a token of many copies would else stand before the others in every sample
        by_hash = np.lexsort((splitmix64(self._hashes(tokens[shared])), prefix[shared]))
        shared = shared[by_hash]
        copied = np.zeros(len(tokens), dtype=bool)
        copied[shared[1:][prefix[shared[1:]] == prefix[shared[:-1]]]] = True
        return copied

    def _fold(self, kept: np.ndarray) -> None:
        # examples of one picture share a fold, else a map is tested on pictures that it has seen
        chosen = [self.records[k] for k in np.flatnonzero(kept)]
        self._fold_of_example = np.full(len(self.records), -1)
        self.n_folds, self._fold_of_example[kept] = folds_of(chosen, self.protocol)

    def folds_sha256(self) -> str:
        return folds_sha256(self.records, self._fold_of_example)

    def _sampling_keys(self) -> np.ndarray:
        """uint64 (examples, labels): what goes into the hash of each token, by which a sample is drawn.

        It is not the hash the token was selected by: those are small, and the smaller the more tokens an example has.
        """
        present = [LABELS.index(name) for name in self.modalities]
        keys = np.zeros((len(self.records), len(LABELS)), dtype=np.uint64)
        for rank, record in enumerate(self.records):
            for code in present:
                keys[rank, code] = key_hash(f"sample\0{self.protocol.seed}\0{record.id}\0{LABELS[code]}")
        return keys

    @property
    def modalities(self) -> list[str]:
        """The modalities that have tokens, in the fixed order of MODALITIES."""
        return [name for name in MODALITIES if (self.modality == LABELS.index(name)).any()]

    def of(self, modality: str) -> np.ndarray:
        """int32: indices of one modality's tokens, or of all tokens for ``joint``, ascending."""
        if modality == JOINT:
            return np.arange(len(self.modality), dtype=np.int32)
        return np.flatnonzero(self.modality == LABELS.index(modality)).astype(np.int32)

    def n_examples(self, tokens: np.ndarray) -> int:
        return int(np.count_nonzero(np.bincount(self.example[tokens], minlength=1)))

    def in_random_order(self, tokens: np.ndarray, most: int | None = None) -> np.ndarray:
        """The same tokens by ascending hash: the first n are a sample of n, the same at every boundary.

        With ``most`` only the first of that order, which takes no more memory however many tokens there are.
        """
        kept, hashes = tokens[:0], np.empty(0, dtype=np.uint64)
        for start in range(0, len(tokens), TOKENS_PER_BLOCK):
            block = tokens[start : start + TOKENS_PER_BLOCK]
            kept, hashes = np.concatenate([kept, block]), np.concatenate([hashes, self._hashes(block)])
            if most is not None:
                order = np.argsort(hashes, kind="stable")[:most]
                kept, hashes = kept[order], hashes[order]
        return kept if most is not None else kept[np.argsort(hashes, kind="stable")]

    def _hashes(self, tokens: np.ndarray) -> np.ndarray:
        keys = self._keys[self.example[tokens], self.modality[tokens]]
        with np.errstate(over="ignore"):
            return splitmix64(self._number[tokens].astype(np.uint64) + keys)

    def sample(self, modality: str, most: int) -> np.ndarray:
        """The first ``most`` of a modality's tokens in random order, or all where there are fewer; found out once."""
        if (modality, most) not in self._samples:
            self._samples[modality, most] = self.in_random_order(self.of(modality), most)
        return self._samples[modality, most]

    def folds(self, tokens: np.ndarray) -> Tensor:
        """int64 (len(tokens),): the fold of each token, on the device."""
        return torch.from_numpy(self._fold_of_example[self.example[tokens]]).to(self.device)

    def groups(self, tokens: np.ndarray) -> Tensor:
        """int64 (len(tokens),): equal for tokens of one picture, or of one text without a picture, on the device."""
        return torch.from_numpy(self._group_of_example[self.example[tokens]]).to(self.device)

    def examples(self, tokens: np.ndarray) -> Tensor:
        """int64 (len(tokens),): the index of each token's example, on the device."""
        return torch.from_numpy(self.example[tokens].astype(np.int64)).to(self.device)

    def keys(self, layer: int, tokens: np.ndarray) -> Tensor:
        """int64 (len(tokens),): equal for tokens that are one token at boundary ``layer``, computed twice."""
        return self.read("origin" if layer == 0 else "prefix", tokens)

    def states(self, layer: int, tokens: np.ndarray, stream: str = BOUNDARY) -> Tensor:
        """(len(tokens), d): some tokens at boundary ``layer``, in the model's dtype, on the device."""
        name = BOUNDARY if layer == 0 else stream  # the chain begins with boundary 0
        return self.read(f"{name}.{layer}", tokens)

    def read(self, name: str, tokens: np.ndarray) -> Tensor:
        """(len(tokens), ...): what one of the store's tensors says of some tokens, on the device."""
        part = self._part_of_example[self.example[tokens]]
        return self._stored.read(name, part, self.row[tokens]).to(self.device)

    @cached_property
    def dim(self) -> int:
        if not len(self.row):
            raise StoreError("the store holds no tokens")
        return self._stored.kind(f"{BOUNDARY}.0")[1][0]


def folds_of(records: Sequence[ExampleRecord], protocol: Protocol) -> tuple[int, np.ndarray]:
    """The number of folds, and the fold of each example, int64 (len(records),)."""
    groups = group_names(records)
    n_groups = len(set(groups))
    n_folds = min(protocol.folds, n_groups) if n_groups > 1 else 1
    return n_folds, assign_folds(groups, n_folds, protocol.seed)


def folds_sha256(records: Sequence[ExampleRecord], folds: np.ndarray) -> str:
    """64 hex digits of which example, of which picture of the data set, is in which fold; records in order of ids."""
    rows = zip(records, folds.tolist(), strict=True)
    return content_sha256([[record.id, record.media_sha256 or "", fold] for record, fold in rows])


def group_names(records: Sequence[ExampleRecord]) -> list[str]:
    """What the tokens of each example have in common with those of others: its picture, else the example itself.

    Folds hold whole groups, and a token's neighbours are looked for in other groups.
    """
    return [record.media_sha256 or record.id for record in records]
