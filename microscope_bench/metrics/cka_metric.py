"""Linear CKA between boundaries l and l + 1: how much of the pairwise similarity of tokens a block leaves as it was."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from microscope_bench.metrics import core
from microscope_bench.metrics.core.estimate import Estimate
from microscope_bench.metrics.core.jackknife import jackknifed, non_finite
from microscope_bench.metrics.record import EstimatorScore, Metric

ESTIMATORS = ("linear", "debiased")


def cka(x: core.Array, y: core.Array, estimator: str = "debiased", groups: core.Groups | None = None) -> Estimate:
    """How much of the pairwise similarity of tokens at one boundary is there again at the next: linear CKA.

    With X, Y centred by column and C_xy = XᵀY:

    - ``linear``: ‖C_xy‖²_F / (‖C_xx‖_F ‖C_yy‖_F) (Kornblith et al. 2019, arXiv 1905.00414); between 0 and 1. Biased
      upwards: unrelated clouds score not 0 but tr C_xx tr C_yy / ((N − 1) ‖C_xx‖ ‖C_yy‖), the mean over all
      permutations of the rows of Y, which is near 1 for wide isotropic clouds of few tokens. Flag ``chance=`` gives it.
    - ``debiased``: the same ratio of unbiased estimates of HSIC, in which no token is compared with itself (Song et al.
      2012, JMLR 13; Murphy et al. 2024, arXiv 2405.01012). Unrelated clouds score 0 on average, so it may be
      negative. The ratio of unbiased estimates is not quite unbiased itself, and tokens of one example are still
      compared with each other as if they were unrelated: where an example's tokens are alike at both boundaries, it
      reads high.

    Rotations and scales of either cloud change nothing. Wide directions count by the square of their variance, so a
    handful of massive activations decides either: it takes ``linear`` to 1, and ``debiased`` to whatever those few
    tokens have in common with each other. ``x`` and ``y``, (N, d), need 2 tokens that differ, for
    ``debiased`` 4.

    >>> import torch
    >>> x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    >>> round(cka(x, 2 * x.roll(1, dims=1) + 3).value, 6)  # another basis, scale and origin
    1.0
    >>> other = torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    >>> score = cka(x, other, "linear")
    >>> round(score.value, 2), score.flags
    (0.11, ('chance=0.1356',))
    """
    core.arrays.known("CKA estimator", estimator, ESTIMATORS)
    cloud = core.arrays.cloud_of(core.arrays.matrix("x", x), core.arrays.matrix("y", y), groups)
    estimate = estimate_cka(cloud, (estimator,))[estimator]
    return core.arrays.required("CKA", estimate, "Give more tokens that differ, at both boundaries")


def estimate_cka(cloud: core.Cloud, estimators: tuple[str, ...] = ESTIMATORS) -> dict[str, Estimate]:
    n, n_examples = cloud.n_tokens, cloud.n_examples
    assert cloud.next is not None
    if bad := cloud.moments.non_finite:
        return dict.fromkeys(estimators, non_finite(bad, n, n_examples))
    if n < 2:
        null = Estimate(None, None, n, n_examples, (), f"CKA needs at least 2 tokens, got {n}")
        return dict.fromkeys(estimators, null)
    found = core.kernel_alignment.Alignments(cloud, cloud.next)
    of_all = found.of[None]
    flags = {} if of_all is None else {"linear": (f"chance={of_all.chance:.4f}",)}
    occupied = cloud.moments.occupied
    return {
        name: jackknifed(partial(found.outcome, name), occupied, n, n_examples, flags.get(name, ()))
        for name in estimators
    }


def scores(cloud: core.Cloud) -> Iterator[EstimatorScore]:
    if cloud.next is not None:
        for name, estimate in estimate_cka(cloud).items():
            yield name, None, estimate


CKA = Metric(
    name="cka",
    version=1,
    title="CKA",
    explanation="similarity of the tokens' pairwise similarities at boundary l and at the next (linear CKA)",
    estimators=ESTIMATORS,
    scores=scores,
    compares="next",
    unit="similarity",
    low=0,
    high=1,
    estimator_ranges={"debiased": (-1, 1)},
)
