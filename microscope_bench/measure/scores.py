"""Scores of every metric at every boundary, for each modality and token set."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TypeVar, cast

import numpy as np
from msgspec.structs import replace
from tqdm import tqdm

from microscope_bench.capture.store import TokenStore
from microscope_bench.config import RunConfig
from microscope_bench.errors import MicroscopeError, StoreError
from microscope_bench.measure.clouds import ALL, NO_SINKS, Boundary, StoreCloud, boundaries, forget_everything
from microscope_bench.measure.correctness import HALVES, halves, token_set_of
from microscope_bench.measure.memory_budget import in_less_memory, threads_for, workspace_for
from microscope_bench.measure.survey import Survey, survey
from microscope_bench.measure.tokens import JOINT, StoredTokens
from microscope_bench.metrics.core.concentration import CONCENTRATED
from microscope_bench.metrics.core.estimate import NoValue
from microscope_bench.metrics.core.sinks import notable_dimensions, top_variance_share
from microscope_bench.metrics.record import Metric
from microscope_bench.metrics.registry import METRICS
from microscope_bench.protocol import Protocol
from microscope_bench.results.records import Folds, Modality, Score, SinkLayer, Sinks, Stream, TokenSet
from microscope_bench.results.replicates import rounded
from microscope_bench.system.devices import measuring_device
from microscope_bench.system.processes import ALONE, Processes
from microscope_bench.system.threads import in_threads

LOG = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Measurement:
    """What a store gave.

    ``scores`` are ordered by boundary, modality, token set and metric; those of a split come after the whole's.
    ``folds`` are those of all but a split's.
    ``copies`` says, by modality, how many tokens of the store were left out as copies of another.
    """

    scores: tuple[Score, ...]
    sinks: tuple[Sinks, ...]
    folds: Folds
    copies: Mapping[str, int]


def measure_tokens(
    store: TokenStore, protocol: Protocol, config: RunConfig, *, n_layers: int, processes: Processes = ALONE
) -> Measurement:
    """Measures a store: every metric at every boundary, for each modality and all of them together, with and without
    sinks.

    The store is complete: who has not just written it calls its ``check_complete`` first. Of the config ``metrics``,
    ``split_by``, ``device``, ``measure_memory`` and ``progress`` are read. ``processes`` share the boundaries; each of
    them gets the whole measurement.
    """
    tokens = StoredTokens(store, protocol, measuring_device(config.device))
    if not tokens.modalities:
        first = store.records[0]
        raise StoreError(f"no example could be measured. First: {first.id}: {first.skipped or 'it has no tokens'}")
    metrics, progress = [METRICS.get(name) for name in config.metrics], config.progress and processes.is_first
    tokens.workspace = workspace_for(tokens, config.measure_memory, metrics)
    shared = _Shared(metrics, own_boundaries(n_layers, processes), processes, progress)
    look = partial(survey, tokens, n_layers, shared.own, processes, progress=progress)
    found = in_less_memory(tokens, look, lambda: None)

    def measured(layer: int, clouds: Boundary) -> list[tuple[str, SinkLayer | None, list[Score]]]:
        return [
            (modality, _sink_layer(clouds, found, layer, modality), list(_modality_scores(clouds, modality, metrics)))
            for modality in _modalities(clouds)
        ]

    sinks: dict[str, list[SinkLayer]] = {}
    scores: list[Score] = []
    for of_boundary in shared.of_each_boundary(found, measured, "measure"):
        for modality, sink_layer, of_modality in of_boundary:
            sinks.setdefault(modality, []).extend([] if sink_layer is None else [sink_layer])
            scores.extend(of_modality)
    scores = shared.all_of(scores)
    _warn_of_missed_sinks(scores)
    sinks = {modality: shared.all_of(sinks.get(modality, [])) for modality in [*tokens.modalities, JOINT]}
    if config.split_by is not None:
        scores += list(_split_scores(found, scores, shared))
    folds = Folds(tokens.n_folds, tokens.folds_sha256())
    return Measurement(tuple(scores), tuple(_sinks(tokens, found, sinks)), folds, tokens.copies)


def _warn_of_missed_sinks(scores: Sequence[Score]) -> None:
    """Says where few tokens carry most of σ₁² in ``no_sinks`` too, which would reassure falsely."""
    found: dict[str, dict[int, str]] = {}
    for score in scores:
        if (score.metric, score.tokens) == ("anisotropy", NO_SINKS):
            for flag in score.flags:
                if flag.startswith(CONCENTRATED):
                    found.setdefault(score.modality, {})[score.layer] = flag
    for modality, flags in found.items():
        LOG.warning(
            "%s, token set no_sinks: 5 %% of the tokens carry most of the variance along the widest direction at "
            "layers %s (most: %s). They are sinks that the rule misses, or a word that every prompt has",
            *(modality, ", ".join(map(str, flags)), max(flags.values())),
        )


def own_boundaries(n_layers: int, processes: Processes) -> range:
    """The boundaries that this process measures: a run of neighbours, which have moments in common.

    The last boundary has no next one, and little to measure: it goes to whoever has the last of the others.

    >>> [list(own_boundaries(3, Processes(rank, 2))) for rank in (0, 1)]
    [[0, 1], [2, 3]]
    """
    return shares(n_layers, processes.size)[processes.rank]


def shares(n_layers: int, n: int) -> list[range]:
    """The boundaries 0..L in n runs of neighbours, the last of them in the last run."""
    starts = [-(-n_layers * rank // n) for rank in range(n + 1)]
    runs = [range(start, stop) for start, stop in pairwise(starts)]
    return [*runs[:-1], range(starts[-2], n_layers + 1)]


@dataclass(frozen=True)
class _Shared:
    metrics: Sequence[Metric]
    own: range
    processes: Processes
    progress: bool

    def all_of(self, own: list[T]) -> list[T]:
        return [one for part in self.processes.gather(own) for one in part]

    def of_each_boundary(self, found: Survey, measured: Callable[[int, Boundary], T], title: str) -> list[T]:
        """What ``measured`` gives of each of this process's boundaries; ``title`` is that of the progress bar.

        The threads have runs of neighbours each, since neighbours have moments in common.
        """
        n_neighbours = max(metric.neighbours for metric in self.metrics)
        waiting = dict(enumerate(boundaries(found.tokens, found, found.n_layers, n_neighbours)))
        n_threads = min(threads_for(found.tokens), max(1, len(self.own) - 1))
        bar = tqdm(total=len(self.own), desc=title, unit="boundary", disable=not self.progress)

        def run(share: range, go_on: Callable[[], None]) -> list[T]:
            out = []
            for place in share:
                go_on()
                layer = self.own[place]
                clouds = waiting.pop(layer)  # so that what it has computed goes when it is done
                work = partial(measured, layer, clouds)
                out.append(in_less_memory(found.tokens, work, partial(forget_everything, clouds)))
                bar.update()
            return out

        with bar:
            of_threads = in_threads(shares(len(self.own) - 1, n_threads), run)
        return [one for of_thread in of_threads for one in of_thread]


def _split_scores(found: Survey, whole: Sequence[Score], shared: _Shared) -> Iterator[Score]:
    """The scores of the two halves; where there are none, a row without a value for each of the whole's."""
    try:
        parts = halves(found.tokens.records, found.tokens.protocol.seed)
    except NoValue as none:
        empty = [
            replace(s, value=None, stderr=None, n_tokens=0, n_examples=0, flags=(), reason=str(none), replicates=())
            for s in whole
        ]
        for name in HALVES:
            yield from (replace(score, tokens=token_set_of(name, score.tokens)) for score in empty)
        return
    surveys = {name: found.of_examples(kept) for name, kept in parts.items()}
    for name, part in surveys.items():
        of_each = shared.of_each_boundary(part, lambda _, clouds: _boundary_scores(clouds, shared.metrics), name)
        scores = [score for of_boundary in of_each for score in of_boundary]
        yield from (replace(score, tokens=token_set_of(name, score.tokens)) for score in shared.all_of(scores))


def _modality_scores(clouds: Boundary, modality: str, metrics: Sequence[Metric]) -> Iterator[Score]:
    scores = list(_scores(clouds[modality, ALL], metrics))
    clouds[modality, ALL].forget_measured()
    yield from scores
    # where there is no sink the two token sets are one
    without = clouds.get((modality, NO_SINKS))
    if without is None:
        yield from (replace(s, tokens=NO_SINKS) for s in scores)
    else:
        yield from _scores(without, metrics)
        without.forget_measured()


def _boundary_scores(clouds: Boundary, metrics: Sequence[Metric]) -> list[Score]:
    return [score for modality in _modalities(clouds) for score in _modality_scores(clouds, modality, metrics)]


def _modalities(clouds: Boundary) -> list[str]:
    return [modality for modality, token_set in clouds if token_set == ALL]


def _scores(cloud: StoreCloud, metrics: Sequence[Metric]) -> Iterator[Score]:
    few = (f"folds={cloud.n_folds}",) if cloud.n_folds < cloud.tokens.protocol.folds else ()
    n_all = len(cloud.tokens.of(cloud.members.modality))
    for metric in metrics:
        for estimator, stream, estimate in metric.scores(cloud):
            if estimator not in metric.estimators or stream not in (metric.streams or (None,)):
                raise MicroscopeError(
                    f"metric {metric.name} gave estimator {estimator!r}, stream {stream!r}; its Metric lists no such"
                )
            yield Score(
                metric=metric.name,
                estimator=estimator,
                stream=cast(Stream | None, stream),
                modality=cast(Modality, cloud.members.modality),
                tokens=cast(TokenSet, cloud.members.token_set),
                layer=cloud.layer,
                value=estimate.value,
                stderr=estimate.stderr,
                n_tokens=estimate.n_tokens,
                n_examples=estimate.n_examples,
                flags=(*estimate.flags, *few),
                reason=estimate.reason if cloud.n_tokens else f"all {n_all} tokens are sinks",
                replicates=rounded(estimate.replicates, estimate.stderr, cloud.n_folds),
            )
        cloud.forget_beside()


def _sink_layer(clouds: Boundary, found: Survey, layer: int, modality: str) -> SinkLayer | None:
    """What is told of a modality's sinks at one boundary; None where it has none."""
    cloud = clouds[modality, ALL]
    sinks = cloud.members.index[found.is_sink[cloud.members.index]]
    if (modality, NO_SINKS) not in clouds or not len(sinks):
        return None
    massive = np.zeros(len(found.is_sink), dtype=bool)
    massive[found.massive[layer]] = True
    here = sinks[massive[sinks]]
    share = None
    if cloud.first_axis is not None and not cloud.moments.non_finite_x:
        deviations = found.tokens.states(layer, sinks).double() - cloud.moments.centre().mean
        share = top_variance_share(cloud.first_axis, deviations)
    return SinkLayer(layer, len(here), tuple(notable_dimensions(found.tokens.states(layer, here))), share)


def _sinks(tokens: StoredTokens, found: Survey, layers: dict[str, list[SinkLayer]]) -> Iterator[Sinks]:
    for modality in [*tokens.modalities, *(["joint"] if len(tokens.modalities) > 1 else [])]:
        index = tokens.of(modality)
        sinks = index[found.is_sink[index]]
        yield Sinks(
            modality=cast(Modality, modality),
            n_tokens=len(index),
            n_sinks=len(sinks),
            n_examples=tokens.n_examples(sinks),
            layers=tuple(layers.get(modality, ())),
        )
