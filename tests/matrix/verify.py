"""Runs a row: the whole contract of ``check`` on its tiny model, at every place where it can be watched."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

from microscope_bench.adapters.base import LABELS
from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.adapters.overrides import overrides_for
from microscope_bench.adapters.tap_names import PROJECTOR, VISION
from microscope_bench.check import check, default_examples
from microscope_bench.errors import AdapterError
from tests.matrix.build import tiny_adapter
from tests.matrix.row import Row

ALWAYS_SKIPPED_WITHOUT_MEDIA = {"labels agree with what the media change"}


@dataclass(frozen=True)
class Outcome:
    """What was seen of one architecture.

    Attributes:
        model_type: its key in transformers' mapping.
        architecture: the model class that ran, or the mapped one.
        status: verified, verified without media, or unsupported.
        fusion: how media meet the text.
        blocks: path and length of its block list, or why there is none.
        positions: modality → positions in the first example's sequence; 0 where it has none of its own.
        taps: tap → path of what is watched there.
        checks: number of checks that passed, of all taps together.
        needs: packages it took.
        problems: what is not as the row says; empty where all is.
    """

    model_type: str
    architecture: str
    status: str
    fusion: str
    blocks: str
    positions: dict[str, int]
    taps: dict[str, str]
    checks: int
    needs: tuple[str, ...]
    problems: tuple[str, ...]


def missing_packages(row: Row) -> list[str]:
    """Those of the row's packages that are not installed."""
    return [name for name in row.needs if find_spec(name) is None]


def verify(row: Row) -> Outcome:
    """Builds the row's tiny model and holds the contract against it."""
    if row.unsupported:
        return _refused(row)
    adapter = tiny_adapter(row)
    report = check(adapter)
    problems = [f"{c.name}: {c.seen}. {c.hint}" for c in report.checks if c.status == "failed"]
    passed = sum(c.status == "passed" for c in report.checks)
    expected = {"text", *row.media}
    if adapter.modalities != expected:
        problems.append(f"modalities {sorted(adapter.modalities)}, expected {sorted(expected)}")
    skipped = {c.name: c.hint for c in report.checks if c.status == "skipped"}
    if skipped.keys() != {*row.skips, *(() if row.media else ALWAYS_SKIPPED_WITHOUT_MEDIA)}:
        problems.append(f"skipped {skipped}")
    positions, taps = {}, {}
    for modality in row.media:
        probe = default_examples(frozenset({modality}))[:1]
        positions[modality] = int((adapter.encode(probe).labels == LABELS.index(modality)).sum())
    for tap in (VISION, PROJECTOR) if row.media.keys() & {"image", "video"} else ():
        path, n_passed, failed = _tapped(adapter, tap)
        problems += failed
        passed += n_passed
        if (path is None) != (tap in row.without_taps):
            problems.append(f"tap {tap}: {path or 'refused'}")
        if path is not None:
            taps[tap] = path
    return Outcome(
        model_type=row.model_type,
        architecture=type(adapter.model).__name__,
        status=row.status,
        fusion=overrides_for(row.model_type).fusion,
        blocks=f"{_path(adapter.model, adapter.blocks())} ({len(adapter.blocks())})",
        positions=positions,
        taps=taps,
        checks=passed,
        needs=row.needs,
        problems=tuple(problems),
    )


def _refused(row: Row) -> Outcome:
    """The outcome of an architecture that loading refuses: it must, with the row's reason."""
    problems = []
    try:
        with TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps({"model_type": row.model_type}))
            HFAdapter.load({"pretrained": folder}, device="cpu")
    except AdapterError as error:
        if row.unsupported not in str(error):
            problems.append(f"refused with {error}")
    else:
        problems.append("was not refused")
    architecture = MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES[row.model_type]
    reason = overrides_for(row.model_type).unsupported
    return Outcome(row.model_type, architecture, row.status, "", reason, {}, {}, 0, row.needs, tuple(problems))


def _tapped(adapter: HFAdapter, tap: str) -> tuple[str | None, int, list[str]]:
    """Path of what the tap watches, or None where it is refused; the number of checks passed there; what failed."""
    try:
        tapped = adapter.tapped(tap)
    except AdapterError:
        return None, 0, []
    checks = check(tapped).checks
    failed = [f"tap {tap}: {c.name}: {c.seen}" for c in checks if c.status == "failed"]
    path = _path(adapter.model, tapped.blocks() or tapped.last_module())
    return path, sum(c.status == "passed" for c in checks), failed


def _path(model: Any, watched: Any) -> str:
    """Dotted path of a module, or of the list that holds the given blocks."""
    for name, module in model.named_modules():
        if module is watched or (isinstance(watched, list) and module is watched[0]):
            return str(name.rpartition(".")[0] if isinstance(watched, list) else name)
    return "?"
