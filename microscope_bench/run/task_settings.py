"""What a run asks of its tasks; imports no torch."""

from __future__ import annotations

from microscope_bench.config import RunConfig
from microscope_bench.tasks.settings import Seeds, TaskSettings

OF_LOADING = ("task_args", "num_fewshot", "system_instruction", "samples", "sample")
"""Fields of the config that act when a task is loaded, and that mean nothing for one that is."""


def task_settings(config: RunConfig) -> TaskSettings:
    """What a run asks of its tasks."""
    seed = config.seed
    seeds = Seeds() if seed is None else Seeds(seed.python, seed.numpy, seed.fewshot)
    return TaskSettings(config.num_fewshot, config.system_instruction, config.samples, seeds, config.sample)
