"""What the values of ``--model_args`` mean. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from microscope_bench.errors import AdapterError
from microscope_bench.system.lazy_registry import unknown_name

_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

IDENTIFIED_ELSEWHERE = (
    "pretrained",
    "revision",
    "dtype",
    "attn_implementation",
    "quantization",
    "device_map",
    "max_memory",
    "offload_folder",
    "trust_remote_code",
)
"""Keys whose effect other fields of ModelInfo record, or that change no number."""


def recorded_options(args: Mapping[str, str]) -> dict[str, str]:
    """The model args that a model's identity must record, because no other field of it does.

    >>> recorded_options({"pretrained": "org/name", "use_chat_template": "false"})
    {'use_chat_template': 'false'}
    """
    kept = {key: value for key, value in sorted(args.items()) if key not in IDENTIFIED_ELSEWHERE}
    # of a directory only its name is recorded, as everywhere in a result
    return {key: Path(value).name if Path(value).expanduser().exists() else value for key, value in kept.items()}


def refuse_unknown_args(args: Mapping[str, str], known: Collection[str]) -> None:
    for key in args:
        if key not in known:
            raise unknown_name("model arg", key, sorted(known), f"This adapter knows: {', '.join(sorted(known))}.")


def boolean_arg(args: Mapping[str, str], key: str, default: bool) -> bool:
    value = args.get(key)
    if value is None:
        return default
    if value.lower() not in _BOOLEANS:
        raise AdapterError(f"model arg {key}={value} is not true or false")
    return _BOOLEANS[value.lower()]


def positive_int_arg(args: Mapping[str, str], key: str) -> int | None:
    value = args.get(key)
    if value is None:
        return None
    if not value.isdecimal() or int(value) < 1:
        raise AdapterError(f"model arg {key}={value} is not a positive whole number")
    return int(value)
