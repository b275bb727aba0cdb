"""``docs/models.md`` from what was seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import transformers
from tabulate import tabulate

from microscope_bench.adapters.overrides import FUSIONS
from tests.matrix.processors import processor_note
from tests.matrix.row import UNSUPPORTED, VERIFIED, WITHOUT_MEDIA
from tests.matrix.verify import Outcome

TEMPLATE = Path(__file__).with_name("page.md")
HEADERS = [
    "model type",
    "class",
    "fusion",
    "status",
    "residual stream",
    "media",
    "vision tap",
    "projector tap",
    "processor",
]


def cells(outcome: Outcome) -> list[str]:
    """The outcome's line of the table, but for its processor."""
    media = [f"{name} {'' if count else '(no positions)'}".strip() for name, count in outcome.positions.items()]
    path, _, _ = outcome.blocks.partition(" (")
    return [
        f"`{outcome.model_type}`",
        outcome.architecture,
        outcome.fusion or "—",
        outcome.status,
        outcome.blocks if outcome.status == UNSUPPORTED else f"`{path}`",
        ", ".join(sorted(media)) or "—",
        *(f"`{outcome.taps[tap]}`" if tap in outcome.taps else "—" for tap in ("vision", "projector")),
    ]


def page(outcomes: Sequence[Outcome]) -> str:
    """The whole page."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.model_type)
    counted = Counter(outcome.status for outcome in ordered)
    checks = sum(outcome.checks for outcome in ordered)
    lines = [[*cells(o), _processor(o)] for o in ordered]
    fusions = [[name, meaning, sum(o.fusion == name for o in ordered)] for name, meaning in FUSIONS.items()]
    return TEMPLATE.read_text().format(
        n=len(ordered),
        transformers=transformers.__version__,
        verified=counted[VERIFIED],
        without_media=counted[WITHOUT_MEDIA],
        unsupported=counted[UNSUPPORTED],
        checks=f"{checks:,}",
        fusions=tabulate(fusions, ["fusion", "what it means", "architectures"], "pipe"),
        table=tabulate(lines, HEADERS, "pipe"),
    )


def _processor(outcome: Outcome) -> str:
    needs = f"; the model needs {' and '.join(outcome.needs)}" if outcome.needs else ""
    return processor_note(outcome.model_type) + needs
