"""The first step of a run: from names to loaded objects, everything pinned, before the first forward pass."""

from __future__ import annotations

import logging
import math
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from msgspec import structs, to_builtins
from torch import nn

from microscope_bench import __version__
from microscope_bench.adapters.base import Adapter
from microscope_bench.adapters.evaluation_mode import evaluation_mode
from microscope_bench.adapters.in_memory import in_memory
from microscope_bench.adapters.measured_model import measured_model
from microscope_bench.adapters.model_args import title_arg
from microscope_bench.adapters.presets import load_model
from microscope_bench.capture.fingerprints import ProbedInputs, probe_inputs
from microscope_bench.capture.loop import Capture
from microscope_bench.capture.mainflow import Mainflow
from microscope_bench.capture.selection import RULE
from microscope_bench.config import RunConfig
from microscope_bench.controls import Run, with_control
from microscope_bench.errors import MicroscopeError
from microscope_bench.example import ExampleSource
from microscope_bench.identity import Identity, TaskInfo, checked
from microscope_bench.measure.correctness import VERSION as SPLIT_VERSION
from microscope_bench.measure.memory_budget import check_enough
from microscope_bench.metrics.registry import METRICS
from microscope_bench.protocol import Protocol
from microscope_bench.results.records import Timing
from microscope_bench.run.task_settings import OF_LOADING, task_settings
from microscope_bench.system.field_types import content_sha256

if TYPE_CHECKING:
    from microscope_bench.tasks import Task

LOG = logging.getLogger("microscope_bench")
PROBE_EXAMPLES = 8
"""Examples encoded before a run, to tell whether a store found on disk is of the same inputs."""


class Stopwatch:
    """Seconds per stage of a run."""

    def __init__(self, **seconds: float) -> None:
        self.started = datetime.now(UTC)
        self.seconds = seconds
        self.current = "load"

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time inside the context to a stage."""
        self.current = name
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin

    def record(self) -> Timing:
        """What the result says of it, with the process's peak memory."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds = self.seconds | {"total": sum(self.seconds.values())}
        return Timing(
            started_utc=self.started.strftime("%Y-%m-%dT%H:%M:%SZ"),
            seconds={name: round(value, 3) for name, value in seconds.items()},
            # kilobytes on Linux, bytes on macOS
            peak_memory_bytes=peak if sys.platform == "darwin" else peak * 1024,
        )


@dataclass(frozen=True)
class Resolved:
    """A run before its first forward pass: everything that was named is found, loaded and pinned."""

    config: RunConfig
    adapter: Adapter
    source: ExampleSource
    probed: ProbedInputs
    identity: Identity
    states: Mapping[str, Any]  # all that decides the stored states; it names the token store
    stopwatch: Stopwatch
    model_name: str | None = None

    @property
    def protocol(self) -> Protocol:
        """The config's, its limit a number of this task's examples."""
        return self.identity.protocol

    @property
    def n_examples(self) -> int:
        """How many examples are asked for."""
        return self.identity.n_examples


def resolve(model: str | Adapter | nn.Module, task: str | Task, config: RunConfig, processor: Any = None) -> Resolved:
    """Finds and loads what a run names; see :func:`microscope_bench.evaluate`."""
    stopwatch = Stopwatch()
    with stopwatch.stage("load"):
        # the task first: it is the cheaper of the two to get wrong
        task = load_task_for(task, config)
        adapter = load_adapter_for(model, config, processor)
    if isinstance(model, nn.Module) and config.device is None:
        config = replace(config, device=str(adapter.device))
    resolved = resolve_loaded(adapter, task, config, stopwatch)
    return replace(resolved, model_name=model if isinstance(model, str) else None)


def load_adapter_for(model: str | Adapter | nn.Module, config: RunConfig, processor: Any = None) -> Adapter:
    """The model of a name, or one that is loaded already, watched where the config says."""
    if processor is not None and not isinstance(model, nn.Module):
        raise MicroscopeError("processor is for a model of transformers that is in memory; others bring theirs along")
    if isinstance(model, str):
        return load_model(model, config.model_args, config.device).tapped(config.tap)
    if isinstance(model, nn.Module):
        model = in_memory(model, processor, config.model_args)
    elif not isinstance(model, Adapter):
        raise MicroscopeError(
            f"model must be a name, FILE.py:NAME, a model of transformers or a loaded Adapter, not {model!r:.80}"
        )
    elif given := ", ".join(key for key in config.model_args if key != "name"):
        raise MicroscopeError(f"{model.info.name} is loaded already: give model args ({given}) where it is loaded")
    elif title := title_arg(config.model_args.get("name")):
        model = copy(model)
        model.info = structs.replace(model.info, name=title)
    with evaluation_mode(model):  # a tap makes passes to find its place
        return model.tapped(config.tap)


def load_task_for(task: str | Task, config: RunConfig) -> Task:
    """The task of a name, or one that is loaded already."""
    if isinstance(task, str):
        from microscope_bench.tasks import load_task  # needs lm_eval, which a run on a task object does not

        return load_task(
            task, include_path=config.include_path, task_args=config.task_args, settings=task_settings(config)
        )
    if not hasattr(task, "example"):
        raise MicroscopeError(f"task must be one name, the path of a YAML or a loaded Task, not {task!r:.80}")
    if late := [name for name in OF_LOADING if getattr(config, name) not in (None, {}, "")]:
        raise MicroscopeError(
            f"task {task.name} is loaded already: give {', '.join(late)} to load_task; all but task_args as "
            f"settings=TaskSettings(...)"
        )
    return task


def resolve_loaded(
    adapter: Adapter, task: Task, config: RunConfig, stopwatch: Stopwatch, rows: Sequence[int] | None = None
) -> Resolved:
    """A run of a model and a task that are loaded."""
    protocol = config.protocol.with_changes(limit=limit_of(config.limit, task))
    if adapter.info.n_layers == 0 and set(config.metrics) == {"linearity"}:
        raise MicroscopeError("the projector is one boundary and linearity maps one to the next; choose other metrics")
    rows = range(min(len(task), protocol.limit or len(task))) if rows is None else rows
    check_enough(config, adapter.info.hidden_size, len(rows), len(adapter.modalities))
    source: ExampleSource = task
    if config.control is not None:
        with stopwatch.stage("load"):
            changed = with_control(config.control, Run(adapter, task, len(rows), protocol.seed))
        adapter, source = changed.adapter, changed.source
    with stopwatch.stage("capture"), evaluation_mode(adapter):
        probed = probe_inputs(adapter, source, rows[:PROBE_EXAMPLES])
        loop = Capture(adapter, source, protocol, config.batch_size)
        mainflow = loop.find_mainflow() if config.mainflow else None
    if adapter.template_untold is not None:
        LOG.warning("the chat template's words count as text: %s", adapter.template_untold)
    if config.mainflow and "linearity" not in config.metrics:
        LOG.warning("stream mainflow is captured, but only metric linearity measures it: --metrics linearity,...")
    if mainflow is not None and not mainflow.exists:
        LOG.warning("stream mainflow is left out: %s", mainflow.missing_because)
    versions = metric_versions(config, mainflow=mainflow is not None)
    identity = identity_of(adapter, source, protocol, rows, probed.prompt_sha256, versions)
    states = stored_states(identity, adapter, probed, mainflow)
    return Resolved(config, adapter, source, probed, identity, states, stopwatch)


def limit_of(limit: float | None, task: Task) -> int | None:
    """How many examples a limit stands for: below 1 it is a share of the task's, rounded up, as in lm-eval."""
    if limit is None:
        return None
    if getattr(task, "sampled", False):
        raise MicroscopeError(f"limit excludes samples and sample, of which one has chosen the rows of {task.name}")
    return math.ceil(len(task) * limit) if limit < 1 else int(limit)


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
    identity = Identity(
        protocol=protocol,
        model=measured_model(adapter),
        task=TaskInfo(source.name, source.version),
        dataset=source.dataset,
        n_examples=len(rows),
        example_ids_sha256=content_sha256(sorted(ids[row] for row in rows)),
        prompt_sha256=prompt_sha256,
        selection=RULE,
        metrics=metrics,
        metric_code=metric_code(metrics),
    )
    return checked(identity)


def metric_versions(config: RunConfig, *, mainflow: bool) -> dict[str, int]:
    """Version of each metric. A run asked for stream ``mainflow`` or a split has more scores than one that was not."""
    versions = {name: METRICS.get(name).version for name in config.metrics}
    if mainflow and "linearity" in versions:
        versions["linearity.mainflow"] = versions["linearity"]
    if config.split_by is not None:
        versions[f"split_by.{config.split_by}"] = SPLIT_VERSION
    return dict(sorted(versions.items()))


def metric_code(metrics: Iterable[str]) -> dict[str, str]:
    """What tells the code of the metrics that other packages add, by name."""
    return {name: code for name in metrics if (code := METRICS.code_of(name))}


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
