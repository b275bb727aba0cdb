"""Prints our metrics beside the packages they descend from and an SVD without a Gram matrix.

Run from anywhere: ``python benchmarks/parity.py``. Needs the development extras; llm-microscope 0.0.7 is installed with
``pip install --no-deps llm-microscope==0.0.7``. Where the others differ much, they are wrong in a known way:
llm-microscope divides by singular values that are rounding noise, and scikit-dimension may put a copy at 1e-8.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from microscope_bench import metrics
from tests.metrics.oracles import conditioned, gaussian, hard_clouds, massive, next_states, reference, svd_linearity

Row = tuple[str, str, str, float | None, float, float | None]


def row(data: str, quantity: str, other: str, ours: metrics.Estimate, theirs: float) -> Row:
    """One line of the table; the difference is empty where we give no value."""
    return data, quantity, other, ours.value, theirs, None if ours.value is None else abs(ours.value - theirs)


def linearity_rows() -> list[Row]:
    """Both streams on clean and on hard clouds."""
    clean = {
        "Gaussian": gaussian(900, 60),
        "mean of 30": gaussian(900, 60) + 30,
        "condition 1e3": conditioned(900, 60, 1e3),
    }
    clouds = {name: (x, next_states(x)) for name, x in clean.items()} | hard_clouds()
    rows = []
    for name, (x, y) in clouds.items():
        for stream in ("hidden", "update"):
            ours = metrics.linearity(x, y, stream=stream)
            quantity = f"linearity in_sample, {stream}"
            target = y if stream == "hidden" else y - x
            rows.append(row(name, quantity, "llm-microscope", ours, reference().procrustes_similarity(x, target)))
            rows.append(row(name, quantity, "truncated SVD", ours, svd_linearity(x, y, stream)[0]))
    return rows


def cloud_rows() -> list[Row]:
    """Anisotropy and intrinsic dimension."""
    import skdim.id

    flat = gaussian(600, 6) @ gaussian(6, 24, 1)
    clouds = {
        "6-d Gaussian in 24-d": flat,
        "same, float32": flat.float(),
        "same, bfloat16": flat.bfloat16(),
        "same, a quarter copied": torch.cat([flat, flat[:150]]),
        "massive activations": massive(600, 24),
    }
    rows = []
    for name, x in clouds.items():
        theirs = reference().calculate_anisotropy_torch(x.double())
        rows.append(row(name, "anisotropy", "llm-microscope", metrics.anisotropy(x), theirs))
        ours = metrics.intrinsic_dimension(x, "twonn_regression20", deduplicate=False)
        rows.append(
            row(name, ours_name("regression20"), "llm-microscope", ours, reference().intrinsic_dimension(x, "cpu"))
        )
        ours = metrics.intrinsic_dimension(x, "twonn_discard10", deduplicate=False)
        theirs = float(skdim.id.TwoNN().fit(x.double().numpy()).dimension_)
        rows.append(row(name, ours_name("discard10"), "scikit-dimension", ours, theirs))
    return rows


def ours_name(estimator: str) -> str:
    """How the table names an intrinsic dimension that keeps copies, as the other packages do."""
    return f"twonn_{estimator}, copies kept"


def main() -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    headers = ["data", "quantity", "compared with", "ours", "theirs", "|difference|"]
    print(tabulate(linearity_rows() + cloud_rows(), headers, floatfmt=("", "", "", ".9f", ".9f", ".1e")))


if __name__ == "__main__":
    main()
