"""Evaluations whose answers or geometry would lie, refused with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from microscope_bench.adapters.base import Adapter
from microscope_bench.errors import CaptureError
from microscope_bench.lm_eval_plugin.internals import Instance, Running, pictures_of


def check_evaluation(now: Running | None) -> Running:
    """The evaluation, unless its geometry would lie."""
    if now is None or not now.simple:
        raise CaptureError(
            "microscope: geometry needs to know the tasks and the seeds, and needs to be asked for its results, as "
            "lm_eval.simple_evaluate does; call that, or load the model with geometry=false"
        )
    if now.seeds[2] is None and any(task.config.num_fewshot for task in now.tasks.values()):
        raise CaptureError(
            "few-shot examples that are drawn without a seed and geometry exclude each other: a result could not say "
            "which they were. Leave the seed out for lm-eval's 1234, or give a number"
        )
    if now.cache_requests:
        raise CaptureError(
            "--cache_requests and geometry exclude each other: the cache is not told by the task's version or data, so "
            "it may hold prompts of before an edit. Leave it out, or load the model with geometry=false"
        )
    for name, task in now.tasks.items():
        if task.config.doc_to_audio is not None:
            raise CaptureError(f"{name} lets sound be heard, which lm-eval's transformers models cannot be given")
    return now


def check_images(requests: Sequence[Instance], tasks: Any) -> None:
    """Raises for image requests that would be answered wrongly."""
    for name, task in (tasks or {}).items():
        if task.config.doc_to_image is not None and task.config.num_fewshot:
            raise CaptureError(
                f"{name}: num_fewshot is {task.config.num_fewshot}, but lm-eval hands over the pictures of the "
                f"question alone, not those of its few-shot examples. Run it with --num_fewshot 0"
            )
    with_pictures = Counter((str(r.task_name), bool(pictures_of(r))) for r in requests)
    for name in {name for name, _ in with_pictures}:
        if with_pictures[name, True] and with_pictures[name, False]:
            raise CaptureError(
                f"{name} mixes documents with and without pictures ({with_pictures[name, True]} and "
                f"{with_pictures[name, False]} requests); what a model computes would hang on the batch. Make two tasks"
            )


def check_text(adapter: Adapter, requests: Sequence[Instance]) -> None:
    """Raises where a prompt's states would hang on what lm-eval puts behind it."""
    if adapter.sees == "sequence":
        raise CaptureError(
            f"{adapter.info.name}: what it computes of a prompt hangs on all that it is given, and lm-eval gives it "
            f"prompt and answer as one text. Measure {requests[0].task_name} with: microscope-bench run, or load the "
            f"model with geometry=false"
        )


def refuse_cached_answers(*, geometry: bool) -> None:
    """Raises where answers are to come from ``--use_cache``, and states beside them from passes."""
    if geometry:
        raise CaptureError(
            "--use_cache and geometry exclude each other: a cached answer needs no forward pass, so there is nothing "
            "to measure, and the cache does not know which model it is of. Leave it out, or load the model with "
            "geometry=false"
        )


def refuse_several_answers(options: Mapping[str, Any], *, geometry: bool) -> None:
    """Raises where one prompt takes several rows of a batch, which could not be told apart."""
    if geometry and (options.get("num_beams") or 1) * (options.get("num_return_sequences") or 1) > 1:
        raise CaptureError("geometry and several beams or answers for one prompt exclude each other: use num_beams=1")
