"""The clouds of a store: one per modality, token set and boundary, each knowing those it stands beside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import pairwise

import numpy as np

from microscope_bench.measure.survey import Survey, sample_size
from microscope_bench.measure.tokens import BOUNDARY, JOINT, StoredTokens
from microscope_bench.metrics.core.cached import cached_property
from microscope_bench.metrics.core.cloud import Cloud
from microscope_bench.metrics.core.cloud_rows import Chunk, Sample, sample_of
from microscope_bench.metrics.core.fold_moments import FoldMoments, merge
from microscope_bench.metrics.core.workspace import Workspace

ALL, NO_SINKS = "all", "no_sinks"
MAINFLOW = "mainflow"


@dataclass(frozen=True)
class Members:
    """Which tokens the clouds of one modality (or ``joint``) and token set hold; ``index`` ascends."""

    modality: str
    token_set: str
    index: np.ndarray
    n_examples: int


class StoreCloud(Cloud):
    """One modality at one boundary of a store, or of its skip-free chain; reads a bounded number of rows at a time."""

    def __init__(
        self, tokens: StoredTokens, survey: Survey, members: Members, layer: int, stream: str = BOUNDARY
    ) -> None:
        self.tokens, self.survey, self.members, self.layer, self.stream = tokens, survey, members, layer, stream
        self.n_tokens, self.n_examples = len(members.index), members.n_examples
        self.dim = tokens.dim
        self.n_folds = tokens.n_folds

    @property
    def workspace(self) -> Workspace:  # type: ignore[override]
        return self.tokens.workspace

    @property
    def per_draw(self) -> int | None:
        return self.tokens.protocol.id_tokens

    @property
    def folds(self) -> tuple[int, ...]:
        return tuple(np.unique(self.tokens.folds(self.members.index).cpu().numpy()).tolist())

    def chunks(self) -> Iterator[Chunk]:
        n = self.workspace.rows_per_chunk
        for start in range(0, max(self.n_tokens, 1), n):  # one empty chunk where there are no rows
            rows = self.members.index[start : start + n]
            yield Chunk(
                x=self.tokens.states(self.layer, rows, self.stream),
                y=self.tokens.states(self.layer + 1, rows, self.stream) if self.has_next else None,
                fold=self.tokens.folds(rows),
                example=self.tokens.examples(rows),
            )

    def forget_measured(self) -> None:
        """Lets go of what only its own metrics look at, and of the moments that the workspace does not keep."""
        self.forget("distinct", "drawn", "neighbours")
        if not self.workspace.kept:
            self.forget("moments")

    def forget_beside(self) -> None:
        """Lets go of the moments of those that it stands beside, where the workspace does not keep them."""
        if not self.workspace.kept:
            for cloud in (self.text, self.next, self.mainflow, self.mainflow and self.mainflow.next):
                if cloud is not None:
                    cloud.forget("moments")

    def draw(self, distinct: bool) -> Sample:
        """The tokens of the smallest hashes, the same at every boundary; copies among them are dropped."""
        most = sample_size(self.tokens.protocol)
        if distinct and self.stream == BOUNDARY:
            rows, first = self.survey.copies(self.members.modality, self.layer, self.members.token_set == NO_SINKS)
        else:
            rows, first = self.tokens.in_random_order(self.members.index, most), None
        x = self.tokens.states(self.layer, rows, self.stream)
        of = self.tokens
        return sample_of(x, of.folds(rows), of.examples(rows), of.groups(rows), first, self.n_folds).first(most)


class JointCloud(StoreCloud):
    """All modalities together; its moments are merged from theirs, where these are kept, instead of summed again."""

    parts: Sequence[Cloud] = ()

    @cached_property
    def moments(self) -> FoldMoments:
        if not self.workspace.kept:
            return self.moments_of_rows()
        return reduce(partial(merge, parked=self.workspace.parked), (part.moments for part in self.parts))


Boundary = dict[tuple[str, str], StoreCloud]  # by modality and token set


def forget_everything(clouds: Boundary) -> None:
    """Lets go of all that was computed of a boundary, and of the next one."""
    for cloud in clouds.values():
        for one in (cloud, cloud.next, cloud.mainflow, cloud.mainflow and cloud.mainflow.next):
            if one is not None:
                one.forget()


def boundaries(tokens: StoredTokens, survey: Survey, n_layers: int, n_neighbours: int) -> list[Boundary]:
    """The clouds of every boundary 0..L, linked to each other; they hold no states until they are asked.

    The token set ``no_sinks`` is there only for modalities that have sinks, and for those that are held against a text
    that has some: elsewhere it is the same as ``all``.
    """
    modalities = [*tokens.modalities, JOINT] if len(tokens.modalities) > 1 else tokens.modalities
    all_members = [m for modality in modalities for m in _members(tokens, survey, modality)]
    mainflow = tokens.store.mainflow
    out = [_boundary(tokens, survey, all_members, layer, BOUNDARY) for layer in range(n_layers + 1)]
    _link(out)
    chain = [_boundary(tokens, survey, all_members, layer, MAINFLOW) for layer in range(n_layers + 1)]
    _link(chain)
    for clouds, in_chain in zip(out, chain, strict=True):
        for key, cloud in clouds.items():
            cloud.n_neighbours = n_neighbours
            if mainflow is not None and mainflow.exists:
                cloud.mainflow = in_chain[key]
            elif mainflow is not None:
                cloud.no_mainflow = mainflow.missing_because
    return out


def _members(tokens: StoredTokens, survey: Survey, modality: str) -> Iterator[Members]:
    index = tokens.of(modality)
    yield Members(modality, ALL, index, tokens.n_examples(index))
    kept = index[~survey.is_sink[index]]
    if len(kept) < len(index) or survey.is_sink[tokens.of("text")].any():
        yield Members(modality, NO_SINKS, kept, tokens.n_examples(kept))


def _boundary(
    tokens: StoredTokens, survey: Survey, all_members: Sequence[Members], layer: int, stream: str
) -> Boundary:
    clouds: Boundary = {}
    for members in all_members:
        kind = JointCloud if members.modality == JOINT else StoreCloud
        clouds[members.modality, members.token_set] = kind(tokens, survey, members, layer, stream)
    for (modality, token_set), cloud in clouds.items():
        if isinstance(cloud, JointCloud):
            cloud.parts = [_of(clouds, part, token_set) for part in tokens.modalities]
        elif modality != "text" and ("text", ALL) in clouds:
            cloud.text = _of(clouds, "text", token_set)
    return clouds


def _of(clouds: Boundary, modality: str, token_set: str) -> StoreCloud:
    """The cloud of a modality in a token set; without sinks of its own its ``no_sinks`` is ``all``."""
    return clouds.get((modality, token_set), clouds[modality, ALL])


def _link(chain: Sequence[Boundary]) -> None:
    for clouds, following in pairwise(chain):
        for key, cloud in clouds.items():
            cloud.next = following[key]
