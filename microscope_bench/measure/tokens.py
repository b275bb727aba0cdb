"""Where each kept token of a store lies, in one canonical order."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from microscope_bench.adapters.base import LABELS, MODALITIES
from microscope_bench.capture.selection import token_hashes
from microscope_bench.capture.store import TokenStore
from microscope_bench.errors import StoreError
from microscope_bench.metrics.resampling import assign_folds
from microscope_bench.metrics.workspace import Workspace
from microscope_bench.protocol import Protocol

OPEN_FILES = 16
JOINT = "joint"
BOUNDARY = "boundary"


class StoredTokens:
    """Where each kept token lies, in an order that does not depend on the order of capture.

    Tokens are ordered by example id, then modality, then position, so that sums over them come out the same to the
    last bit whatever the order of examples was.

    Args:
        store: a complete store.
        protocol: gives the number of folds, the size of the sample and the seed.
        device: where the arithmetic runs.

    Attributes:
        records: of the examples that were measured; ``example`` counts them.
        workspace: how much of them may be looked at once.
    """

    workspace = Workspace()

    def __init__(self, store: TokenStore, protocol: Protocol, device: torch.device) -> None:
        self.store, self.protocol, self.device = store, protocol, device
        self.open_part = lru_cache(maxsize=OPEN_FILES)(store.open_part)
        records = store.records
        measured = [record for record in records if record.skipped is None]
        self.records = sorted(measured, key=lambda record: (len(record.id), record.id))
        names = [record.id for record in self.records]
        rank = {name: k for k, name in enumerate(names)}
        rank_of_index = np.array([rank.get(record.id, -1) for record in records], dtype=np.int64)
        columns: dict[str, list[np.ndarray]] = {"part": [], "row": [], "example": []}
        kept_as = ("modality", "position", "number", "origin", "prefix")
        for part in range(store.n_parts):
            file = self.open_part(part)
            example = file.get_tensor("example").numpy()
            columns["part"].append(np.full(len(example), part))
            columns["row"].append(np.arange(len(example)))
            columns["example"].append(rank_of_index[store.part_range(part).start + example])
            for name in kept_as:
                columns.setdefault(name, []).append(file.get_tensor(name).numpy())
        joined = {name: np.concatenate(pieces) for name, pieces in columns.items()}
        order = np.lexsort((joined["position"], joined["modality"], joined["example"]))
        self.part, self.row = joined["part"][order], joined["row"][order]
        self.example, self.modality = joined["example"][order], joined["modality"][order]
        self.origin, self.prefix = joined["origin"][order], joined["prefix"][order]
        self.sampling_hash = self._sampling_hashes(names, joined["number"][order])
        self._fold(np.ones(len(names), dtype=bool))

    def of_examples(self, kept: np.ndarray) -> StoredTokens:
        """The tokens of some examples only, in folds of their own.

        Args:
            kept: bool (len(records),).
        """
        part = copy(self)
        of_kept = kept[self.example]
        for name in ("part", "row", "example", "modality", "origin", "prefix", "sampling_hash"):
            setattr(part, name, getattr(self, name)[of_kept])
        part._fold(kept)
        return part

    def _fold(self, kept: np.ndarray) -> None:
        """Puts every kept example into a fold.

        Examples that show the same picture share one, else a map is tested on pictures that it has seen.
        """
        groups = [record.media_sha256 or record.id for record in self.records]
        n_groups = len({group for group, keep in zip(groups, kept, strict=True) if keep})
        self.n_folds = min(self.protocol.folds, n_groups) if n_groups > 1 else 1
        fold = np.full(len(groups), -1)
        fold[kept] = assign_folds([groups[k] for k in np.flatnonzero(kept)], self.n_folds, self.protocol.seed)
        self.fold = fold[self.example]

    def _sampling_hashes(self, names: Sequence[str], numbers: np.ndarray) -> np.ndarray:
        """One hash per token, by which a sample is drawn: a token's rank does not depend on which others there are.

        It is another hash than the one the token was selected by: those are small by selection, and the smaller the
        more tokens an example has.
        """
        hashes = np.empty(len(numbers), dtype=np.uint64)
        first_of_group = np.flatnonzero(
            (np.diff(self.example, prepend=-1) != 0) | (np.diff(self.modality, prepend=0) != 0)
        )
        for start, end in pairwise([*first_of_group, len(numbers)]):
            key = f"sample\0{self.protocol.seed}\0{names[self.example[start]]}\0{LABELS[self.modality[start]]}"
            hashes[start:end] = token_hashes(numbers[start:end], key)
        return hashes

    @property
    def modalities(self) -> list[str]:
        """The modalities that have tokens, in the fixed order of MODALITIES."""
        return [name for name in MODALITIES if (self.modality == LABELS.index(name)).any()]

    def of(self, modality: str) -> np.ndarray:
        """int64: indices of one modality's tokens, or of all tokens for ``joint``."""
        if modality == JOINT:
            return np.arange(len(self.modality))
        return np.flatnonzero(self.modality == LABELS.index(modality))

    def n_examples(self, tokens: np.ndarray) -> int:
        """How many distinct examples some tokens belong to."""
        return len(np.unique(self.example[tokens]))

    def in_random_order(self, tokens: np.ndarray) -> np.ndarray:
        """The same tokens by ascending hash: the first n are a sample of n, the same at every boundary."""
        return tokens[np.argsort(self.sampling_hash[tokens], kind="stable")]

    def folds(self, tokens: np.ndarray) -> Tensor:
        """int64 (len(tokens),): the fold of each token, on the device."""
        return torch.from_numpy(self.fold[tokens]).to(self.device)

    def examples(self, tokens: np.ndarray) -> Tensor:
        """int64 (len(tokens),): the index of each token's example, on the device."""
        return torch.from_numpy(self.example[tokens]).to(self.device)

    def keys(self, layer: int, tokens: np.ndarray) -> Tensor:
        """int64 (len(tokens),): equal for tokens that are one token at boundary ``layer``, computed twice."""
        return torch.from_numpy((self.origin if layer == 0 else self.prefix)[tokens]).to(self.device)

    def states(self, layer: int, tokens: np.ndarray, stream: str = BOUNDARY) -> Tensor:
        """(len(tokens), d): some tokens at boundary ``layer``, in the model's dtype, on the device.

        Args:
            layer: l.
            tokens: indices.
            stream: the tensors read: ``boundary``, or ``mainflow`` for the skip-free chain.
        """
        parts = self.part[tokens]
        out = torch.empty(len(tokens), self.dim, dtype=self.dtype)
        for part in np.unique(parts):
            where = np.flatnonzero(parts == part)
            name = BOUNDARY if layer == 0 else stream  # the chain begins with boundary 0
            stored = self.open_part(int(part)).get_tensor(f"{name}.{layer}")
            out[torch.from_numpy(where)] = stored[torch.from_numpy(self.row[tokens[where]])]
        return out.to(self.device)

    @cached_property
    def dim(self) -> int:
        """Width d of the states."""
        return self._first_states.shape[1]

    @cached_property
    def dtype(self) -> torch.dtype:
        """Of the states as they are kept."""
        return self._first_states.dtype

    @cached_property
    def _first_states(self) -> Tensor:
        if not len(self.part):
            raise StoreError("the store holds no tokens")
        states: Tensor = self.open_part(int(self.part[0])).get_tensor(f"{BOUNDARY}.0")
        return states[:1]
