"""Which ``--model_args`` there are, and what their values mean. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from msgspec import ValidationError, convert

from microscope_bench.errors import AdapterError, MicroscopeError, unknown_name
from microscope_bench.system.field_types import Name
from microscope_bench.system.key_values import at_least, flag

IDENTIFIED_ELSEWHERE = (
    "pretrained",
    "revision",
    "dtype",
    "attn_implementation",
    "quantization",
    "device_map",
    "max_memory",
    "offload_folder",
    "peft",
)
"""Keys whose effect other fields of ModelInfo record, or that change no number."""

ADAPTER_ARGS = {
    "hf": (*IDENTIFIED_ELSEWHERE, "subfolder", "use_chat_template", "max_length"),
    "omnifusion": (
        *("pretrained", "revision", "subfolder", "vision_tower", "vision_revision", "dtype", "attn_implementation"),
    ),
}
"""Adapter of this package → the model args that it knows."""

DTYPES = ("float32", "bfloat16", "float16")
LOCAL_HINT = "point at a local directory: pretrained=path/to/checkpoint"
QUANTIZATIONS = {
    "bnb-8bit": "bitsandbytes, LLM.int8()",
    "bnb-4bit": "bitsandbytes, NF4",
    "torchao-int8": "torchao, int8 weights",
}
"""Value of model arg ``quantization`` → what it is."""

_MEANT = {
    "load_in_4bit": "quantization=bnb-4bit",
    "load_in_8bit": "quantization=bnb-8bit",
    "torch_dtype": "dtype=...",
    "variant": "a directory in which the weights of that variant are named model.safetensors",
    "gguf_file": "a directory that from_pretrained(DIR, gguf_file=NAME).save_pretrained(NEW) of transformers wrote",
}
"""Arguments of other programs → what stands for them here."""


def recorded_options(args: Mapping[str, str]) -> dict[str, str]:
    """The model args that a model's identity must record, because no other field of it does.

    >>> recorded_options({"pretrained": "org/name", "use_chat_template": "false"})
    {'use_chat_template': 'false'}
    """
    kept = {key: value for key, value in sorted(args.items()) if key not in IDENTIFIED_ELSEWHERE}
    # of a directory only its name is recorded, as everywhere in a result
    return {key: Path(value).name if Path(value).expanduser().exists() else value for key, value in kept.items()}


def check_args(adapter: str, args: Mapping[str, str]) -> None:
    """Raises where an adapter of this package does not know a model arg, or where its value names nothing."""
    refuse_unknown_args(args, ADAPTER_ARGS[adapter])
    if not args.get("pretrained"):
        raise AdapterError(f"{adapter} needs a model: --model_args pretrained=<hub id or directory>")
    check_place(args["pretrained"])
    for key, known in (("dtype", ("auto", *DTYPES)), ("quantization", tuple(QUANTIZATIONS))):
        if args.get(key, known[0]) not in known:
            raise unknown_name(key, args[key], list(known))
    boolean_arg(args, "use_chat_template", False)
    positive_int_arg(args, "max_length")


def check_place(pretrained: str) -> None:
    """Raises an AdapterError where what can only be a path is none."""
    is_path = pretrained.startswith((".", "/", "~")) or pretrained.count("/") > 1
    if is_path and not Path(pretrained).expanduser().exists():
        raise AdapterError(f"pretrained={pretrained}: there is no such directory")


def refuse_unknown_args(args: Mapping[str, str], known: Collection[str]) -> None:
    for key in args:
        if key not in known:
            raise unknown_name(
                "model arg", key, sorted([*known, "name"]), f"Here: {_MEANT[key]}" if key in _MEANT else ""
            )


def boolean_arg(args: Mapping[str, str], key: str, default: bool) -> bool:
    return flag(f"model arg {key}", args[key]) if key in args else default


def title_arg(given: str | None) -> str | None:
    """The model arg ``name``, or a MicroscopeError where it is none."""
    try:
        return convert(given, Name | None)
    except ValidationError:
        raise MicroscopeError(f"model arg name must be one line of text, not {given!r:.80}") from None


def positive_int_arg(args: Mapping[str, str], key: str) -> int | None:
    return at_least(1)(f"model arg {key}", args[key]) if key in args else None
