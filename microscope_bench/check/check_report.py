"""What a check of an adapter found, as data and as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Check:
    """One statement about an adapter, proven, disproven or not applicable.

    Attributes:
        name: the statement.
        status: passed, failed or skipped.
        seen: the numbers behind it.
        hint: what to do about it, or why it was skipped; empty where it passed.
    """

    name: str
    status: Status
    seen: str
    hint: str = ""


@dataclass(frozen=True)
class Report:
    """All checks of one adapter; ``str()`` renders it as text.

    Attributes:
        model: the model's name.
        checks: in the order they ran.
        found: what the adapter found of the model, by what it is.
    """

    model: str
    checks: tuple[Check, ...]
    found: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.status != "failed" for check in self.checks)

    def __str__(self) -> str:
        width = max(len(check.name) for check in self.checks)
        lines = [self.model]
        margin = max((len(what) for what in self.found), default=0)
        lines += [f"  {what:<{margin}}  {value}" for what, value in self.found.items()]
        lines += [""] * bool(self.found)
        for check in self.checks:
            said = ". ".join(part.rstrip(".") for part in (check.seen, check.hint) if part)
            lines.append(f"  {check.status:<7}  {check.name:<{width}}  {said}")
        failed = sum(check.status == "failed" for check in self.checks)
        lines.append(f"{failed} of {len(self.checks)} checks failed" if failed else "no check failed")
        return "\n".join(lines)
