"""docs/performance.md: made from the figures that the speed scripts left, and what its first table says of them."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest

from benchmarks import performance
from benchmarks.performance_parts.targets import target_table, targets

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"


@pytest.fixture
def found():
    return {name: json.loads((performance.FIGURES / f"{name}.json").read_text()) for name in performance.SCRIPTS}


def test_the_page_is_what_the_figures_make_it():
    assert PAGE.read_text(encoding="utf-8") == performance.render()


def test_nothing_is_left_to_fill_in_and_no_path_or_host_stands_there():
    text = PAGE.read_text(encoding="utf-8")
    assert not re.search(r"\{\{|\{%|\bnan\b|TODO|/(tmp|home|root|work)/", text)


def test_every_linked_page_is_there():
    assert all((PAGE.parent / name).is_file() for name in re.findall(r"\]\(([a-z_]+\.md)", PAGE.read_text()))


def test_a_figure_on_the_wrong_side_of_its_target_says_so(found):
    spoilt = copy.deepcopy(found)
    spoilt["capture"]["ratios"]["capture"]["ratio"] = 1.06
    spoilt["kills"]["good"] = False
    for row in spoilt["metrics"]["rows"]:
        row["times_ours"] = 0.5
    for row in spoilt["scaling"]["examples"]:
        row["peak_mib"] *= 1 + row["examples"]
    spoilt["startup"]["startup"]["--help"]["wall"] = 0.31
    spoilt["results_tree"]["forms"]["markdown"]["seconds"] = 5.1
    spoilt["startup"]["startup"]["run, up to the first forward pass"]["wall"] = 4.1
    spoilt["lm_eval_overhead"]["ratio"] = 1.9
    missed = {target.what for target in targets(spoilt) if not target.reached}
    assert sum("TwoNN" in what for what in missed) >= 2 and sum("linearity" in what for what in missed) == 2
    assert sum("peak memory" in what for what in missed) == 3
    assert {"runs killed and resumed", "`microscope-bench --help`", "leaderboard of 1,000 result files"} <= missed
    assert sum("first forward pass" in what or "lm-eval" in what for what in missed) == 2
    assert "1.060 ×" in target_table(spoilt) and "1.060 ×" not in target_table(found)
