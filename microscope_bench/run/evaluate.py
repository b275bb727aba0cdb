"""Measures one model on one task."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from microscope_bench.adapters.evaluation_mode import random_states_kept
from microscope_bench.config import RunConfig
from microscope_bench.results.result import Result
from microscope_bench.results.result_files import check_writable
from microscope_bench.run.pipeline import run_resolved
from microscope_bench.run.resolve import resolve
from microscope_bench.system.processes import launched

if TYPE_CHECKING:
    from torch import nn

    from microscope_bench.adapters.base import Adapter
    from microscope_bench.tasks import Task


def evaluate(
    model: str | Adapter | nn.Module,
    task: str | Task,
    config: RunConfig | None = None,
    *,
    processor: Any = None,
    name: str | None = None,
    **options: Any,
) -> Result:
    """Measures one model on one task.

    An interrupted call resumes when it is made again with the same arguments and the same ``output_path`` or ``store``.
    Called by several processes (``torchrun``, ``accelerate launch``) with the same arguments it is one run, which they
    share: the first writes the result, and all of them return it.

    Args:
        model: a name (``microscope-bench ls models``), ``path/to/file.py:name``, a model of transformers that is in
            memory, or a loaded adapter. A model in memory is measured as it is and stays as it is.
        task: a name (``microscope-bench ls tasks``), a path to a task YAML, or a loaded task.
        config: what is asked for; None asks for the standard protocol.
        processor: that of a model in memory; the tokenizer, where it takes text alone.
        name: what results and tables call the model.
        options: fields of :class:`microscope_bench.RunConfig`, in place of the config's: ``limit=100``, ...

    Returns:
        The result; it is also written if there is an ``output_path``.

    Raises:
        MicroscopeError: anything a user can act on; see its subclasses.
    """
    config = replace(config or RunConfig(), **options)
    if name is not None:
        config = replace(config, model_args={**config.model_args, "name": name})
    if config.output_path is not None and launched().is_first:
        check_writable(config.output_path)
    with random_states_kept():
        return run_resolved(resolve(model, task, config, processor))
