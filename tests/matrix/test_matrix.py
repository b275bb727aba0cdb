"""Every architecture of the table is as its row says, and ``docs/models.md`` says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

from microscope_bench.adapters.overrides import FUSIONS, OVERRIDES
from microscope_bench.adapters.published_checkpoints import PUBLISHED
from tests.matrix.page import cells
from tests.matrix.processors import processor_note
from tests.matrix.row import UNSUPPORTED, VERIFIED
from tests.matrix.table import TABLE
from tests.matrix.verify import missing_packages, verify

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
TESTED_WITH = "5.23.0"


@pytest.fixture(scope="module")
def page_lines() -> dict[str, list[str]]:
    """Model type → the cells of its line in the page."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {cells[0].strip("`"): cells for cells in split}


@pytest.mark.parametrize("model_type", TABLE)
def test_architecture(model_type, page_lines):
    row = TABLE[model_type]
    if missing := missing_packages(row):
        pytest.skip(f"needs {', '.join(missing)}: make matrix")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        outcome = verify(row)
    finally:
        torch.set_num_threads(threads)
    assert not outcome.problems
    assert page_lines[model_type][:-1] == cells(outcome), "docs/models.md is stale: make matrix"


def test_the_table_is_that_of_transformers(page_lines):
    assert TABLE.keys() == set(MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES) == page_lines.keys()


def test_the_page_counts_what_its_table_holds(page_lines):
    statuses = [cells[3] for cells in page_lines.values()]
    text = PAGE.read_text()
    assert f"**{statuses.count(VERIFIED)} verified with media" in text
    assert f"{statuses.count(UNSUPPORTED)} unsupported**" in text
    assert statuses.count(VERIFIED) >= 100
    readme = " ".join((PAGE.parents[1] / "README.md").read_text().split())
    assert f"{statuses.count(VERIFIED)} of the {len(statuses)} architectures" in readme
    assert f"`ls models` has {len(PUBLISHED)} published checkpoints" in readme


def test_overrides_are_of_known_architectures_and_fusions():
    assert {name.partition("/")[0] for name in OVERRIDES} <= set(MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES)
    assert {overrides.fusion for overrides in OVERRIDES.values()} <= FUSIONS.keys()


@pytest.mark.parametrize("model_type", TABLE)
def test_processor_without_torchvision(model_type, page_lines):
    pytest.importorskip("transformers", minversion=TESTED_WITH)
    from transformers.utils import is_torchvision_available

    if is_torchvision_available():
        pytest.skip("torchvision is installed")
    assert page_lines[model_type][-1].partition(";")[0] == processor_note(model_type)
