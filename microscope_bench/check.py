"""Proves an adapter: what it says about a model is held against what the model does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""How far a batch of two may be from two batches of one, relative to a boundary's largest norm: padding changes the
order of sums, never more than the last bits of the model's own arithmetic, times its depth."""

Status = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Check:
    """One proven, disproven or inapplicable statement.

    Attributes:
        name: the statement.
        status: passed, failed or skipped.
        seen: the number or the shape behind it.
        hint: what to do about it, or why it was skipped; empty where it passed.
    """

    name: str
    status: Status
    seen: str
    hint: str = ""


@dataclass(frozen=True)
class Report:
    """All checks of one adapter; ``str()`` renders it as text."""

    model: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.status != "failed" for check in self.checks)

    def __str__(self) -> str:
        width = max(len(check.name) for check in self.checks)
        lines = [f"{self.model}"]
        for check in self.checks:
            hint = f"  ({check.hint})" if check.hint else ""
            lines.append(f"  {check.status:<7}  {check.name:<{width}}  {check.seen}{hint}")
        count = sum(check.status == "failed" for check in self.checks)
        lines.append("all checks passed" if not count else f"{count} of {len(self.checks)} checks failed")
        return "\n".join(lines)
