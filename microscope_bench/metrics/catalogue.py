"""The built-in metrics, described. Describing them imports no torch; computing them does."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from microscope_bench.metrics.registry import EstimatorScore, Metric

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
    description="share of the variance at the next boundary (or of the update) that one linear map explains",
    headline=("held_out", "hidden"),
    estimators=("in_sample", "adjusted", "held_out", "identity", "in_sample_permuted", "held_out_permuted"),
    streams=("hidden", "update", "mainflow"),
    scores=scores_of("linear_fit"),
)

ANISOTROPY = Metric(
    name="anisotropy",
    version=1,
    description="share of the variance along the single widest direction",
    headline=("top_share", None),
    estimators=("top_share",),
    streams=(),
    scores=scores_of("spectrum"),
)

INTRINSIC_DIMENSION = Metric(
    name="intrinsic_dimension",
    version=3,
    description="number of directions in which the cloud extends locally (TwoNN); high dimensions are underestimated",
    headline=("twonn_discard10", None),
    estimators=("twonn_mle", "twonn_regression20", "twonn_discard10"),
    streams=(),
    scores=scores_of("two_nn"),
    neighbours=2,
)

INTRINSIC_DIMENSION_BY_SCALE = Metric(
    name="intrinsic_dimension_by_scale",
    version=2,
    description="intrinsic dimension from the k-th and 2k-th neighbour (GRIDE): the larger k, the coarser the view",
    headline=("gride_8", None),
    estimators=tuple(f"gride_{k}" for k in (1, 2, 4, 8, 16, 32, 64)),
    streams=(),
    scores=scores_of("scale"),
    neighbours=128,
)

INTRINSIC_DIMENSION_FIT = Metric(
    name="intrinsic_dimension_fit",
    version=2,
    description="distance of the neighbour ratios from the Pareto law that TwoNN assumes; 0 is a perfect fit",
    headline=("ks_distance", None),
    estimators=("ks_distance",),
    streams=(),
    scores=scores_of("pareto_fit"),
    neighbours=2,
)

INTRINSIC_DIMENSION_BY_N = Metric(
    name="intrinsic_dimension_by_n",
    version=2,
    description="twonn_discard10 on samples of 256 to 8,192 tokens: how far the value still moves with their number",
    headline=("n4096", None),
    estimators=tuple(f"n{n}" for n in (256, 512, 1024, 2048, 4096, 8192)),
    streams=(),
    scores=scores_of("sample_size"),
    neighbours=2,
)

INTRINSIC_DIMENSION_ACROSS_EXAMPLES = Metric(
    name="intrinsic_dimension_across_examples",
    version=2,
    description="TwoNN with the neighbours of a token looked for in other examples only",
    headline=("twonn_discard10", None),
    estimators=("twonn_mle", "twonn_regression20", "twonn_discard10"),
    streams=(),
    scores=scores_of("two_nn", "scores_across_examples"),
    neighbours=128,
)

PARTICIPATION_RATIO = Metric(
    name="participation_ratio",
    version=1,
    description="number of directions that carry the variance: 1 / sum of the squared variance shares",
    headline=("covariance", None),
    estimators=("covariance",),
    streams=(),
    scores=scores_of("spectrum", "participation_ratio_scores"),
)

EFFECTIVE_RANK = Metric(
    name="effective_rank",
    version=1,
    description="number of directions that carry the variance: exponential of the entropy of the variance shares",
    headline=("covariance", None),
    estimators=("covariance",),
    streams=(),
    scores=scores_of("spectrum", "effective_rank_scores"),
)

ISOSCORE = Metric(
    name="isoscore",
    version=1,
    description="how evenly the variance spreads over all d directions: 0 a line, 1 the same in all of them",
    headline=("covariance", None),
    estimators=("covariance",),
    streams=(),
    scores=scores_of("spectrum", "isoscore_scores"),
)

CKA = Metric(
    name="cka",
    version=1,
    description="similarity of the tokens' pairwise similarities at boundary l and at the next (linear CKA)",
    headline=("debiased", None),
    estimators=("linear", "debiased"),
    streams=(),
    scores=scores_of("kernel_alignment"),
)

MODALITY_GAP = Metric(
    name="modality_gap",
    version=1,
    description="distance between the centre of a modality's tokens and that of the text tokens",
    headline=("unit", None),
    estimators=("unit", "raw", "scaled"),
    streams=(),
    scores=scores_of("gap"),
)

COSINE_ALIGNMENT = Metric(
    name="cosine_alignment",
    version=1,
    description="mean cosine between a modality's tokens and the text tokens",
    headline=("all_pairs", None),
    estimators=("all_pairs", "same_example", "mean_vectors"),
    streams=(),
    scores=scores_of("cosine"),
)

SUBSPACE_OVERLAP = Metric(
    name="subspace_overlap",
    version=1,
    description="share of the widest k directions of a modality's tokens that are also those of the text tokens",
    headline=("k10", None),
    estimators=("k1", "k10"),
    streams=(),
    scores=scores_of("overlap"),
)

MIR = Metric(
    name="mir",
    version=1,
    description="Frechet distance between a modality's tokens and the text tokens (a term of the rate, before its log)",
    headline=("exact", None),
    estimators=("exact", "mir_fast_compat"),
    streams=(),
    scores=scores_of("frechet"),
)
