"""The built-in metrics, described. Describing them imports no torch; computing them does."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from microscope_bench.metrics.record import WIDTH, EstimatorScore, Headline, Metric, ToleranceByDtype

if TYPE_CHECKING:
    from microscope_bench.metrics.core.cloud import Cloud


def scores_of(module: str, function: str = "scores") -> Callable[[Cloud], Iterable[EstimatorScore]]:
    """A function of a module in this folder, imported when it is first called."""

    def scores(cloud: Cloud) -> Iterable[EstimatorScore]:
        found: Iterable[EstimatorScore] = getattr(importlib.import_module(f"{__package__}.{module}"), function)(cloud)
        return found

    return scores


LINEARITY = Metric(
    name="linearity",
    version=1,
    title="linearity",
    explanation="share of the variance at the next boundary (or of the update) that one linear map explains",
    estimators=("in_sample", "adjusted", "held_out", "identity", "in_sample_permuted", "held_out_permuted"),
    streams=("hidden", "update", "mainflow"),
    scores=scores_of("linear_fit"),
    headlines=(
        Headline(
            estimator="held_out",
            stream="hidden",
            title="linearity (hidden)",
            explanation="share of the variance of the next layer's hidden states that one linear map of this layer's "
            "explains, on examples it was not fitted on (held-out R²; 1 = linear)",
            extreme="min",
            in_report="Share of the next boundary's variance that one linear map explains, on examples it was not "
            "fitted on (held-out R²; 1 = linear). The skip connection alone makes it high.",
        ),
        Headline(
            estimator="held_out",
            stream="update",
            title="linearity (update)",
            explanation="the same for what the block adds to the stream; lower by nature, since the skip connection is "
            "taken out",
            extreme="min",
            in_report="The same of what the block adds to the stream; lower by nature.",
        ),
    ),
    compares="next",
    unit="share of variance",
    high=1,  # of every R²; only a map that was fitted on what it is scored on cannot be worse than the mean
    estimator_ranges={"in_sample": (0, 1), "in_sample_permuted": (0, 1)},
    tolerance=ToleranceByDtype("0.0001", "0.001", "0.005"),
    cited_as="held-out R² of one linear map from a layer to the next, streams hidden and update",
    axis_floor=-1.0,  # a single massive activation can take held-out linearity to minus thousands
    cautions={
        "few_tokens": "fewer than 16 tokens per dimension: held-out linearity is a lower bound",
        "few_examples": "fewer than 4 examples per dimension: held-out linearity is a lower bound",
    },
)

ANISOTROPY = Metric(
    name="anisotropy",
    version=1,
    title="anisotropy",
    explanation="share of the variance along the single widest direction",
    estimators=("top_share",),
    scores=scores_of("spectrum"),
    headlines=(
        Headline(
            estimator="top_share",
            title="anisotropy",
            explanation="share of the variance along the single widest direction (1 = a line)",
            extreme="max",
            in_report="Share of the variance along the single widest direction (1 = a line).",
        ),
    ),
    unit="share of variance",
    low=0,
    high=1,
    tolerance=ToleranceByDtype("0.0001", "0.0002", "0.001"),
    cited_as="share of the variance along the first principal axis",
)

_TWONN_TOLERANCE = ToleranceByDtype("0.1%", "8%", "8%")
_DIMENSION_TOLERANCE = ToleranceByDtype("0.1%", "12%", "12%")

INTRINSIC_DIMENSION = Metric(
    name="intrinsic_dimension",
    version=1,
    title="intrinsic dimension",
    explanation="number of directions in which the cloud extends locally (TwoNN); high dimensions are underestimated",
    estimators=("twonn_mle", "twonn_regression20", "twonn_discard10"),
    scores=scores_of("two_nn"),
    headlines=(
        Headline(
            estimator="twonn_discard10",
            title="intrinsic dimension",
            explanation="how many directions the tokens locally extend in (TwoNN on the lowest nine tenths of the "
            "distance ratios), on as many distinct tokens (n) as every modality has; high dimensions are "
            "underestimated, the more so the smaller n: compare values of one n only",
            extreme="max",
            in_report="How many directions the tokens locally extend in (TwoNN). High dimensions are underestimated, "
            "and the estimate rises with n: compare values of one n only.",
        ),
    ),
    unit="dimensions",
    low=0,
    tolerance=_TWONN_TOLERANCE,
    estimator_tolerances={
        "twonn_mle": ToleranceByDtype("0.1%", "30%", "30%"),
        "twonn_regression20": _DIMENSION_TOLERANCE,
    },
    cited_as="TwoNN, estimator twonn_discard10",
    drops_copies=True,
    cautions={
        "unmatched_n": "intrinsic dimension of some layers is of fewer distinct tokens than elsewhere in the run; "
        "those of less than half as many as the others are left out of mean and extreme"
    },
    half_precision="rounding of a half type raises intrinsic dimension at the scale of the nearest neighbours",
    neighbours=2,
)

INTRINSIC_DIMENSION_BY_SCALE = Metric(
    name="intrinsic_dimension_by_scale",
    version=1,
    title="intrinsic dimension by scale",
    explanation="intrinsic dimension from the k-th and 2k-th neighbour (GRIDE): the larger k, the coarser the view",
    estimators=tuple(f"gride_{k}" for k in (1, 2, 4, 8, 16, 32, 64)),
    scores=scores_of("scale"),
    unit="dimensions",
    low=0,
    tolerance=_DIMENSION_TOLERANCE,
    estimator_tolerances={"gride_1": ToleranceByDtype("0.1%", "30%", "30%")},
    drops_copies=True,
    neighbours=128,
)

INTRINSIC_DIMENSION_FIT = Metric(
    name="intrinsic_dimension_fit",
    version=1,
    title="distance from the Pareto law",
    explanation="distance of the neighbour ratios from the Pareto law that TwoNN assumes; 0 is a perfect fit",
    estimators=("ks_distance",),
    scores=scores_of("pareto_fit"),
    unit="Kolmogorov-Smirnov distance",
    low=0,
    high=1,
    tolerance=ToleranceByDtype("0.0001", "0.08", "0.08"),
    drops_copies=True,
    neighbours=2,
)

INTRINSIC_DIMENSION_BY_N = Metric(
    name="intrinsic_dimension_by_n",
    version=1,
    title="intrinsic dimension by number of tokens",
    explanation="twonn_discard10 on samples of 256 to 8,192 tokens: how far the value still moves with their number",
    estimators=tuple(f"n{n}" for n in (256, 512, 1024, 2048, 4096, 8192)),
    scores=scores_of("sample_size"),
    unit="dimensions",
    low=0,
    tolerance=_DIMENSION_TOLERANCE,
    drops_copies=True,
    neighbours=2,
)

INTRINSIC_DIMENSION_ACROSS_EXAMPLES = Metric(
    name="intrinsic_dimension_across_examples",
    version=1,
    title="intrinsic dimension across examples",
    explanation="TwoNN with the neighbours of a token looked for in other examples only",
    estimators=("twonn_mle", "twonn_regression20", "twonn_discard10"),
    scores=scores_of("two_nn", "scores_across_examples"),
    unit="dimensions",
    low=0,
    tolerance=_TWONN_TOLERANCE,
    estimator_tolerances={
        "twonn_mle": ToleranceByDtype("0.1%", "40%", "40%"),
        "twonn_regression20": _DIMENSION_TOLERANCE,
    },
    drops_copies=True,
    neighbours=128,
)

PARTICIPATION_RATIO = Metric(
    name="participation_ratio",
    version=1,
    title="participation ratio",
    explanation="number of directions that carry the variance: 1 / sum of the squared variance shares",
    estimators=("covariance",),
    scores=scores_of("spectrum", "participation_ratio_scores"),
    unit="dimensions",
    low=1,
    high=WIDTH,
)

EFFECTIVE_RANK = Metric(
    name="effective_rank",
    version=1,
    title="effective rank",
    explanation="number of directions that carry the variance: exponential of the entropy of the variance shares",
    estimators=("covariance",),
    scores=scores_of("spectrum", "effective_rank_scores"),
    unit="dimensions",
    low=1,
    high=WIDTH,
)

ISOSCORE = Metric(
    name="isoscore",
    version=1,
    title="IsoScore",
    explanation="how evenly the variance spreads over all d directions: 0 a line, 1 the same in all of them",
    estimators=("covariance",),
    scores=scores_of("spectrum", "isoscore_scores"),
    unit="share",
    low=0,
    high=1,
)

CKA = Metric(
    name="cka",
    version=1,
    title="CKA",
    explanation="similarity of the tokens' pairwise similarities at boundary l and at the next (linear CKA)",
    estimators=("linear", "debiased"),
    scores=scores_of("kernel_alignment"),
    compares="next",
    unit="similarity",
    low=0,
    high=1,
    estimator_ranges={"debiased": (-1, 1)},
)

MODALITY_GAP = Metric(
    name="modality_gap",
    version=1,
    title="modality gap",
    explanation="distance between the centre of a modality's tokens and that of the text tokens",
    estimators=("unit", "raw", "scaled"),
    scores=scores_of("gap"),
    headlines=(
        Headline(
            estimator="unit",
            title="modality gap (unit)",
            explanation="Distance between the centres of a modality's tokens and of text tokens, all scaled to length "
            "1.",
            extreme="max",
            in_tables=False,
        ),
    ),
    compares="text",
    unit="distance",
    low=0,
    estimator_ranges={"unit": (0, 2)},
)

COSINE_ALIGNMENT = Metric(
    name="cosine_alignment",
    version=1,
    title="cosine alignment",
    explanation="mean cosine between a modality's tokens and the text tokens",
    estimators=("all_pairs", "same_example", "mean_vectors"),
    scores=scores_of("cosine"),
    compares="text",
    unit="cosine",
    low=-1,
    high=1,
)

SUBSPACE_OVERLAP = Metric(
    name="subspace_overlap",
    version=1,
    title="subspace overlap",
    explanation="share of the widest k directions of a modality's tokens that are also those of the text tokens",
    estimators=("k1", "k10"),
    scores=scores_of("overlap"),
    compares="text",
    unit="share of directions",
    low=0,
    high=1,
)

MIR = Metric(
    name="mir",
    version=1,
    title="MIR",
    explanation="Frechet distance between a modality's tokens and the text tokens (a term of the rate, before its log)",
    estimators=("exact", "mir_fast_compat"),
    scores=scores_of("frechet"),
    compares="text",
    unit="squared distance",
    low=0,
    estimator_ranges={"mir_fast_compat": (-math.inf, math.inf)},
)
