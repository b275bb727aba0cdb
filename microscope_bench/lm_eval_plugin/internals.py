"""Everything of lm-eval that the backend uses beyond its documented interface; ``tests/lm_eval_plugin`` holds it to it.

Written for lm-eval 0.4.13.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from traceback import walk_stack
from typing import Any

# first: a model that is registered before them hides lm-eval's own
import lm_eval.models  # noqa: F401
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.hf_vlms import HFMultimodalLM
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

from microscope_bench.config import FourSeeds, RunConfig, read_field
from microscope_bench.rgb_pictures import media_in
from microscope_bench.tasks.data_sets import open_splits
from microscope_bench.tasks.lm_eval_tasks import directories_of
from microscope_bench.tasks.picture_columns import with_picture_columns
from microscope_bench.tasks.settings import Seeds

__all__ = [
    "HFLM",
    "LM",
    "HFMultimodalLM",
    "Instance",
    "Running",
    "cli_evaluate",
    "handle_stop_sequences",
    "normalize_gen_kwargs",
    "output_path",
    "pictures_of",
    "postprocess_generated_text",
    "read_data_by_our_rules",
    "register_model",
    "running",
]

EVALUATOR = "lm_eval.evaluator"


@dataclass(frozen=True)
class Running:
    """The evaluation that is under way."""

    tasks: Mapping[str, Any]
    limit: float | None  # documents of each task, below 1 which share; None for all
    samples: Mapping[str, Sequence[int]]
    cache_requests: bool
    templated: bool  # whether lm-eval puts prompts through the chat template
    system_instruction: str | None
    seeds: tuple[int | None, int | None, int | None]  # of Python, of NumPy, of few-shot examples
    simple: bool  # one of ``simple_evaluate``, which asks the model for its results at the end

    def filled_into(self, config: RunConfig) -> RunConfig:
        """The config with what lm-eval's own options ask for."""
        python, numpy, fewshot = (
            default if seed is None else seed for seed, default in zip(self.seeds, astuple(Seeds()), strict=True)
        )
        return replace(
            config,
            limit=self.limit,
            samples=self.samples,
            system_instruction=self.system_instruction,
            seed=FourSeeds(python, numpy, 0, fewshot),
            apply_chat_template=self.templated,
        )


def read_data_by_our_rules() -> None:
    """Lets lm-eval's tasks read their data sets as those of ``microscope-bench run`` do; see docs/inputs.md."""

    def download(self: Any, dataset_kwargs: Mapping[str, Any] | None = None, **options: Any) -> None:
        if callable(self.config.custom_dataset):
            lm_evals_own(self, dataset_kwargs, **options)
        else:
            self.dataset = open_splits(self.DATASET_PATH, self.DATASET_NAME, dataset_kwargs or {})
        shown, directories = self.config.doc_to_image, directories_of(self.config)
        self.dataset = {
            split: with_picture_columns(rows, shown, directories) if hasattr(rows, "cast_column") else rows
            for split, rows in self.dataset.items()
        }

    lm_evals_own = ConfigurableTask.download
    ConfigurableTask.download = download


def running() -> Running | None:
    """The evaluation that calls the backend right now, or None where nothing of lm-eval does.

    A backend is handed requests, which name their task but do not hold it. lm-eval has no other way to tell it.

    Raises:
        MicroscopeError: a chat template is asked for by name.
    """
    evaluate, around = _locals_of("evaluate"), _locals_of("simple_evaluate")
    if evaluate is None:
        return None
    simple = around or {}
    return Running(
        tasks=dict(evaluate["eval_tasks"]),
        limit=evaluate["limit_arg"],
        samples=dict(evaluate["samples"] or {}),
        cache_requests=bool(evaluate["cache_requests"]),
        templated=read_field("apply_chat_template", evaluate["apply_chat_template"]),
        system_instruction=evaluate["system_instruction"],
        seeds=(simple.get("random_seed"), simple.get("numpy_random_seed"), simple.get("fewshot_random_seed")),
        simple=around is not None,
    )


def output_path() -> str | None:
    """``--output_path`` of the run that calls the backend right now, or None."""
    tracker = (_locals_of("simple_evaluate") or {}).get("evaluation_tracker")
    return None if tracker is None or not tracker.output_path else str(tracker.output_path)


def pictures_of(request: Instance) -> list[Any] | None:
    """The pictures of a request, or None for one of a task without pictures."""
    return media_in(request.args[2]["visual"]) if len(request.args) > 2 and "visual" in request.args[2] else None


def _locals_of(function: str) -> Mapping[str, Any] | None:
    """What a function of lm-eval's evaluator holds while it calls us."""
    for frame, _ in walk_stack(sys._getframe()):
        if frame.f_code.co_name == function and frame.f_globals.get("__name__") == EVALUATOR:
            return frame.f_locals
    return None
