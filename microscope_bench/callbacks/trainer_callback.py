"""A callback by which transformers' Trainer measures the geometry of the model that it trains."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from traceback import walk_stack
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from microscope_bench.adapters.evaluation_mode import random_states_kept
from microscope_bench.callbacks.measured_step import begin_anew, measure_step, warn_once
from microscope_bench.config import RunConfig
from microscope_bench.errors import AdapterError, MicroscopeError, TaskError, UnknownNameError, said
from microscope_bench.run.resolve import load_task_for
from microscope_bench.run.task_settings import OF_LOADING
from microscope_bench.system.key_values import at_least
from microscope_bench.tasks import Task


class GeometryCallback(TrainerCallback):  # type: ignore[misc]
    """Measures when the training begins, every so many steps, and at the end.

    Means over the layers go to the Trainer's log, and so to whatever it reports to, with the seconds that they took and
    the share of the training's time so far. A result of each step goes below ``geometry`` of the Trainer's
    ``output_dir``. Whatever fails is a warning, once for each reason, and the training goes on. Of several processes
    the first one measures, and the others wait for it at their next exchange.

    Args:
        task: what to measure on.
        every: how many steps lie between two measurements.
        processor: that of the model (default: the Trainer's ``processing_class``).
        name: what results call the model (default: its class), with the step behind it.
        options: fields of :class:`microscope_bench.RunConfig`, such as ``limit=64`` and ``metrics="linearity"``.

    Raises:
        MicroscopeError: an option that means nothing.
    """

    def __init__(
        self, task: str | Task, every: int, *, processor: Any = None, name: str | None = None, **options: Any
    ) -> None:
        self.every = at_least(1)("every", every)
        RunConfig(**options)
        self._task, self._processor, self._name, self._options = task, processor, name, options
        self._trainer: Any = None
        self._works = False
        self._begun = self._seconds = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Loads the task and measures for the first time; tells of a model that cannot be measured."""
        self._works = state.is_world_process_zero
        self._trainer, self._begun, self._seconds = _calling_trainer(), time.perf_counter(), 0.0
        self._options = {"output_path": Path(args.output_dir) / "geometry", **self._options}
        if not self._works:
            return
        begin_anew(given["model"])
        with random_states_kept():
            try:
                self._task = load_task_for(self._task, RunConfig(**self._options))
            except Exception as error:
                self._tell(given["model"], error)
                return
        self._options = {key: value for key, value in self._options.items() if key not in OF_LOADING}
        self._measure(state, control, given)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Measures, where it is time to."""
        last = control.should_training_stop or state.global_step >= state.max_steps
        if self._works and (last or state.global_step % self.every == 0):
            self._measure(state, control, given)

    def _measure(self, state: TrainerState, control: TrainerControl, given: dict[str, Any]) -> None:
        begin, step = time.perf_counter(), state.global_step
        processor = given.get("processing_class") if self._processor is None else self._processor
        try:
            values = measure_step(
                given["model"], self._task, step, processor=processor, name=self._name, **self._options
            )
        except Exception as error:
            self._tell(given["model"], error)
            return
        seconds = time.perf_counter() - begin
        self._seconds += seconds
        values["geometry/seconds"] = round(seconds, 3)
        values["geometry/share_of_time"] = round(self._seconds / (time.perf_counter() - self._begun), 4)
        if self._trainer is None:
            state.log_history.append({**values, "step": step})
            return
        should_log = control.should_log  # of the training's own values, which are still to come
        self._trainer.log(values)
        control.should_log = should_log

    def _tell(self, model: Any, error: Exception) -> None:
        reason = str(error) if isinstance(error, MicroscopeError) else said(error)
        if isinstance(error, AdapterError | TaskError | UnknownNameError):
            self._works = False
            warn_once(model, f"the geometry of this training is not measured: {reason}")
        else:
            warn_once(model, f"the geometry of a step could not be measured, and the training goes on: {reason}")


def _calling_trainer() -> Any:
    """The Trainer that calls a callback right now: it gives its callbacks no other way to its log."""
    frames = (frame.f_locals.get("self") for frame, _ in walk_stack(sys._getframe()))
    return next((caller for caller in frames if isinstance(caller, Trainer)), None)
