"""Calibration: intrinsic dimension, linearity, 95 % intervals and paired tests against known answers.

    python benchmarks/calibration.py --write docs/calibration.md

Writes the page and, beside it, its picture (.svg). ``--keep FILE`` keeps every
part as soon as it is measured, and a second run with the same file measures only what is missing. Needs the
development extras. DADApy asks for numpy below 2, so it wants an environment of its own, whose interpreter is given:

    python -m venv build/dadapy && build/dadapy/bin/pip install dadapy==0.3.4
    python benchmarks/calibration.py --write docs/calibration.md --dadapy build/dadapy/bin/python

Without it the table says "not installed".
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import linearity_truth
from benchmarks.calibration_parts import coverage, linearity_tables, manifolds, page, pairs, picture, picture_counts
from benchmarks.calibration_parts.clustered import SETTINGS

DRAWS = 100
MANIFOLD_SEEDS = {1000: 5, 5000: 1}
LINEARITY_SETS = {kind: 200 if kind == "plain" else 100 for kind in linearity_truth.KINDS}
WIDTH = 64
PICTURE_DRAWS = {"plain": {40: 100, 167: 100, 500: 100}, "lines": {40: 20, 167: 20, 500: 20}}
"""Kind → number of pictures → data sets; of kind lines only the means are shown."""

PAIRS = 100
QUICK_DRAWS = 20
QUICK_LINEARITY_SETS = {"plain": 4}
QUICK_WIDTH = 16
QUICK_PICTURE_DRAWS = {"plain": {40: 3}, "lines": {40: 2}}
QUICK_PAIRS = 8
QUICK_SETTINGS = ("base", "few")
QUICK_SEEDS = {1000: 1}


class Parts:
    """What has been measured so far, part by part, in a file if one is given.

    Args:
        file: JSON; read if it is there, and written after every part. None keeps nothing.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.found: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file and file.exists() else {}

    def get(self, name: str, measure: Callable[[], Any]) -> Any:
        """A part, measured now unless it was before."""
        if name not in self.found:
            start = time.perf_counter()
            value = measure()
            self.found[name] = {"seconds": time.perf_counter() - start, "value": value}
            if self.file:
                self.file.write_text(json.dumps(self.found))
            print(f"{name}: {self.found[name]['seconds']:.0f} s", file=sys.stderr, flush=True)
        return self.found[name]["value"]


def measure(quick: bool, dadapy: str | None, keep: Path | None) -> page.Measured:
    """Runs everything, or the quick part of it."""
    parts, draws = Parts(keep), QUICK_DRAWS if quick else DRAWS
    records: list[page.Record] = []
    for n, seeds in (QUICK_SEEDS if quick else MANIFOLD_SEEDS).items():
        for seed in range(seeds):
            name = f"manifolds, n = {n}, seed {seed}{'' if dadapy else ', without DADApy'}"
            records += parts.get(name, partial(manifolds.estimates, n, seed, dadapy))
    covered = {
        setting.name: parts.get(f"{setting}, {draws} draws", partial(coverage.covered, setting, draws))
        for setting in SETTINGS
        if not quick or setting.name in QUICK_SETTINGS
    }
    sets, width = (QUICK_LINEARITY_SETS, QUICK_WIDTH) if quick else (LINEARITY_SETS, WIDTH)
    by_examples = {
        kind: parts.get(
            f"linearity of kind {kind}, {n} data sets",
            partial(linearity_truth.by_examples, kind, width, linearity_tables.JUDGED, n),
        )
        for kind, n in sets.items()
    }
    picture_draws = QUICK_PICTURE_DRAWS if quick else PICTURE_DRAWS
    of_pictures = {
        kind: {
            str(n): parts.get(f"{n} pictures of kind {kind}, {k} draws", partial(picture_counts.covered, kind, n, k))
            for n, k in of_kind.items()
        }
        for kind, of_kind in picture_draws.items()
    }
    n_pairs = QUICK_PAIRS if quick else PAIRS
    paired = parts.get(f"{n_pairs} pairs", partial(pairs.agreement, n_pairs))
    return page.Measured(
        manifolds=records,
        coverage=covered,
        draws=draws,
        linearity=by_examples,
        linearity_sets=sets,
        width=width,
        pictures=of_pictures,
        picture_draws=picture_draws,
        quick=quick,
        pairs=paired,
        n_pairs=n_pairs,
    )


def main() -> None:
    """Measures, then writes the page and its picture, or prints the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, metavar="PAGE", help="the page; its picture goes beside it")
    parser.add_argument("--quick", action="store_true", help="one seed, few settings, few draws: under a minute")
    parser.add_argument("--dadapy", metavar="PYTHON", help="interpreter of an environment that has DADApy")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="JSON to keep measured parts in and to go on from")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    measured = measure(arguments.quick, arguments.dadapy, arguments.keep)
    if arguments.write is None:
        print(page.render(measured, "calibration.svg"))
        return
    drawing = arguments.write.with_suffix(".svg")
    picture.draw(measured, drawing)
    arguments.write.write_text(page.render(measured, drawing.name), encoding="utf-8")


if __name__ == "__main__":
    main()
