"""The controlled experiment on fusion: docs/fusion.md from the committed results of the zoo.

    python benchmarks/fusion.py --write docs/fusion.md

Writes the page and its pictures (docs/fusion/). The prose stands in fusion_parts/page.md, every number of a table comes
from results/. With ``--check`` nothing is written; exit status 1 if the page is not what results and prose make it. How
the results were measured stands at the end of the page.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from string import Template

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.fusion_parts import tables
from benchmarks.fusion_parts.tables import ANISOTROPY, DIMENSION, HIDDEN, UPDATE, Experiment
from microscope_bench.metrics.registry import headlines
from microscope_bench.publish.plots import draw
from microscope_bench.zoo import FUSIONS

ROOT = Path(__file__).resolve().parents[1]
PROSE = Path(__file__).parent / "fusion_parts" / "page.md"


def render(results: Path) -> str:
    """The page as markdown."""
    shapes, science = Experiment(results), Experiment(results, "scienceqa_img")
    return Template(PROSE.read_text(encoding="utf-8")).substitute(
        accuracy=tables.accuracy(shapes),
        accuracy_by_seed=tables.accuracy_by_seed(shapes),
        linearity=tables.means(shapes, (HIDDEN, UPDATE), ("text", "image")),
        identity=tables.identity_baseline(shapes),
        hidden_by_layer=tables.by_layer(shapes, HIDDEN, "image"),
        update_by_layer=tables.by_layer(shapes, UPDATE, "image"),
        dimension_by_layer=tables.by_layer(shapes, DIMENSION, "image"),
        anisotropy_by_layer=tables.by_layer(shapes, ANISOTROPY, "image"),
        dimension_and_anisotropy=tables.means(shapes, (DIMENSION, ANISOTROPY), ("text", "image")),
        seeds=tables.seeds(shapes),
        science=tables.science(science),
    )


def draw_curves(results: Path, directory: Path) -> None:
    """A picture per headline metric into a directory: the trained models and their untrained twins."""
    experiment = Experiment(results)
    shown = [experiment.under(fusion, condition) for fusion in FUSIONS for condition in ("trained", "untrained")]
    for headline in headlines():
        stream = f".{headline.stream}" if headline.stream else ""
        draw(shown, (headline,), directory / f"{headline.metric}{stream}.svg")


def main() -> int:
    """Writes, prints or checks the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=ROOT / "results", metavar="DIR", help="default: results/")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="the page")
    parser.add_argument("--check", action="store_true", help="compare the page with what it should be")
    arguments = parser.parse_args()
    if arguments.check and arguments.write is None:
        parser.error("--check needs --write PAGE, the page to compare")
    text = render(arguments.results)
    if arguments.check:
        fresh = arguments.write.is_file() and arguments.write.read_text(encoding="utf-8") == text
        print(f"{arguments.write} is {'up to date' if fresh else 'stale'}")
        return 0 if fresh else 1
    if arguments.write is None:
        print(text)
    else:
        arguments.write.write_text(text, encoding="utf-8")
        draw_curves(arguments.results, arguments.write.with_suffix(""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
