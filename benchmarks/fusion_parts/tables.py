"""The numbers of docs/fusion.md: every table is a function of result files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import ttest_ind

from microscope_bench.metrics.record import Headline
from microscope_bench.metrics.registry import METRICS, headlines
from microscope_bench.publish.difference.differences import unpaired
from microscope_bench.publish.difference.paired import Paired, holm, paired
from microscope_bench.publish.difference.renderings import show_p
from microscope_bench.publish.escape import table
from microscope_bench.publish.summary import plus_minus, without_vocabulary
from microscope_bench.results.records import Score
from microscope_bench.results.replicates import stderr_of_sum
from microscope_bench.results.result import COMPLETE, Result
from microscope_bench.results.result_files import each_result, find_results
from microscope_bench.zoo import FUSIONS

HIDDEN, UPDATE, DIMENSION, ANISOTROPY = headlines()
REPEATED = ("llava-next", "omnifusion")
"""Fusions that were trained from three seeds."""
SEEDS = (0, 1, 2)
CONDITIONS = ("trained", "pictures shuffled", "untrained")


@dataclass(frozen=True)
class Curve:
    """Scores over the layers; ``compared`` leaves out a boundary 0 of too few distinct tokens, which has no value."""

    rows: Sequence[Score]
    compared: Sequence[Score]

    @property
    def mean(self) -> tuple[float, float]:
        """Over the layers that compare, with its standard error."""
        return self._sum(self.compared, [1 / len(self.compared)] * len(self.compared))

    @property
    def change(self) -> tuple[float, float]:
        """Last minus first, with its standard error."""
        return self._sum([self.rows[0], self.rows[-1]], [-1.0, 1.0])

    def _sum(self, rows: Sequence[Score], weights: Sequence[float]) -> tuple[float, float]:
        value = math.fsum(
            w * (math.nan if row.value is None else row.value) for w, row in zip(weights, rows, strict=True)
        )
        return value, stderr_of_sum(rows, weights) or math.nan


class Experiment:
    """All results of one task, by model and control, on the same questions under the same protocol.

    Args:
        root: directory of result files.
        task: name of the task.

    Raises:
        ValueError: two results of one model and control, or results that do not compare.
    """

    def __init__(self, root: Path, task: str = "shapesqa") -> None:
        self._found: dict[tuple[str, str | None], Result] = {}
        for path, result in each_result(find_results(root)):
            if result.identity.task.name != task or result.status != COMPLETE:
                continue
            key = (result.identity.model.name, result.identity.model.control)
            if key in self._found:
                raise ValueError(f"{path}: a second result of {key}")
            self._found[key] = result
        conditions = {
            (r.identity.protocol, r.identity.dataset.revision, r.identity.example_ids_sha256)
            for r in self._found.values()
        }
        if len(conditions) > 1:
            raise ValueError(
                f"{root}: the results on {task} are of {len(conditions)} kinds of protocol, data or questions"
            )

    def result(self, model: str, control: str | None = None) -> Result:
        """The result of a model, or of a control of it.

        Raises:
            ValueError: there is none.
        """
        if (model, control) not in self._found:
            raise ValueError(
                f"no result of {model}{f' under {control}' if control else ''}; the page says how to run it"
            )
        return self._found[model, control]

    def under(self, fusion: str, condition: str) -> Result:
        """The result of a model of seed 0 in one of :data:`CONDITIONS`."""
        if condition == "untrained":
            return self.result(f"zoo-{fusion}-untrained")
        return self.result(f"zoo-{fusion}", "shuffled_image" if condition == "pictures shuffled" else None)

    def seed(self, fusion: str, seed: int) -> Result:
        """The result of a trained model of any seed."""
        return self.result(f"zoo-{fusion}" + (f"-seed{seed}" if seed else ""))


def curve(result: Result, headline: Headline, modality: str, estimator: str | None = None) -> Curve:
    """A series over all layers.

    Raises:
        ValueError: a layer has no value or no replicates.
    """
    rows = result.series(headline.metric, estimator or headline.estimator, headline.stream, modality)
    compared = without_vocabulary(rows)
    if not compared or any(row.value is None or not row.replicates for row in compared):
        raise ValueError(f"{result.identity.model.name}: {headline.title} of {modality} is not complete")
    return Curve(rows, compared)


def accuracy(experiment: Experiment) -> str:
    """Accuracy of every model in every condition."""
    rows = []
    for fusion in FUSIONS:
        cells = []
        for condition in CONDITIONS:
            scored = experiment.under(fusion, condition).accuracy
            assert scored is not None and scored.value is not None and scored.stderr is not None
            cells.append(plus_minus(scored.value, scored.stderr))
        rows.append([fusion, str(experiment.under(fusion, "trained").inputs.n_examples), *cells])
    return table(["fusion", "questions", *CONDITIONS], rows)


def means(experiment: Experiment, headlines: Sequence[Headline], modalities: Sequence[str]) -> str:
    """Mean over the layers of several metrics, each model in every condition."""
    rows = []
    for fusion in FUSIONS:
        for condition in CONDITIONS:
            result = experiment.under(fusion, condition)
            cells = [plus_minus(*curve(result, h, m).mean) for h in headlines for m in modalities]
            rows.append([fusion if condition == CONDITIONS[0] else "", condition, *cells])
    return table(["fusion", "condition", *(f"{h.title}, {m}" for h in headlines for m in modalities)], rows)


def identity_baseline(experiment: Experiment) -> str:
    """How much of the next layer's variance is explained by doing nothing, beside the linear map."""
    rows = []
    for fusion in FUSIONS:
        result = experiment.under(fusion, "trained")
        cells = []
        for modality in ("text", "image"):
            cells += [plus_minus(*curve(result, HIDDEN, modality, e).mean) for e in ("cross_fitted", "identity")]
        rows.append([fusion, *cells])
    return table(["fusion", "text, linear map", "text, identity", "image, linear map", "image, identity"], rows)


def by_layer(experiment: Experiment, headline: Headline, modality: str) -> str:
    """One metric layer by layer: all trained models and seeds, then both controls."""
    rows = []
    for fusion in FUSIONS:
        for seed in SEEDS if fusion in REPEATED else SEEDS[:1]:
            named = f"{fusion}, seed {seed}" if fusion in REPEATED else fusion
            rows.append(_layers(named, curve(experiment.seed(fusion, seed), headline, modality)))
    for condition in CONDITIONS[1:]:
        for fusion in FUSIONS:
            shown = curve(experiment.under(fusion, condition), headline, modality)
            rows.append(_layers(f"{fusion}, {condition}", shown))
    n_layers = len(rows[0]) - 2
    between = METRICS.get(headline.metric).between
    columns = [f"{layer}→{layer + 1}" if between else str(layer) for layer in range(n_layers)]
    return table(["model", *columns, "last − first"], rows)


def _layers(name: str, shown: Curve) -> list[str]:
    cells = ["–" if row.value is None else plus_minus(row.value, row.stderr or math.nan) for row in shown.rows]
    return [name, *cells, plus_minus(*shown.change)]


def seeds(experiment: Experiment) -> str:
    """Two fusions, three seeds each: whether they differ by more than other questions and other seeds would make them.

    The p-value over questions is that of the paired difference of the two means over seeds, the p-value over seeds
    Student's with 4 degrees of freedom; both are adjusted for the rows of the table (Holm).
    """
    compared = [
        (HIDDEN, "image", "mean"),
        (UPDATE, "image", "mean"),
        (HIDDEN, "image", "change"),
        (UPDATE, "image", "change"),
        (DIMENSION, "image", "mean"),
        (DIMENSION, "image", "change"),
        (ANISOTROPY, "image", "mean"),
        (HIDDEN, "text", "mean"),
        (UPDATE, "text", "mean"),
        (ANISOTROPY, "text", "mean"),
    ]
    found = [_between(experiment, *row) for row in compared]
    of_questions, of_seeds = (holm([one[place] for one in found]) for place in (1, 2))
    rows = []
    for (headline, modality, what), (paired_one, _, _, values), *p in zip(
        compared, found, of_questions, of_seeds, strict=True
    ):
        first, second = values
        spread = math.sqrt((np.var(first, ddof=1) + np.var(second, ddof=1)) / 2)
        cells = [", ".join(f"{value:.3f}" for value in of_fusion) for of_fusion in values]
        named = f"{headline.title}, {modality}: {'mean' if what == 'mean' else 'last − first'}"
        difference = plus_minus(paired_one.difference, paired_one.stderr)
        rows.append([named, *cells, difference, f"{spread:.3f}", *map(show_p, p)])
    columns = ["quantity", *(f"{fusion}, seeds 0, 1, 2" for fusion in REPEATED)]
    p_columns = ["p, other questions", "p, other seeds"]
    return table([*columns, "difference of the means", "sd between seeds", *p_columns], rows)


def _between(
    experiment: Experiment, headline: Headline, modality: str, what: str
) -> tuple[Paired, float, float, list[list[float]]]:
    """The second fusion minus the first over all seeds, its p over questions and over seeds, and each seed's value."""
    values: list[list[float]] = []
    scores: list[list[Score]] = []
    weights: list[list[float]] = []
    for fusion in REPEATED:
        results = [experiment.seed(fusion, seed) for seed in SEEDS]
        values.append([getattr(curve(result, headline, modality), what)[0] for result in results])
        rows = [result.series(headline.metric, headline.estimator, headline.stream, modality) for result in results]
        kept = [without_vocabulary(of) if what == "mean" else [of[0], of[-1]] for of in rows]
        scores.append([row for of in kept for row in of])
        each = ([1 / len(of)] * len(of) if what == "mean" else [-1.0, 1.0] for of in kept)
        weights.append([weight / len(SEEDS) for of in each for weight in of])
        for result in results:
            if problem := unpaired(experiment.seed(REPEATED[0], 0), result):
                raise ValueError(f"{result.identity.model.name}: {problem}")
    found = paired(scores[1], scores[0], (weights[1], weights[0]))
    return found, found.p, float(ttest_ind(values[1], values[0]).pvalue), values


def accuracy_by_seed(experiment: Experiment) -> str:
    """Accuracy of the models that were trained three times."""
    rows = []
    for fusion in REPEATED:
        cells = []
        for seed in SEEDS:
            scored = experiment.seed(fusion, seed).accuracy
            assert scored is not None and scored.value is not None and scored.stderr is not None
            cells.append(plus_minus(scored.value, scored.stderr))
        rows.append([fusion, *cells])
    return table(["fusion", *(f"seed {seed}" for seed in SEEDS)], rows)


def science(experiment: Experiment) -> str:
    """The four metrics on real pictures and foreign words, trained beside untrained."""
    rows = []
    for fusion in FUSIONS:
        for condition in ("trained", "untrained"):
            result = experiment.under(fusion, condition)
            cells = [
                plus_minus(*curve(result, headline, "image").mean)
                for headline in (HIDDEN, UPDATE, DIMENSION, ANISOTROPY)
            ]
            rows.append([fusion if condition == "trained" else "", condition, *cells])
    return table(["fusion", "condition", *(h.title for h in (HIDDEN, UPDATE, DIMENSION, ANISOTROPY))], rows)
