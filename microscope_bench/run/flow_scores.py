"""From the log-probabilities of knocked out passes to scores with errors by picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from microscope_bench.capture.encoded_ahead import Encoded
from microscope_bench.capture.example_record import ExampleRecord
from microscope_bench.causal.edges import Edge
from microscope_bench.causal.knockout import Knockout
from microscope_bench.identity import Identity
from microscope_bench.measure.tokens import folds_of, folds_sha256
from microscope_bench.metrics.core.estimate import Estimate, NoValue
from microscope_bench.metrics.core.jackknife import jackknifed
from microscope_bench.results.records import Folds, Modality, Score
from microscope_bench.results.replicates import rounded

KNOCKOUT = "knockout"
"""The metric's name in results."""
_MODALITY_OF = {"image": "image", "video": "video", "audio": "audio", "text": "text", "question": "text"}
"""Keys of an edge → the modality that a score is of; others are of none alone."""


@dataclass
class Counted:
    """The examples that count, with what each edge did to them.

    Attributes:
        values: estimator suffix → per example float64 (edges, L): "" the relative change of the probability of the
            model's own first token, in percent; of examples with choices "/letter", by how many percentage points the
            right choice's share among the choices changes, and "/accuracy", whether it is the most likely one still.
        n_keys: per example int64 (edges,), -1 where an edge does not apply.
    """

    ids: list[str] = field(default_factory=list)
    values: dict[str, list[np.ndarray]] = field(default_factory=lambda: {"": [], "/letter": [], "/accuracy": []})
    n_keys: list[np.ndarray] = field(default_factory=list)

    def add(self, ready: Encoded, found: Knockout, counted: str | None) -> None:
        """Takes those of a batch that count."""
        for row, example in enumerate(ready.examples):
            base, blocked = found.base[row], found.blocked[:, :, row]
            tokens, answer = ready.choices.get(row), example.answer
            right = still = np.full(blocked.shape[:2], np.nan)
            if isinstance(tokens, list) and answer is not None:
                if counted == "right" and tokens[answer] != found.own[row]:
                    continue
                before, after = (_shares(x[..., 1 : 1 + len(tokens)]) for x in (base, blocked))
                right = 100 * (after[..., answer] - before[answer])
                still = np.where(np.isnan(right), np.nan, after.argmax(axis=-1) == answer)
            self.ids.append(example.id)
            self.n_keys.append(found.n_keys[:, row])
            self.values[""].append(100 * np.expm1(blocked[..., 0] - base[0]))
            self.values["/letter"].append(right)
            self.values["/accuracy"].append(still)


def _shares(logprobs: np.ndarray) -> np.ndarray:
    weights = np.exp(logprobs - logprobs.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def scores_of(
    identity: Identity, records: Sequence[ExampleRecord], counted: Counted
) -> tuple[tuple[Score, ...], Folds]:
    """The scores of every edge and centre block, and the folds of all examples; records in order of their ids."""
    measured = [record for record in records if record.skipped is None]
    n_folds, folds = folds_of(measured, identity.protocol)
    fold_of = {record.id: int(fold) for record, fold in zip(measured, folds, strict=True)}
    place = {record.id: number for number, record in enumerate(measured)}
    order = sorted(range(len(counted.ids)), key=lambda k: place[counted.ids[k]])  # whatever the batches were
    scores: list[Score] = []
    for number, name in enumerate(identity.protocol.edges):
        applies = [k for k in order if counted.n_keys[k][number] >= 0]
        of_edge = _OfEdge(
            edge=Edge.read(name),
            folds=np.array([fold_of[counted.ids[k]] for k in applies], dtype=np.int64),
            n_keys=float(np.mean([counted.n_keys[k][number] for k in applies])) if applies else 0.0,
            n_folds=n_folds,
            least=min(identity.protocol.folds, len(measured)),
            said=f"{len(applies)} of {len(measured)} examples",
        )
        for suffix, values in counted.values.items():
            table = np.array([values[k][number] for k in applies]).reshape(-1, identity.model.n_layers)
            if suffix and np.isnan(table).all():
                continue  # the task has no choices, or none counts
            scores += of_edge.scores(suffix, table)
    return tuple(scores), Folds(n_folds, folds_sha256(measured, folds))


@dataclass(frozen=True)
class _OfEdge:
    """The examples to which an edge applies: the fold of each, and the mean number of keys that are cut off."""

    edge: Edge
    folds: np.ndarray
    n_keys: float
    n_folds: int
    least: int
    said: str

    def scores(self, suffix: str, table: np.ndarray) -> Iterator[Score]:
        """One score for each centre block, a column of ``table``, float64 (examples, L)."""
        for layer in range(table.shape[1]):
            found = self._estimate(table[:, layer])
            yield Score(
                metric=KNOCKOUT,
                estimator=f"{self.edge.name}{suffix}",
                stream=None,
                modality=cast(Modality, _MODALITY_OF.get(self.edge.keys, "joint")),
                tokens="all",
                layer=layer,
                value=found.value,
                stderr=found.stderr,
                n_tokens=found.n_tokens,
                n_examples=found.n_examples,
                flags=found.flags,
                reason=found.reason,
                replicates=rounded(found.replicates, found.stderr, self.n_folds),
            )

    def _estimate(self, values: np.ndarray) -> Estimate:
        there = ~np.isnan(values)  # examples without choices have no letter
        values, folds = values[there], self.folds[there]
        n, flags = len(values), (f"keys={self.n_keys:g}",)
        if n < self.least:
            reason = f"{self.said} count and have both ends of the edge, and an error by picture takes {self.least}"
            return Estimate(None, None, n, n, flags, f"too few examples: {reason}")

        def mean(left_out: int | None) -> float:
            kept = values[folds != left_out]
            if not len(kept):
                raise NoValue("no example is left")
            return float(kept.mean())

        return jackknifed(mean, sorted(set(folds.tolist())), n, n, flags)
