"""What the linear map between two boundaries leaves unexplained of each single token.

With X, Y the kept tokens of a whole store at boundaries l and l + 1, all modalities together, and the least-squares map

    A = argmin ‖(X − x̄)A − (T − t̄)‖²_F,    T = Y for stream hidden, T = Y − X for stream update,

the non-linearity of a token that is x at boundary l and y at l + 1 is

    e = ‖t − t̄ − (x − x̄)A‖ / ‖t‖,    t = y, or y − x,

and without the denominator where it is asked for absolutely: the token-wise error ‖A h_l − h_(l+1)‖ of Razzhigaev et
al., "LLM-Microscope" (arXiv 2502.15007), whose map has an intercept here, as linearity has. The numerator is the same
for both streams as long as X is of full rank. Over the tokens of the fit, Σ ‖t − t̄ − (x − x̄)A‖² / Σ ‖t − t̄‖² is
1 − linearity (``in_sample``, modality ``joint``).

The map has seen the tokens that it is fitted on, so their numerators are too small, by a factor near √(1 − d/N): N and
d stand in every picture. One map serves words and patches, so that they can be compared with each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from microscope_bench.errors import StoreError
from microscope_bench.figures.open_store import OpenStore
from microscope_bench.metrics.core.linear_solve import LinearFit
from microscope_bench.metrics.core.moments import Moments, usable_rows

ROWS_PER_CHUNK = 8192


@dataclass(frozen=True)
class TokenMap:
    """The map from boundary l to l + 1, fitted on all kept tokens of a store: N = ``n_tokens``, d = ``dim``."""

    fit: LinearFit
    n_tokens: int
    dim: int

    @classmethod
    def fitted(cls, opened: OpenStore, layer: int) -> TokenMap:
        """Fits the map that leaves boundary ``layer``; raises StoreError where any map fits, and for NaN."""
        tokens = opened.tokens
        moments = Moments.zeros(tokens.dim, has_next=True)
        for start in range(0, len(tokens.example), ROWS_PER_CHUNK):
            rows = np.arange(start, min(start + ROWS_PER_CHUNK, len(tokens.example)))
            x, y = (tokens.states(at, rows).double() for at in (layer, layer + 1))
            broken = int((~(usable_rows(x) & usable_rows(y))).sum())
            if broken:
                raise StoreError(
                    f"{opened.model}: {broken} tokens hold NaN or infinity at layer {layer}; no map is fitted"
                )
            moments.add(x, y - x)
        fit = LinearFit(moments)
        if moments.n - 1 <= fit.rank:
            raise StoreError(
                f"{opened.model}: {moments.n} tokens leave no degree of freedom beside a map of rank {fit.rank}, which "
                f"explains each of them exactly; keep the store of a run on more examples"
            )
        return cls(fit, moments.n, tokens.dim)

    def unexplained(self, x: Tensor, y: Tensor, stream: str, *, relative: bool = True) -> Tensor:
        """The non-linearity e of tokens x, y, float64 (n, d), as float64 (n,); NaN where ‖t‖, divided by, is 0."""
        moments, r = self.fit.moments, y - x
        if stream == "update" or self.fit.rank == self.dim:
            left = r - moments.mean_r - (x - moments.mean_x) @ self.fit.to_update
        else:  # of two maps that fit alike, the one of least norm; see LinearFit.to_next
            left = y - moments.mean_x - moments.mean_r - (x - moments.mean_x) @ self.fit.to_next
        norms: Tensor = torch.linalg.vector_norm(left, dim=1)
        if not relative:
            return norms
        sizes = torch.linalg.vector_norm(y if stream == "hidden" else r, dim=1)
        return torch.where(sizes > 0, norms / sizes, torch.nan)
