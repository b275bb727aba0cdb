"""Runs a row: the whole contract of ``check`` on its tiny model."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from microscope_bench.adapters.base import LABELS
from microscope_bench.check import Report, check, default_examples
from microscope_bench.adapters.taps import PROJECTOR, VISION
from microscope_bench.errors import AdapterError
from tests.matrix.build import tiny_adapter
from tests.matrix.row import Row


@dataclass(frozen=True)
class Outcome:
    """What was seen of one architecture.

    Attributes:
        architecture: the model class.
        blocks: path and length of its block list.
        taps: tap → path of what is watched there.
        positions: modality → positions in the first example's sequence.
        report: of ``check``.
        problems: what is not as the row says; empty where all is.
    """

    architecture: str
    blocks: str
    positions: dict[str, int]
    taps: dict[str, str]
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
    for modality in row.media.keys() - adapter.unplaced.keys():
        labels = adapter.encode(default_examples(frozenset({modality}))).labels
        positions[modality] = int((labels[0] == LABELS.index(modality)).sum())
    taps = {}
    for tap in (VISION, PROJECTOR) if row.media.keys() & {"image", "video"} else ():
        try:
            tapped = adapter.tapped(tap)
        except AdapterError as error:
            found = str(error)
        else:
            broken = [c for c in check(tapped).checks if c.status == "failed"]
            problems += [f"tap {tap}: {c.name}: {c.seen}" for c in broken]
            found = None
            taps[tap] = f"{_path(adapter.model, tapped._blocks or tapped._last)} ({len(tapped.blocks())} blocks)"
        if (found is None) == (tap in row.without_taps):
            problems.append(f"tap {tap}: {found or taps[tap]}")
    path = next((name for name, m in adapter.model.named_modules() if m is adapter._found_blocks), "?")
    return Outcome(
        type(adapter.model).__name__, f"{path} ({len(adapter.blocks())})", positions, taps, report, tuple(problems)
    )


def _path(model: Any, watched: Any) -> str:
    """Dotted path of a module, or of the list that holds the given blocks."""
    for name, module in model.named_modules():
        if module is watched or (isinstance(watched, list) and module is watched[0]):
            return name.rpartition(".")[0] if isinstance(watched, list) else name
    return "?"


def main(names: list[str], rows: dict[str, Row]) -> Any:
    """Prints the outcome of the named rows."""
    torch.set_num_threads(1)
    bad = 0
    for name in names:
        row = rows[name]
        if row.unsupported or missing_packages(row):
            reason = row.unsupported or f"not run, needs {missing_packages(row)}"
            print(f"{name:24s} {row.status}: {reason}")
            continue
        try:
            outcome = verify(row)
        except Exception as error:
            import traceback

            traceback.print_exc()
            print(f"{name:24s} RAISED {type(error).__name__}: {error}")
            bad += 1
            continue
        print(
            f"{name:24s} {row.status if not outcome.problems else 'PROBLEM'} {outcome.blocks} {outcome.positions} {outcome.taps}"
        )
        for problem in outcome.problems:
            print(f"    {problem}")
        bad += bool(outcome.problems)
    return 1 if bad else 0
