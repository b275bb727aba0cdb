"""docs/interpreting.md: made from the committed results, and what its numbers compute."""

from __future__ import annotations

import json
import re
from pathlib import Path
from string import Template

import pytest

from benchmarks import interpreting
from benchmarks.interpreting_parts import numbers
from microscope_bench.metrics.registry import metric_names
from microscope_bench.zoo import FUSIONS

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "interpreting.md"


@pytest.fixture(scope="module")
def values():
    return numbers.render_values(ROOT / "results")


def test_the_page_is_what_the_results_make_it(values):
    assert PAGE.read_text(encoding="utf-8") == Template(interpreting.PROSE.read_text(encoding="utf-8")).substitute(
        values
    )


def test_every_number_of_the_results_has_a_place(values):
    places = set(re.findall(r"\$([a-z_]+)", interpreting.PROSE.read_text(encoding="utf-8")))
    unused = values.keys() - places
    assert places <= values.keys()
    assert unused <= {
        "shapes_flagged",
        "shapes_inflation",
        "science_copies_text",
        "science_copies_image",
        "science_words",
    }


def test_nothing_is_left_to_fill_in():
    assert not re.search(r"\$[a-z_]+|\bnan\b|TODO", PAGE.read_text(encoding="utf-8"))


def test_its_links_lead_somewhere():
    for target, _, anchor in (link.partition("#") for link in re.findall(r"\]\(([^)]+)\)", PAGE.read_text())):
        text = (PAGE.parent / target).read_text(encoding="utf-8")
        headings = {
            re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in text.splitlines()
        }
        assert not anchor or anchor in headings


def test_every_metric_is_spoken_of():
    text = PAGE.read_text(encoding="utf-8").lower().replace("-", "_").replace(" ", "_")
    assert not [name for name in metric_names("all") if name not in text]


def by_hand(task, twin, metric, estimator, stream, modality):
    """The five means over the layers, from the files alone."""
    means = []
    for fusion in FUSIONS:
        (file,) = (ROOT / "results").glob(f"zoo-{fusion}{twin}/*/{task}.json")
        rows = [
            row["value"]
            for row in json.loads(file.read_text())["scores"]
            if (row["metric"], row["estimator"], row["stream"], row["modality"], row["tokens"])
            == (metric, estimator, stream, modality, "all")
            and not any(flag.split("=")[0] == "few_distinct" for flag in row["flags"])
        ]
        means.append(sum(rows) / len(rows))
    return means


@pytest.mark.parametrize(
    "table, task, series, modality",
    [
        ("linearity", "shapesqa", ("linearity", "held_out", "update"), "text"),
        ("linearity", "shapesqa", ("linearity", "identity", "hidden"), "image"),
        ("dimension", "shapesqa", ("intrinsic_dimension", "twonn_mle", None), "text"),
        ("anisotropy", "shapesqa", ("anisotropy", "top_share", None), "image"),
        ("further", "scienceqa_img", ("cka", "debiased", None), "text"),
        ("against_text", "scienceqa_img", ("modality_gap", "raw", None), "image"),
    ],
)
def test_a_range_is_that_of_the_files(values, table, task, series, modality):
    name = ", ".join(part for part in (series[0].replace("_", " "), series[2]) if part)
    start = f"| {name} | `{series[1]}` | {modality} |"
    (row,) = [line for line in values[table].splitlines() if line.startswith(start)]
    cells = [cell.strip() for cell in row.strip("|").split("|")][3:]
    for cell, twin in ((cells[0], ""), (cells[-1], "-untrained")):
        low, high = (float(text) for text in cell.split(" to "))
        means = by_hand(task, twin, *series, modality)
        assert (low, high) == pytest.approx((min(means), max(means)), rel=0.006, abs=0.0006)


def test_a_count_is_that_of_the_files(values):
    trained = by_hand("shapesqa", "", "linearity", "held_out", "update", "image")
    untrained = by_hand("shapesqa", "-untrained", "linearity", "held_out", "update", "image")
    higher = sum(b > a for a, b in zip(trained, untrained, strict=True))
    assert values["untrained_update_image"] == f"{higher} of 5"


def test_a_model_without_a_value_is_counted():
    assert numbers._range([0.5, None, 0.25]) == "0.250 to 0.500 (none in 1)"
    assert numbers._range([None]) == "–"
