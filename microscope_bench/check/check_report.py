"""What a check of an adapter found, as data and as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import transformers

from microscope_bench import __version__
from microscope_bench.adapters.base import Adapter


class Skip(Exception):
    """A check does not apply; the message says why."""


Outcome = tuple[bool, str, str]
"""Whether a statement holds, what was seen, what to do if it does not."""


@dataclass(frozen=True)
class Check:
    """A statement about an adapter, the numbers behind its status, and what to do (or why it was skipped)."""

    name: str
    status: Literal["passed", "failed", "skipped"]
    seen: str
    hint: str = ""


@dataclass(frozen=True)
class CheckReport:
    """All checks of one adapter, in the order they ran; ``found`` is what :func:`what_was_found` returns."""

    model: str
    checks: tuple[Check, ...]
    found: Mapping[str, str]

    @property
    def passed(self) -> bool:
        return all(check.status != "failed" for check in self.checks)

    def __str__(self) -> str:
        width = max(len(check.name) for check in self.checks)
        margin = max(len(what) for what in self.found)
        lines = [self.model, *(f"  {what:<{margin}}  {value}" for what, value in self.found.items()), ""]
        for check in self.checks:
            said = ". ".join(part.rstrip(".") for part in (check.seen, check.hint) if part)
            lines.append(f"  {check.status:<7}  {check.name:<{width}}  {said}")
        failed = sum(check.status == "failed" for check in self.checks)
        lines.append(f"{failed} of {len(self.checks)} checks failed" if failed else "no check failed")
        return "\n".join(lines)


def what_was_found(adapter: Adapter) -> dict[str, str]:
    """What an adapter says of its model, by topic."""
    info, made, library = adapter.info, adapter.processing, transformers.__version__
    model = getattr(adapter, "model", None)
    blocks = adapter.blocks()
    watched = blocks[0] if blocks else adapter.last_module()
    paths = [name for name, module in model.named_modules() if module is watched] if model else []
    stack = f"{paths[0].rpartition('.')[0] if blocks else paths[0]}, " if paths else ""
    kind = type(blocks[0]).__name__ if blocks else "none"
    parts = [part for part in (made.processor, made.image_processor) if part]
    templated = made.chat_template_sha256 is not None
    untold = f", whose words count as text ({adapter.template_untold})" if adapter.template_untold else ""
    odd = [f"{modality} without positions ({reason})" for modality, reason in adapter.unplaced.items()]
    odd += [f"not {modality} ({reason})" for modality, reason in adapter.lacks.items()]
    return {
        "revision": info.revision,
        "architecture": f"{info.architecture}, {info.n_parameters:,} parameters, adapter {info.adapter}",
        "stream": f"{stack}{len(blocks)} blocks ({kind}), {info.hidden_size} wide",
        "options": ", ".join(f"{key}={value}" for key, value in info.options.items()) or "none",
        "modalities": ", ".join([*sorted(adapter.modalities - adapter.unplaced.keys()), *odd]),
        "processor": ", ".join(parts) + (f", with its chat template{untold}" if templated else ", raw prompts"),
        "numbers": f"{info.dtype}, attention {info.attention}, quantisation {info.quantization or 'none'}",
        "software": f"microscope-bench {__version__}, torch {torch.__version__}, transformers {library}",
    }
