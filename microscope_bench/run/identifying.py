"""What is measured and what the stored states are of, fixed before the first forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from msgspec import to_builtins

from microscope_bench import __version__
from microscope_bench.adapters.base import Adapter
from microscope_bench.capture.fingerprints import ProbedInputs
from microscope_bench.capture.mainflow import Mainflow
from microscope_bench.capture.selection import RULE
from microscope_bench.config import RunConfig
from microscope_bench.example import ExampleSource
from microscope_bench.identity import Identity, TaskInfo
from microscope_bench.measure.correctness import VERSION as SPLIT_VERSION
from microscope_bench.metrics.registry import METRICS
from microscope_bench.protocol import Protocol
from microscope_bench.system.field_types import content_sha256


def identity_of(
    adapter: Adapter,
    source: ExampleSource,
    protocol: Protocol,
    rows: Sequence[int],
    prompt_sha256: str,
    metrics: dict[str, int],
) -> Identity:
    """The identity of a run."""
    ids = source.ids
    return Identity(
        protocol=protocol,
        model=adapter.info,
        task=TaskInfo(source.name, source.version),
        dataset=source.dataset,
        n_examples=len(rows),
        example_ids_sha256=content_sha256(sorted(ids[row] for row in rows)),
        prompt_sha256=prompt_sha256,
        selection=RULE,
        metrics=metrics,
    )


def metric_versions(config: RunConfig, *, mainflow: bool) -> dict[str, int]:
    """Version of each metric. A run asked for stream ``mainflow`` or a split has more scores than one that was not."""
    versions = {name: METRICS.get(name).version for name in config.metrics}
    if mainflow and "linearity" in versions:
        versions["linearity.mainflow"] = versions["linearity"]
    if config.split_by is not None:
        versions[f"split_by.{config.split_by}"] = SPLIT_VERSION
    return dict(sorted(versions.items()))


def stored_states(
    identity: Identity, adapter: Adapter, probed: ProbedInputs, mainflow: Mainflow | None
) -> dict[str, Any]:
    """All that decides what the states in a token store are; a store that was made for anything else is refused."""
    return {
        "identity": identity.of_states(),
        "processing": to_builtins(adapter.processing),
        "mainflow": None if mainflow is None else asdict(mainflow),
        "inputs_sha256": probed.inputs_sha256,
        "software": {
            "microscope_bench": __version__,
            "torch": version("torch"),
            "transformers": version("transformers"),
            "device": adapter.device.type,
        },
    }
