"""From a token store to scores, boundary by boundary. Needs no model, so a kept store can be measured again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache, reduce
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from microscope_bench.adapters.base import LABELS, MODALITIES
from microscope_bench.capture.selection import token_hashes
from microscope_bench.capture.store import TokenStore
from microscope_bench.errors import StoreError
from microscope_bench.metrics.cloud import Chunk, Cloud, Sample, common_folds
from microscope_bench.metrics.moments import FoldMoments, merge
from microscope_bench.metrics.neighbours import COPY_TOLERANCE, first_copies
from microscope_bench.metrics.registry import METRICS, Metric
from microscope_bench.metrics.resampling import assign_folds
from microscope_bench.protocol import Protocol
from microscope_bench.results.result import Score

ROWS_PER_CHUNK = 8192
OPEN_FILES = 16


class StoredTokens:
    """Where each kept token lies, in an order that does not depend on the order of capture.

    Tokens are ordered by example id, then modality, then position, so that sums over them come out the same to the
    last bit whatever the order of examples was.

    Args:
        store: a complete store.
        protocol: gives the number of folds, the size of the sample and the seed.
        device: where the arithmetic runs.
    """

    def __init__(self, store: TokenStore, protocol: Protocol, device: torch.device) -> None:
        self.store, self.protocol, self.device = store, protocol, device
        self.open_part = lru_cache(maxsize=OPEN_FILES)(store.open_part)
        records = store.records
        measured = [record.id for record in records if record.skipped is None]
        names = sorted(measured, key=lambda name: (len(name), name))
        rank = {name: k for k, name in enumerate(names)}
        rank_of_index = np.array([rank.get(record.id, -1) for record in records], dtype=np.int64)
        columns: dict[str, list[np.ndarray]] = {"part": [], "row": [], "example": [], "modality": [], "position": []}
        for part in range(store.n_parts):
            file = self.open_part(part)
            example = file.get_tensor("example").numpy()
            columns["part"].append(np.full(len(example), part))
            columns["row"].append(np.arange(len(example)))
            columns["example"].append(rank_of_index[store.part_range(part).start + example])
            columns["modality"].append(file.get_tensor("modality").numpy())
            columns["position"].append(file.get_tensor("position").numpy())
        joined = {name: np.concatenate(pieces) for name, pieces in columns.items()}
        order = np.lexsort((joined["position"], joined["modality"], joined["example"]))
        self.part, self.row = joined["part"][order], joined["row"][order]
        self.example, self.modality = joined["example"][order], joined["modality"][order]
        self.sampling_hash = self._sampling_hashes(names, joined["position"][order])
        # examples that show the same picture share a fold, else a map is tested on pictures that it has seen
        group_of = {record.id: record.pictures_sha256 or record.id for record in records}
        groups = [group_of[name] for name in names]
        self.n_folds = min(protocol.folds, len(set(groups))) if len(set(groups)) > 1 else 1
        self.fold = assign_folds(groups, self.n_folds, protocol.seed)[self.example]

    def _sampling_hashes(self, names: Sequence[str], positions: np.ndarray) -> np.ndarray:
        """One hash per token, by which a sample is drawn: a token's rank does not depend on which others there are.

        It is another hash than the one the token was selected by: those are small by selection, and the smaller the
        more tokens an example has.
        """
        hashes = np.empty(len(positions), dtype=np.uint64)
        first_of_group = np.flatnonzero(
            (np.diff(self.example, prepend=-1) != 0) | (np.diff(self.modality, prepend=0) != 0)
        )
        for start, end in pairwise([*first_of_group, len(positions)]):
            key = f"sample\0{self.protocol.seed}\0{names[self.example[start]]}\0{LABELS[self.modality[start]]}"
            hashes[start:end] = token_hashes(positions[start:end], key)
        return hashes

    @property
    def modalities(self) -> list[str]:
        """The modalities that have tokens, in the fixed order of MODALITIES."""
        return [name for name in MODALITIES if (self.modality == LABELS.index(name)).any()]

    def of(self, modality: str) -> np.ndarray:
        """int64: indices of one modality's tokens, or of all tokens for ``joint``."""
        if modality == "joint":
            return np.arange(len(self.modality))
        return np.flatnonzero(self.modality == LABELS.index(modality))

    def folds(self, tokens: np.ndarray) -> Tensor:
        """int64 (len(tokens),): the fold of each token, on the device."""
        return torch.from_numpy(self.fold[tokens]).to(self.device)

    def states(self, layer: int, tokens: np.ndarray) -> Tensor:
        """(len(tokens), d): the states of some tokens at boundary ``layer``, in the model's dtype, on the device."""
        parts = self.part[tokens]
        out: Tensor | None = None
        for part in np.unique(parts):
            where = np.flatnonzero(parts == part)
            stored = self.open_part(int(part)).get_tensor(f"boundary.{layer}")
            rows = stored[torch.from_numpy(self.row[tokens[where]])]
            if out is None:
                out = torch.empty(len(tokens), rows.shape[1], dtype=rows.dtype)
            out[torch.from_numpy(where)] = rows
        if out is None:
            raise StoreError("no tokens were asked for")
        return out.to(self.device)


class StoreCloud(Cloud):
    """One modality at one boundary of a store; reads a bounded number of rows at a time.

    Args:
        tokens: the store's index.
        modality: a modality, or ``joint``.
        layer: l.
        n_layers: L; at l = L there is no next boundary.
    """

    def __init__(self, tokens: StoredTokens, modality: str, layer: int, n_layers: int) -> None:
        self.tokens, self.modality, self.layer = tokens, modality, layer
        self.index = tokens.of(modality)
        self.n_tokens = len(self.index)
        self.n_examples = len(np.unique(tokens.example[self.index]))
        self.dim = tokens.states(layer, self.index[:1]).shape[1]
        self.n_folds = tokens.n_folds
        self.has_next = layer < n_layers

    def chunks(self) -> Iterator[Chunk]:
        for start in range(0, self.n_tokens, ROWS_PER_CHUNK):
            rows = self.index[start : start + ROWS_PER_CHUNK]
            yield Chunk(
                x=self.tokens.states(self.layer, rows),
                y=self.tokens.states(self.layer + 1, rows) if self.has_next else None,
                fold=self.tokens.folds(rows),
            )

    def sample(self) -> Sample:
        """The tokens of the smallest hashes, the same at every boundary; copies among them are dropped afterwards."""
        order = np.argsort(self.tokens.sampling_hash[self.index], kind="stable")
        rows = self.index[order[: self.tokens.protocol.id_tokens]]
        x = self.tokens.states(self.layer, rows)
        first = first_copies(x)
        keep = torch.nonzero(first == torch.arange(len(first), device=first.device)).flatten()
        return Sample(
            x=x[keep].double(),
            fold=common_folds(self.tokens.folds(rows), first)[keep],
            n_examples=len(np.unique(self.tokens.example[rows])),
            duplicates=1.0 - len(keep) / len(rows),
            n_folds=self.n_folds,
            tolerance=COPY_TOLERANCE.get(x.dtype, 0.0),
        )


class JointCloud(StoreCloud):
    """All modalities together; its moments are merged from theirs instead of summed again."""

    def __init__(self, tokens: StoredTokens, parts: Sequence[StoreCloud], layer: int, n_layers: int) -> None:
        super().__init__(tokens, "joint", layer, n_layers)
        self.parts = parts

    @cached_property
    def moments(self) -> FoldMoments:
        """First and second moments per fold, merged from the modalities'."""
        return reduce(merge, (part.moments for part in self.parts))


def measure(
    store: TokenStore,
    protocol: Protocol,
    metrics: Sequence[str],
    *,
    n_layers: int,
    device: torch.device | None = None,
    progress: bool = True,
) -> list[Score]:
    """Scores of every metric at every boundary, for each modality and for all of them together.

    Args:
        store: complete; who has not just written it calls its ``check_complete`` first.
        protocol: folds, sample size and seed.
        metrics: names from ``METRICS``.
        n_layers: L.
        device: where the arithmetic runs; None means a GPU where there is one.
        progress: whether to show a progress bar on standard error.

    Raises:
        StoreError: the store is incomplete, or holds no tokens.
        UnknownNameError: a metric nobody registered.
    """
    chosen = [METRICS.get(name) for name in metrics]
    tokens = StoredTokens(store, protocol, device or torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if not tokens.modalities:
        first = store.records[0]
        raise StoreError(f"no example could be measured. First: {first.id}: {first.skipped or 'it has no tokens'}")
    scores: list[Score] = []
    for layer in tqdm(range(n_layers + 1), desc="measure", unit="boundary", disable=not progress):
        clouds = [StoreCloud(tokens, modality, layer, n_layers) for modality in tokens.modalities]
        if len(clouds) > 1:
            clouds.append(JointCloud(tokens, clouds[:], layer, n_layers))
        for cloud in clouds:
            scores.extend(_scores(cloud, chosen))
    return scores


def _scores(cloud: StoreCloud, metrics: Sequence[Metric]) -> Iterator[Score]:
    for metric in metrics:
        for estimator, stream, estimate in metric.scores(cloud):
            few = (f"folds={cloud.n_folds}",) if cloud.n_folds < cloud.tokens.protocol.folds else ()
            yield Score(
                metric=metric.name,
                estimator=estimator,
                stream=stream,
                modality=cloud.modality,
                tokens="all",
                layer=cloud.layer,
                value=estimate.value,
                stderr=estimate.stderr,
                n_tokens=estimate.n_tokens,
                n_examples=estimate.n_examples,
                flags=(*estimate.flags, *few),
                reason=estimate.reason,
            )
