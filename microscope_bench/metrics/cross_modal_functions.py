"""Public functions of the tokens of one modality beside text tokens."""

from __future__ import annotations

from collections.abc import Sequence

from microscope_bench.metrics import cosine, frechet, gap, overlap
from microscope_bench.metrics.core.arrays import Array, Groups, known, matrix, pair_of, required
from microscope_bench.metrics.core.estimate import Estimate
from microscope_bench.metrics.core.text_pair import Pair


def pair_from(x: Array, text: Array, groups: Groups | None, text_groups: Groups | None) -> Pair:
    """Two arrays as a pair of clouds in the same folds."""
    cloud = pair_of(matrix("x", x), matrix("text", text), groups, text_groups)
    assert cloud.text is not None
    return Pair(cloud, cloud.text)


def modality_gap(
    x: Array,
    text: Array,
    estimator: str = "unit",
    groups: Groups | None = None,
    text_groups: Groups | None = None,
) -> Estimate:
    """Distance between the centre of a modality's tokens and that of the text tokens.

    Liang et al. 2022 (arXiv 2203.02053) define it for the outputs of contrastive models; here the points are the tokens
    at one boundary.

    - ``unit``: ‖mean(x/‖x‖) − mean(t/‖t‖)‖, theirs; between 0 and 2. Tokens of zeros are left out (flag ``zero_norm``).
    - ``raw``: ‖x̄ − t̄‖, in the units of the states.
    - ``scaled``: ‖x̄ − t̄‖ / √((v_x + v_t)/2), v = Σ ‖x − x̄‖² / (N − 1) the total variance of a modality: in units of
      the root-mean-square distance of a token from the centre of its own modality, both modalities weighing the same.

    A norm of a difference of means is never 0: two samples of one cloud lie about √(v_x/N + v_t/M) apart.

    Args:
        x: (N, d) states of image, video or audio tokens, torch or numpy, any real dtype. Computed in float64.
        text: (M, d) states of text tokens at the same boundary.
        estimator: ``unit``, ``raw`` or ``scaled``.
        groups: (N,) the example each row of ``x`` belongs to, integers or strings.
        text_groups: (M,) the same for ``text``, by the same names; None for both: each row is its own example.

    Returns:
        Value and delete-a-group jackknife standard error, a fold of examples leaving both clouds; ``n_tokens`` counts
        both.

    Raises:
        ValueError: shapes or groups that do not fit, or an array that is not of real numbers.
        UnknownNameError: an unknown estimator.
        MetricError: no tokens of one modality, no direction or variance to be had, NaN or infinity.

    >>> import numpy as np
    >>> modality_gap(np.array([[3.0, 0.0], [5.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 5.0]]), "raw").value
    5.0
    >>> score = modality_gap(np.array([[3.0, 0.0], [5.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 5.0]]))
    >>> round(score.value, 6), score.n_tokens
    (1.414214, 4)
    """
    known("modality gap estimator", estimator, gap.ESTIMATORS)
    estimate = gap.estimate_gap(pair_from(x, text, groups, text_groups), estimator)
    return required("modality gap", estimate, "Give tokens of both modalities that are not zero and differ")


def cosine_alignment(
    x: Array,
    text: Array,
    estimator: str = "all_pairs",
    groups: Groups | None = None,
    text_groups: Groups | None = None,
) -> Estimate:
    """How far a modality's tokens point the same way as the text tokens; between −1 and 1.

    After the implicit multimodal alignment of Shukor & Cord 2024 (arXiv 2405.16700).

    - ``all_pairs``: mean cosine over all pairs of a token and a text token; ⟨mean(x/‖x‖), mean(t/‖t‖)⟩.
    - ``same_example``: the same over the pairs within one example, then the mean over the examples that have tokens of
      both (flag ``shared_examples=shared/all`` where some have not). Minus ``all_pairs`` it says what an image has in
      common with its own text more than with any.
    - ``mean_vectors``: cosine of x̄ and t̄; tokens of large norm weigh more.

    Tokens of zeros have no cosine and are left out of the first two (flag ``zero_norm=``). The states are not centred:
    one direction that all tokens share, such as a massive activation, takes all three towards 1 or −1.

    Args:
        x: (N, d) states of image, video or audio tokens, torch or numpy, any real dtype. Computed in float64.
        text: (M, d) states of text tokens at the same boundary.
        estimator: ``all_pairs``, ``same_example`` or ``mean_vectors``.
        groups: (N,) the example each row of ``x`` belongs to, integers or strings.
        text_groups: (M,) the same for ``text``, by the same names; None for both: each row is its own example.

    Returns:
        Value and delete-a-group jackknife standard error, a fold of examples leaving both clouds; ``n_tokens`` counts
        both.

    Raises:
        ValueError: shapes or groups that do not fit, or an array that is not of real numbers.
        UnknownNameError: an unknown estimator.
        MetricError: no tokens of one modality, no direction to be had, no example with both, NaN or infinity.

    >>> import numpy as np
    >>> image, text = np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [0.0, 3.0]])
    >>> cosine_alignment(image, text).value
    0.5
    >>> cosine_alignment(image, text, "same_example", groups=["a", "b"], text_groups=["a", "b"]).value
    1.0
    """
    known("cosine alignment estimator", estimator, cosine.ESTIMATORS)
    estimate = cosine.estimate_cosines(pair_from(x, text, groups, text_groups), (estimator,))[estimator]
    remedy = "Give tokens of both modalities that are not zero"
    if estimator == "same_example":
        remedy += ", and groups and text_groups that name the same examples"
    return required("cosine alignment", estimate, remedy)


def subspace_overlap(
    x: Array, text: Array, k: int = 10, groups: Groups | None = None, text_groups: Groups | None = None
) -> Estimate:
    """Share of the k widest directions of a modality's tokens that are also those of the text tokens.

    ‖U_xᵀ U_t‖²_F / k, the columns of U the first k principal axes of each cloud about its own mean: the mean squared
    cosine of the principal angles (Björck & Golub 1973; Krzanowski 1979). 1 where the two subspaces are the same, k/d
    on average for random ones (flag ``chance=k/d``). Where the k-th and the next variance are nearly equal, which
    directions are the widest is chance, and fewer tokens read nearer to k/d. For k = 1 the standard error is too
    careful: in clustered simulations it read 1.9 times the spread between data sets (for k = 10, 0.9 times).

    Args:
        x: (N, d) states of image, video or audio tokens, torch or numpy, any real dtype. Computed in float64.
        text: (M, d) states of text tokens at the same boundary.
        k: number of directions, 1 or 10, as in results (estimators ``k1`` and ``k10``).
        groups: (N,) the example each row of ``x`` belongs to, integers or strings.
        text_groups: (M,) the same for ``text``, by the same names; None for both: each row is its own example.

    Returns:
        Value and delete-a-group jackknife standard error, a fold of examples leaving both clouds; ``n_tokens`` counts
        both.

    Raises:
        ValueError: shapes or groups that do not fit, or an array that is not of real numbers.
        UnknownNameError: another k.
        MetricError: a cloud that extends in fewer than k directions, NaN or infinity.

    >>> import numpy as np
    >>> image = np.array([[5.0, 0.1], [-5.0, -0.1], [0.0, 0.3]])
    >>> round(subspace_overlap(image, image @ np.array([[0.0, 1.0], [-1.0, 0.0]]), k=1).value, 6)
    0.0
    """
    known("subspace overlap estimator", f"k{k}", overlap.ESTIMATORS)
    estimate = overlap.estimate_overlap(pair_from(x, text, groups, text_groups), f"k{k}")
    return required("subspace overlap", estimate, "Give more tokens that differ, or a smaller k")


MIR_REMEDY = "Give at least 2 tokens of each modality, the text tokens not all zero"


def mir(
    x: Array,
    text: Array,
    estimator: str = "exact",
    groups: Groups | None = None,
    text_groups: Groups | None = None,
) -> Estimate:
    """One boundary's term of the Modality Integration Rate: the Fréchet distance of two modalities' tokens.

    ‖μ_x − μ_t‖² + tr(S_x + S_t − 2 (S_x S_t)^(1/2)) (Huang et al. 2024, arXiv 2410.07167). Before, all states are
    divided by the mean norm of the text tokens, and in each modality the tokens whose norm is more than 3 standard
    deviations off the median norm are replaced by the coordinate-wise median of that modality. MIR is log₁₀ of the sum
    over the boundaries 1..L: :func:`modality_integration_rate`.

    - ``exact``: with the matrix square root. Fewer tokens read higher: two samples of N tokens of one and the same
      cloud are not at distance 0.
    - ``mir_fast_compat``: with tr(S_x S_t) in the place of tr (S_x S_t)^(1/2), which is what the default mode of the
      authors' code gives: its Newton iteration starts at a fixed point and returns its input (in float32, with the
      rounding of two matrix inversions on top). It is no distance: two equal clouds are not at 0, and it is negative
      where the states spread far. For comparison with published values only, which also read the last layer after the
      final norm.

    Scale and, up to the replaced tokens, rotation of all states together change nothing. The standard error leaves out
    whole examples after the outliers were replaced, and scales anew.

    Args:
        x: (N, d) states of image, video or audio tokens, torch or numpy, any real dtype. Computed in float64.
        text: (M, d) states of text tokens at the same boundary.
        estimator: ``exact`` or ``mir_fast_compat``.
        groups: (N,) the example each row of ``x`` belongs to, integers or strings.
        text_groups: (M,) the same for ``text``, by the same names; None for both: each row is its own example.

    Returns:
        Value and delete-a-group jackknife standard error, a fold of examples leaving both clouds; ``n_tokens`` counts
        both.

    Raises:
        ValueError: shapes or groups that do not fit, or an array that is not of real numbers.
        UnknownNameError: an unknown estimator.
        MetricError: fewer than 2 tokens of a modality, text tokens that are all zero, NaN or infinity.

    >>> import numpy as np
    >>> text = np.array([[1.0, 0.0], [-1.0, 0.0]])
    >>> round(mir(3 * text, text).value, 6)  # (3 − 1)² times the variance 2
    8.0
    """
    known("MIR estimator", estimator, frechet.ESTIMATORS)
    estimate = frechet.estimate_mir(pair_from(x, text, groups, text_groups), (estimator,))[estimator]
    return required("MIR", estimate, MIR_REMEDY)


def modality_integration_rate(
    states: Sequence[Array],
    text_states: Sequence[Array],
    estimator: str = "exact",
    groups: Groups | None = None,
    text_groups: Groups | None = None,
) -> Estimate:
    """The Modality Integration Rate: log₁₀ of the sum of :func:`mir` over the boundaries 1..L.

    Huang et al. 2024, arXiv 2410.07167. A lower rate means that the two modalities lie closer together.

    Args:
        states: L arrays (N, d), the same image, video or audio tokens at boundaries 1..L (not 0, which the authors
            leave out).
        text_states: L arrays (M, d), the text tokens.
        estimator: ``exact`` or ``mir_fast_compat``.
        groups: (N,) the example each row of ``states`` belongs to, integers or strings.
        text_groups: (M,) the same for ``text_states``, by the same names; None for both: each row is its own example.

    Returns:
        Value and delete-a-group jackknife standard error, a fold of examples leaving all boundaries at once.

    Raises:
        ValueError: no boundaries, not as many of one modality as of the other, or arrays that do not fit each other or
            the same modality at another boundary.
        UnknownNameError: an unknown estimator.
        MetricError: a boundary without a distance, or a sum that is not positive; the message names the boundary.

    >>> import numpy as np
    >>> text = np.array([[1.0, 0.0], [-1.0, 0.0]])
    >>> round(modality_integration_rate([3 * text, text], [text, text]).value, 6)  # log₁₀ (8 + 0)
    0.90309
    """
    known("MIR estimator", estimator, frechet.ESTIMATORS)
    if len(states) != len(text_states) or len(states) == 0:
        raise ValueError(
            f"states and text_states need one array per boundary, got {len(states)} and {len(text_states)} arrays"
        )
    pairs = [pair_from(x, text, groups, text_groups) for x, text in zip(states, text_states, strict=True)]
    shapes = {(pair.cloud.n_tokens, pair.text.n_tokens, pair.cloud.dim) for pair in pairs}
    if len(shapes) > 1:
        found = ", ".join(f"({n}, {d}) and ({m}, {d})" for n, m, d in sorted(shapes))
        raise ValueError(f"every boundary needs the same tokens, (N, d) and text (M, d), got {found}")
    return required("MIR", frechet.estimate_rate(pairs, estimator), MIR_REMEDY)
