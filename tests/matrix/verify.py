"""Runs a row: the whole contract of ``check`` on its tiny model."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from microscope_bench.check import Report, check, default_examples
from tests.matrix.build import tiny_adapter
from tests.matrix.row import Row


@dataclass(frozen=True)
class Outcome:
    """What was seen of one architecture.

    Attributes:
        architecture: the model class.
        blocks: path and length of its block list.
        positions: modality → positions in the first example's sequence.
        report: of ``check``.
        problems: what is not as the row says; empty where all is.
    """

    architecture: str
    blocks: str
    positions: dict[str, int]
    report: Report
    problems: tuple[str, ...]


def missing_packages(row: Row) -> list[str]:
    """Those of the row's packages that are not installed."""
    return [name for name in row.needs if find_spec(name) is None]


def verify(row: Row) -> Outcome:
    """Builds the row's tiny model and holds the contract against it."""
    adapter = tiny_adapter(row)
    report = check(adapter)
    problems = [f"{c.name}: {c.seen}. {c.hint}" for c in report.checks if c.status == "failed"]
    expected = {"text", *row.media}
    if adapter.modalities != expected:
        problems.append(f"modalities {sorted(adapter.modalities)}, expected {sorted(expected)}")
    skipped = {c.name for c in report.checks if c.status == "skipped"}
    if not row.media:
        skipped -= {"labels agree with what the media change"}
    if skipped != set(row.skips):
        problems.append(f"skipped {[(c.name, c.hint) for c in report.checks if c.status == 'skipped']}")
    positions = {}
    for modality in row.media:
        labels = adapter.encode(default_examples(frozenset({modality}))).labels
        from microscope_bench.adapters.base import LABELS

        positions[modality] = int((labels[0] == LABELS.index(modality)).sum())
    path = next((name for name, m in adapter.model.named_modules() if m is adapter._found_blocks), "?")
    return Outcome(type(adapter.model).__name__, f"{path} ({len(adapter.blocks())})", positions, report, tuple(problems))


def main(names: list[str], rows: dict[str, Row]) -> Any:
    """Prints the outcome of the named rows."""
    torch.set_num_threads(1)
    bad = 0
    for name in names:
        row = rows[name]
        if row.unsupported or missing_packages(row):
            print(f"{name:24s} {row.status} {row.unsupported} {missing_packages(row)}")
            continue
        try:
            outcome = verify(row)
        except Exception as error:
            import traceback

            traceback.print_exc()
            print(f"{name:24s} RAISED {type(error).__name__}: {error}")
            bad += 1
            continue
        print(f"{name:24s} {row.status if not outcome.problems else 'PROBLEM'} {outcome.blocks} {outcome.positions}")
        for problem in outcome.problems:
            print(f"    {problem}")
        bad += bool(outcome.problems)
    return 1 if bad else 0
