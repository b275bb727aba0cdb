"""From a user's arrays to the clouds that metrics take, and from an estimate to a value or an error."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from microscope_bench.errors import MetricError, unknown_name
from microscope_bench.metrics.core.cloud import ArrayCloud
from microscope_bench.metrics.core.estimate import Estimate
from microscope_bench.metrics.core.folds import assign_folds
from microscope_bench.metrics.core.jackknife import non_finite
from microscope_bench.metrics.core.moments import usable_rows
from microscope_bench.metrics.core.text_pair import TextPair

N_FOLDS = 10
SEED = 0

Array: TypeAlias = Tensor | NDArray[Any]
Groups: TypeAlias = Tensor | NDArray[Any] | Sequence[int] | Sequence[str]


def known(kind: str, name: str, names: Iterable[str]) -> None:
    """Raises UnknownNameError with the nearest names unless ``name`` is among ``names``."""
    if name not in (listed := list(names)):
        raise unknown_name(kind, str(name), listed)


def whole(name: str, number: int) -> int:
    """A whole number, of numpy or torch too, as Python's; else a ValueError."""
    try:
        return operator.index(number)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, got {number!r}") from None


def required(metric: str, estimate: Estimate, remedy: str) -> Estimate:
    """The estimate, or a MetricError that says why it has no value and what to do."""
    if estimate.value is not None:
        return estimate
    if "non_finite" in estimate.flags:
        remedy = "Find where they come from, and leave those rows out, x[torch.isfinite(x).all(1)], or scale all states"
    raise MetricError(f"{metric} cannot be computed: {estimate.reason}. {remedy}")


def matrix(name: str, values: Array) -> Tensor:
    """Values as an (N, d) tensor on their own device.

    float16, bfloat16 and float32 stay what they are, since they tell how far copies of a token may be apart. What is
    narrower becomes float32, all else float64.
    """
    if isinstance(values, Tensor):
        out = values.detach()
    else:
        if np.ma.is_masked(values):
            raise ValueError(f"{name} has masked entries, which have no state: leave those rows out")
        array = np.asarray(values)
        if array.dtype.kind not in "fiu":
            raise ValueError(f"{name} must hold real numbers, got a numpy array of {array.dtype}")
        dtype = array.dtype.type if array.dtype.type in (np.float16, np.float32) else np.float64
        out = torch.from_numpy(np.require(array.astype(dtype), requirements=["C", "W"]))
    if out.is_complex() or out.is_quantized or out.dtype == torch.bool:
        raise ValueError(f"{name} must hold real numbers, got {out.dtype}")
    if out.layout != torch.strided:
        raise ValueError(f"{name} must be a dense tensor, got {out.layout}: use to_dense()")
    if out.ndim != 2 or out.shape[1] == 0:
        raise ValueError(f"{name} must be a cloud of shape (N tokens, d), got shape {tuple(out.shape)}")
    if not out.is_floating_point():
        return out.double()
    return out.float() if out.dtype.itemsize == 1 else out


def example_ids(groups: Groups) -> NDArray[Any]:
    """The examples' ids as an array of numbers or of strings."""
    ids = np.asarray(groups.tolist() if isinstance(groups, Tensor) else groups)
    if ids.dtype.kind == "O" and any(all(isinstance(one, kind) for one in ids.flat) for kind in (str, Integral)):
        ids = ids.astype(str)
    if ids.dtype.kind not in "biufUS" or (ids.dtype.kind == "f" and bool(np.isnan(ids).any())):
        raise ValueError(
            "groups must hold the id of each token's example, integers or strings, and none may be missing; "
            "groups=None makes each token its own example"
        )
    return ids


def cloud_of(x: Tensor, y: Tensor | None, groups: Groups | None, n_folds: int = N_FOLDS) -> ArrayCloud:
    """The cloud of some arrays from :func:`matrix`, in at most ``n_folds`` folds of whole groups."""
    n = x.shape[0]
    if y is not None and x.shape != y.shape:
        raise ValueError(
            f"x and y are the same tokens at two boundaries and need one shape, got {tuple(x.shape)} and "
            f"{tuple(y.shape)}"
        )
    if whole("n_folds", n_folds) < 1:
        raise ValueError(f"n_folds must be at least 1, not {n_folds}")
    ids = np.arange(n) if groups is None else example_ids(groups)
    if ids.shape != (n,):
        raise ValueError(f"groups must give one example id per token, shape ({n},), got shape {ids.shape}")
    distinct, example = np.unique(ids, return_inverse=True)
    n_folds = min(n_folds, len(distinct)) if len(distinct) > 1 else 1
    fold = assign_folds(distinct.tolist(), n_folds, SEED)[example] if n else np.empty(0, dtype=np.int64)
    return ArrayCloud(
        x,
        None if y is None else y.to(x.device),
        fold=torch.from_numpy(fold).to(x.device),
        example=torch.from_numpy(example.astype(np.int64)).to(x.device),
        n_folds=n_folds,
    )


def cloud_from(x: Array, groups: Groups | None) -> ArrayCloud:
    return cloud_of(matrix("x", x), None, groups)


def finite_cloud(metric: str, x: Array, groups: Groups | None) -> ArrayCloud:
    """The same, if all of its rows are usable; else a MetricError."""
    cloud = cloud_from(x, groups)
    if bad := int((~usable_rows(cloud.x)).sum()):
        required(metric, non_finite(bad, cloud.n_tokens, cloud.n_examples), "")
    return cloud


def pair_from(x: Array, text: Array, groups: Groups | None, text_groups: Groups | None) -> TextPair:
    """The cloud of an array beside that of text tokens, in 10 folds of whole groups, the same for both."""
    states, text_states = matrix("x", x), matrix("text", text)
    n, m = len(states), len(text_states)
    if states.shape[1] != text_states.shape[1]:
        raise ValueError(f"both clouds need one width d, got {states.shape[1]} and {text_states.shape[1]}")
    if (groups is None) != (text_groups is None):
        raise ValueError("groups and text_groups name the same examples: give both or neither")
    ids = None
    if groups is not None and text_groups is not None:
        named = [example_ids(groups), example_ids(text_groups)]
        if [g.shape for g in named] != [(n,), (m,)]:
            raise ValueError(
                f"groups and text_groups must give one example id per token, shapes ({n},) and ({m},), got "
                f"{named[0].shape} and {named[1].shape}"
            )
        ids = np.concatenate(named)
    both = cloud_of(states.new_zeros(n + m, 1), None, ids)
    beside = ArrayCloud(text_states.to(states.device), None, both.fold[n:], both.example[n:], both.n_folds)
    return TextPair(ArrayCloud(states, None, both.fold[:n], both.example[:n], both.n_folds, text=beside), beside)
