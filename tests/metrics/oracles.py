"""What the metrics are checked against: the reference package, an independent SVD, and clouds with known trouble."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor


@lru_cache
def reference() -> ModuleType:
    """llm-microscope's functions, loaded by path because its ``__init__`` does not import.

    Raises:
        ModuleNotFoundError: the package, or matplotlib which it plots with, is not installed.
    """
    try:
        files = importlib.metadata.files("llm-microscope") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError("llm-microscope 0.0.7 is not installed (pip install --no-deps)") from error
    path = next(file.locate() for file in files if file.name == "functions.py")
    spec = importlib.util.spec_from_file_location("llm_microscope_functions", str(path))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def svd_linearity(x: Tensor, y: Tensor, stream: str, rcond: float = 3e-7) -> tuple[float, int]:
    """In-sample linearity and rank from the singular vectors of X, columns scaled to unit norm; no Gram matrix."""
    x, y = x.double(), y.double()
    target = y if stream == "hidden" else y - x
    x, target = x - x.mean(0), target - target.mean(0)
    norms = x.norm(dim=0)
    x = x[:, norms > 1e-10 * norms.max()]
    u, s, _ = torch.linalg.svd(x / x.norm(dim=0), full_matrices=False)
    u = u[:, s > rcond * s[0]]
    return 1 - float((target - u @ (u.T @ target)).square().sum() / target.square().sum()), u.shape[1]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(n: int, d: int, seed: int = 0) -> Tensor:
    """float64 (n, d), standard normal."""
    return torch.randn(n, d, generator=_generator(seed), dtype=torch.float64)


def embedded(n: int, k: int, d: int, seed: int = 0) -> Tensor:
    """A k-dimensional Gaussian in d dimensions."""
    return gaussian(n, k, seed) @ torch.linalg.qr(gaussian(d, k, 77))[0].T


def next_states(x: Tensor, seed: int = 1) -> Tensor:
    """What a block might make of x: itself, a linear part, a bent part and noise, in x's own units."""
    d = x.shape[1]
    spread = x.std(0)
    unit = torch.where(spread > 1e-9, (x - x.mean(0)) / spread, 0.0)
    a, b = gaussian(d, d, seed) / d**0.5, gaussian(d, d, seed + 1) / d**0.5
    return x + spread * (0.5 * unit @ a + 0.5 * torch.tanh(unit @ b) + 0.2 * gaussian(*x.shape, seed + 2))


def conditioned(n: int, d: int, cond: float) -> Tensor:
    """Singular values from 1 down to 1/cond in random directions."""
    u = torch.linalg.qr(gaussian(n, d, 3))[0]
    v = torch.linalg.qr(gaussian(d, d, 4))[0]
    return (u * torch.logspace(0, -torch.log10(torch.tensor(cond)).item(), d, dtype=torch.float64)) @ v


def massive(n: int, d: int) -> Tensor:
    """Two dimensions in which six tokens are thousands of times as large as the rest."""
    x = gaussian(n, d, 5)
    x[:6, 3] += 3e3
    x[:6, 11 % d] -= 9e3
    return x


def hard_clouds() -> dict[str, tuple[Tensor, Tensor]]:
    """Name → (x, y), each of which breaks a naive solver."""
    low_rank = gaussian(1500, 20, 6) @ gaussian(20, 80, 7)
    constant = gaussian(900, 60, 8)
    constant[:, 7], constant[:, 31] = 3.7, -1e4 / 3
    few = gaussian(50, 120, 9)
    bent = conditioned(900, 60, 1e6)
    unrelated = gaussian(900, 60, 10)
    return {
        "condition 1e6": (bent, bent + 0.1 * next_states(bent) / bent.norm()),
        "condition 1e6, unrelated y": (bent, unrelated),
        "rank 20 of 80": (low_rank, next_states(low_rank)),
        "rank 20 of 80, float32": (low_rank.float(), next_states(low_rank).float()),
        "constant columns": (constant, next_states(constant)),
        "fewer tokens than d": (few, next_states(few)),
        "massive activations": (massive(900, 60), next_states(massive(900, 60))),
        "massive activations written": (gaussian(900, 60, 5), massive(900, 60)),
    }
