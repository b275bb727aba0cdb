"""The numbers of docs/interpreting.md: every one is a function of result files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.fusion_parts.tables import CONDITIONS, Experiment
from microscope_bench.metrics.linearity_metric import ESTIMATORS
from microscope_bench.publish.escape import table
from microscope_bench.results.records import Score
from microscope_bench.results.result import Result
from microscope_bench.zoo import FUSIONS

Series = tuple[str, str, str | None]
"""Metric, estimator, stream."""
HIDDEN: Series = ("linearity", "cross_fitted", "hidden")
UPDATE: Series = ("linearity", "cross_fitted", "update")
HEADLINE_DIMENSION: Series = ("intrinsic_dimension", "twonn_discard10", None)
LINEARITY: tuple[Series, ...] = tuple(
    ("linearity", estimator, stream)
    for stream in ("hidden", "update")
    for estimator in ESTIMATORS
    if (estimator, stream) != ("identity", "update")
)
DIMENSION: tuple[Series, ...] = (
    HEADLINE_DIMENSION,
    ("intrinsic_dimension", "twonn_mle", None),
    ("intrinsic_dimension", "twonn_regression20", None),
)
ANISOTROPY: tuple[Series, ...] = (("anisotropy", "top_share", None),)
FURTHER: tuple[Series, ...] = (
    ("intrinsic_dimension_by_scale", "gride_1", None),
    ("intrinsic_dimension_by_scale", "gride_4", None),
    ("intrinsic_dimension_by_scale", "gride_16", None),
    ("intrinsic_dimension_within_examples", "twonn_discard10", None),
    ("intrinsic_dimension_fit", "ks_distance", None),
    ("participation_ratio", "covariance", None),
    ("effective_rank", "covariance", None),
    ("isoscore", "covariance", None),
    ("cka", "linear", None),
    ("cka", "debiased", None),
)
AGAINST_TEXT: tuple[Series, ...] = (
    ("modality_gap", "unit", None),
    ("modality_gap", "raw", None),
    ("modality_gap", "scaled", None),
    ("cosine_alignment", "all_pairs", None),
    ("cosine_alignment", "same_example", None),
    ("cosine_alignment", "mean_vectors", None),
    ("subspace_overlap", "k1", None),
    ("subspace_overlap", "k10", None),
    ("mir", "exact", None),
)
MODALITIES = ("text", "image")
TRAINING = ("trained", "untrained")


def render_values(results: Path) -> dict[str, str]:
    """Name of a place in page.md → what stands there."""
    shapes, science = Experiment(results), Experiment(results, "scienceqa_img")
    return {
        "linearity": ranges(shapes, LINEARITY, MODALITIES, CONDITIONS),
        "dimension": ranges(shapes, DIMENSION, MODALITIES, CONDITIONS),
        "anisotropy": ranges(shapes, ANISOTROPY, MODALITIES, CONDITIONS),
        "few_examples": ranges(science, LINEARITY[:7], MODALITIES, TRAINING),
        "further": ranges(science, FURTHER, MODALITIES, TRAINING),
        "against_text": ranges(science, AGAINST_TEXT, ("image",), TRAINING),
        **counts(shapes),
        **sizes(shapes, "shapes"),
        **sizes(science, "science"),
    }


def mean(result: Result, series: Series, modality: str) -> float | None:
    """The mean over the layers, or None where a layer has no value; one of too few distinct tokens is not in it."""
    rows = result.series(*series, modality)
    values = [row.value for row in rows if not any(flag.startswith("few_distinct") for flag in row.flags)]
    return None if not values or None in values else sum(v for v in values if v is not None) / len(values)


def ranges(experiment: Experiment, rows: Iterable[Series], modalities: Sequence[str], conditions: Sequence[str]) -> str:
    """For every series the least and the greatest mean over the layers among the five models, by condition."""
    lines = []
    for series in rows:
        for modality in modalities:
            cells = [_range(_means(experiment, series, modality, condition)) for condition in conditions]
            name = ", ".join(part for part in (series[0].replace("_", " "), series[2]) if part)
            lines.append([name, f"`{series[1]}`", modality, *cells])
    return table(["metric", "estimator", "modality", *conditions], lines)


def _means(experiment: Experiment, series: Series, modality: str, condition: str) -> list[float | None]:
    return [mean(experiment.under(fusion, condition), series, modality) for fusion in FUSIONS]


def _range(values: Sequence[float | None]) -> str:
    """Least and greatest; a model that has no value is counted, not left out in silence."""
    there = [value for value in values if value is not None]
    missing = f" (none in {len(values) - len(there)})" if len(there) < len(values) else ""
    if not there:
        return "–"
    return f"{number(min(there))} to {number(max(there))}{missing}"


def number(value: float) -> str:
    """Three digits, or three decimals where that is fewer.

    >>> number(0.98712), number(789.955), number(12.08), number(-0.0021)
    ('0.987', '790', '12.1', '-0.002')
    """
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.3g}"


def counts(experiment: Experiment) -> dict[str, str]:
    """In how many of the five models something holds."""

    def untrained_higher(series: Series, modality: str) -> str:
        return _count(
            lambda f: (
                _of(experiment, f, "untrained", series, modality) > _of(experiment, f, "trained", series, modality)
            )
        )

    def unmoved(fusion: str) -> bool:
        kinds = (experiment.under(fusion, condition) for condition in ("trained", "pictures shuffled"))
        series = (kind.series("linearity", "in_sample", "hidden", "image") for kind in kinds)
        first, second = ([row.value or 0.0 for row in rows] for rows in series)
        return all(abs(a - b) < 1e-6 for a, b in zip(first, second, strict=True))

    every = [experiment.under(fusion, condition) for fusion in FUSIONS for condition in CONDITIONS]
    return {
        "n_models": str(len(FUSIONS)),
        "untrained_hidden_text": untrained_higher(HIDDEN, "text"),
        "untrained_hidden_image": untrained_higher(HIDDEN, "image"),
        "untrained_update_text": untrained_higher(UPDATE, "text"),
        "untrained_update_image": untrained_higher(UPDATE, "image"),
        "untrained_dimension_text": untrained_higher(HEADLINE_DIMENSION, "text"),
        "untrained_dimension_image": untrained_higher(HEADLINE_DIMENSION, "image"),
        "untrained_anisotropy_text": untrained_higher(ANISOTROPY[0], "text"),
        "untrained_anisotropy_image": untrained_higher(ANISOTROPY[0], "image"),
        "unmoved_by_shuffling": _count(unmoved),
        "sinks": _sinks(every),
    }


def _sinks(results: Sequence[Result]) -> str:
    found = sum(entry.n_sinks for result in results for entry in result.sinks)
    told = "none, so nothing on this page shows one" if not found else f"{found}, and every table here holds them"
    return f"The results on\nshapesqa ({len(results)}, of all three conditions) have {told}."


def _of(experiment: Experiment, fusion: str, condition: str, series: Series, modality: str) -> float:
    value = mean(experiment.under(fusion, condition), series, modality)
    if value is None:
        raise ValueError(f"{fusion}, {condition}: {series} of {modality} is not complete")
    return value


def _count(holds: Callable[[str], bool]) -> str:
    return f"{sum(holds(fusion) for fusion in FUSIONS)} of {len(FUSIONS)}"


def sizes(experiment: Experiment, name: str) -> dict[str, str]:
    """Of the trained models on one task: sizes, copies, and how far estimators are apart."""
    results = [experiment.under(fusion, "trained") for fusion in FUSIONS]
    clouds = {m: [row for r in results for row in r.series(*HEADLINE_DIMENSION, m)] for m in MODALITIES}
    inflation = [
        (mean(r, ("linearity", "in_sample", "update"), m) or 0.0) - (mean(r, UPDATE, m) or 0.0)
        for r in results
        for m in MODALITIES
    ]
    three = [[mean(r, series, m) or float("nan") for series in DIMENSION] for r in results for m in MODALITIES]
    return {
        f"{name}_tokens_by_d": _numbers(
            row.n_tokens / r.identity.model.hidden_size
            for r in results
            for m in MODALITIES
            for row in r.series(*UPDATE, m)
        ),
        f"{name}_examples_by_d": _numbers(
            row.n_examples / r.identity.model.hidden_size
            for r in results
            for m in MODALITIES
            for row in r.series(*UPDATE, m)
        ),
        f"{name}_inflation": f"{min(inflation):.3f} to {max(inflation):.3f}",
        f"{name}_apart": f"{max(max(row) / min(row) for row in three):.2f}",
        f"{name}_copies_text": _copies(clouds["text"]),
        f"{name}_copies_image": _copies(clouds["image"]),
        f"{name}_words": _numbers((row.n_tokens for row in clouds["text"] if row.layer == 0), whole=True),
    }


def _copies(rows: Iterable[Score]) -> str:
    """The largest share of copies from boundary 1 on; a row without the flag has none."""
    flags = [flag.partition("=") for row in rows if row.layer >= 1 for flag in row.flags]
    return f"up to {max((float(share) for name, _, share in flags if name == 'duplicates'), default=0.0):.3f}"


def _numbers(values: Iterable[float], whole: bool = False) -> str:
    ordered = sorted(values)
    low, high = (f"{value:,.0f}" if whole or value >= 10 else f"{value:.1f}" for value in (ordered[0], ordered[-1]))
    return low if low == high else f"{low} to {high}"
