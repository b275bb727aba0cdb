"""Measures a kept token store again, without the model."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from msgspec import structs, to_builtins

from microscope_bench.capture.sharing import check_same_run
from microscope_bench.config import MEASURED_AGAIN, RunConfig
from microscope_bench.errors import MicroscopeError
from microscope_bench.results.provenance import environment
from microscope_bench.results.result import Result
from microscope_bench.results.result_files import check_writable
from microscope_bench.run.captured import Captured, open_finished
from microscope_bench.run.command_line import command_line
from microscope_bench.run.pipeline import measure, write
from microscope_bench.run.resolve import Stopwatch, metric_code, metric_versions
from microscope_bench.system.processes import launched


def measure_store(store: str | Path, config: RunConfig | None = None, **options: Any) -> Result:
    """Measures a kept token store again, without the model.

    Args:
        store: The directory of the token store.
        config: What to measure, and where to: of its fields, those of :data:`~microscope_bench.config.MEASURED_AGAIN`.
        options: Fields of the config, in place of the config's own.

    Returns:
        The result; it is written where there is an ``output_path``.

    Raises:
        MicroscopeError: another field of the config is given, which decides what is captured.
        StoreError: there is no finished store, or it is damaged.
        ResultError: the result cannot be written.
    """
    config = replace(config or RunConfig(), **options)
    plain = RunConfig(id_tokens=config.id_tokens)
    for field in fields(config):
        if field.name not in MEASURED_AGAIN and getattr(config, field.name) != getattr(plain, field.name):
            raise MicroscopeError(f"{field.name} decides what is captured; a store that is there cannot follow it")
    processes = launched()
    token_store, about = open_finished(store)
    if config.output_path is not None and processes.is_first:
        check_writable(config.output_path)
    metrics = metric_versions(config, mainflow=token_store.mainflow is not None)
    identity = structs.replace(
        about.identity,
        protocol=about.identity.protocol.with_changes(id_tokens=config.id_tokens),
        metrics=metrics,
        metric_code=metric_code(metrics),
    )
    check_same_run(processes, {"identity": to_builtins(identity)})
    here = environment(
        device=about.environment.device,
        processor=about.environment.processor,
        image_processor=about.environment.image_processor,
        command=command_line("microscope-bench measure", config),
        captured=about.environment,
    )
    captured = Captured(token_store, identity, here, Stopwatch(capture=about.capture_seconds))
    measurement = measure(captured, config, processes)
    return processes.from_first(lambda: write(captured, measurement, config))
