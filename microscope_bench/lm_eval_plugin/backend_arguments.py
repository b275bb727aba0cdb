"""``--model_args`` of the backend: which are its own, which lm-eval's, which the adapter's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from microscope_bench.errors import AdapterError
from microscope_bench.measure.correctness import check_split
from microscope_bench.metrics.registry import DEFAULT_METRICS, metric_names
from microscope_bench.protocol import DEFAULT_PROTOCOL, Protocol, named_protocol

LM_EVAL_ARGUMENTS = ("batch_size", "max_batch_size", "add_bos_token", "prefix_token_id", "logits_cache")

LM_EVAL_DEVICE = "cuda:0"
"""What lm-eval's command line asks for where the user names no device."""


@dataclass(frozen=True)
class Settings:
    """What is measured, and how.

    Attributes:
        geometry: whether anything is.
        protocol: under which.
        metrics: names.
        split_by: by what the scores are split too, or None.
    """

    geometry: bool
    protocol: Protocol
    metrics: Sequence[str]
    split_by: str | None = None


@dataclass(frozen=True)
class BackendArguments:
    """The model args, sorted by who reads them.

    Attributes:
        settings: of the geometry.
        model: a named model or an adapter.
        adapter: model args of the adapter.
        device: "cpu", "cuda", ..., or None for a GPU where there is one.
        lm_eval: keyword arguments of lm-eval's class.
    """

    settings: Settings
    model: str
    adapter: Mapping[str, str]
    device: str | None
    lm_eval: Mapping[str, Any]


def sort_arguments(given: Mapping[str, Any], named_models: Mapping[str, Any]) -> BackendArguments:
    """Sorts what lm-eval hands over.

    Args:
        given: ``--model_args`` with ``batch_size`` and ``device``.
        named_models: names that ``pretrained`` may be instead of a hub id or a directory.

    Raises:
        AdapterError: ``pretrained`` is missing, or an argument that lm-eval has a flag for.
        UnknownNameError: no such protocol, metric or split.
    """
    rest = {key: value for key, value in given.items() if value is not None}
    geometry = _boolean("geometry", rest.pop("geometry", True))
    protocol = named_protocol(str(rest.pop("protocol", DEFAULT_PROTOCOL))).with_changes(
        tokens_per_example=_whole("tokens_per_example", rest.pop("tokens_per_example", None)),
        max_skipped=_share("max_skipped", rest.pop("max_skipped", None)),
    )
    named = rest.pop("metrics", None)
    # lm-eval's command line splits model args at commas
    metrics = metric_names(DEFAULT_METRICS if named is None else str(named).replace("+", ","))
    split_by = rest.pop("split_by", None)
    check_split(split_by)
    if "seed" in rest:
        raise AdapterError(
            "microscope: model args have no seed; give lm-eval's --seed, which decides on the selection too"
        )
    if "use_chat_template" in rest:
        raise AdapterError("microscope: lm-eval decides on the chat template; use --apply_chat_template")
    if not rest.get("pretrained"):
        raise AdapterError("microscope needs a model: --model_args pretrained=<hub id, directory or named model>")
    lm_eval = {key: rest.pop(key) for key in LM_EVAL_ARGUMENTS if key in rest}
    for key in ("add_bos_token", "logits_cache"):
        if key in lm_eval:
            lm_eval[key] = _boolean(key, lm_eval[key])
    lm_eval |= {key: _whole(key, lm_eval[key]) for key in ("prefix_token_id",) if key in lm_eval}
    if "model_revision" in rest:  # lm-eval hands model args on to the tasks, where ``revision`` is that of the data
        rest["revision"] = rest.pop("model_revision")
    device = rest.pop("device", None)
    if device == LM_EVAL_DEVICE and not torch.cuda.is_available():
        device = None
    adapter = {key: str(value) for key, value in rest.items()}
    model = "hf"
    if adapter["pretrained"] in named_models:
        model = adapter.pop("pretrained")
    settings = Settings(geometry, protocol, metrics, split_by)
    return BackendArguments(settings, model, adapter, None if device is None else str(device), lm_eval)


def _boolean(key: str, value: Any) -> bool:
    known = {"true": True, "1": True, "false": False, "0": False}
    if str(value).lower() not in known:
        raise AdapterError(f"microscope: model arg {key}={value} is not true or false")
    return known[str(value).lower()]


def _share(key: str, value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        raise AdapterError(f"microscope: model arg {key}={value} is not a number") from None


def _whole(key: str, value: Any) -> int | None:
    try:
        return None if value is None else int(value)
    except ValueError:
        raise AdapterError(f"microscope: model arg {key}={value} is not a whole number") from None
