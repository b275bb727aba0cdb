"""Whether a loaded model took the weights of its files as what they are, and all of them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from microscope_bench.adapters.decoder import find_blocks
from microscope_bench.adapters.overrides import overrides_of
from microscope_bench.adapters.weight_files import json_object
from microscope_bench.adapters.weight_headers import read_header
from microscope_bench.errors import AdapterError

LOG = logging.getLogger("microscope_bench")
PLAIN = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
"""Dtypes of weights that nothing quantised → their names in safetensors."""
_QUANTISED = re.compile(r"\.(SCB|weight_format|qweight|qzeros|g_idx|scales|absmax|quant_map|weight_scale)$|quant_state")


def stored_dtypes(files: Iterable[Path]) -> dict[str, str]:
    """The dtypes of all tensors of those of the files that are of safetensors, by their names in the files."""
    headers = (read_header(file) for file in files if file.suffix == ".safetensors")
    return {name: entry.dtype for header in headers for name, entry in header.items()}


def loading_dtype(given: str | None, config: Any, stored: Mapping[str, str], device: torch.device) -> torch.dtype | str:
    """What transformers loads a checkpoint in: the model arg ``dtype`` or, without one, the default.

    That is the dtype of the checkpoint ("auto"), but on a CPU float32 for one of float16 that nothing quantises: a CPU
    computes in float16 more slowly, and float32 holds each of its numbers. On a GPU float32 would take twice the memory
    and several times as long.

    Args:
        given: "auto" or the name of a dtype; None where the user names none.
        config: The configuration of the model.
        stored: Names of the weights in their files → dtypes as safetensors calls them.
        device: Where the model runs.
    """
    if given is not None:
        return given if given == "auto" else getattr(torch, given)
    if device.type != "cpu":
        return "auto"
    halved = "F16" in stored.values() if config.dtype is None else config.dtype == torch.float16
    configs = (config, config.get_text_config(decoder=True))
    quantised = any(getattr(one, "quantization_config", None) is not None for one in configs)
    return torch.float32 if halved and not quantised else "auto"


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype as in safetensors, or torch's own where it is none of plain weights."""
    return PLAIN.get(dtype, str(dtype).removeprefix("torch."))


def check_places(model: Any, repo: str, directory: Path, *, stored: Mapping[str, str], unplaced: Iterable[str]) -> None:
    """Warns of weights that have no place in a transformers model (``unplaced``), and refuses what changes a number.

    Raises:
        AdapterError: the weights are quantised and config.json does not say how, or belong to a PEFT adapter or to
            further blocks of the decoder.
    """
    kind, unplaced = type(model).__name__, sorted(unplaced)
    if lora := [key for key in unplaced if "lora_" in key]:
        raise AdapterError(
            f"{len(lora)} weights of the PEFT adapter of {repo} have no place in {kind} ({', '.join(lora[:3])}); it "
            f"was made for another model"
        )
    if not _says_quantised(directory) and (found := _quantised(model, stored, unplaced)):
        raise AdapterError(
            f"{repo} holds quantised weights ({', '.join(found[:3])}) but config.json says nothing of it, so they "
            f"would be read as they lie, without scales. Put its quantization_config back, or take the weights of "
            f"before the quantisation."
        )
    if blocks := _further_blocks(model, unplaced):
        raise AdapterError(
            f"{repo} holds weights of more decoder blocks than config.json says ({', '.join(blocks[:3])}), and a model "
            f"cut short is another one. Put the number of layers in config.json right, or remove these weights."
        )
    if unplaced:
        LOG.warning("%s: %d weights have no place in %s: %s", repo, len(unplaced), kind, ", ".join(unplaced[:5]))


def _says_quantised(directory: Path) -> bool:
    config = json_object(directory / "config.json") or {}
    text = config.get("text_config")
    return any(isinstance(part, dict) and part.get("quantization_config") for part in (config, text))


def _quantised(model: Any, stored: Mapping[str, str], unplaced: Iterable[str]) -> list[str]:
    """Scales that are left over, and weights that are no plain floats; masks and positions are of integers too."""
    parameters = {_ending(name) for name, _ in model.named_parameters()}
    cast = [
        f"{name} of {dtype}"
        for name, dtype in stored.items()
        if dtype not in PLAIN.values() and (name.endswith(".weight") or _ending(name) in parameters)
    ]
    return cast + [key for key in unplaced if _QUANTISED.search(key)]


def _ending(name: str) -> str:
    """The last two parts of a weight's name, which are its own whatever a checkpoint calls the model around it."""
    return ".".join(name.split(".")[-2:])


def _further_blocks(model: Any, unplaced: Iterable[str]) -> list[str]:
    """Weights of decoder blocks beyond the last, those of blocks that predict further tokens (MTP) excepted."""
    if not model.can_generate():  # a vision tower by itself
        return []
    try:
        blocks = find_blocks(model, overrides_of(model.config).stack)
    except AdapterError:  # an adapter may find them in its own way
        return []
    prefix = next(f"{name}." for name, module in model.named_modules() if module is blocks)
    usual = {name for block in blocks for name in block.state_dict()}
    inside: dict[str, list[str]] = {}
    for key in unplaced:
        number, _, inner = key.removeprefix(prefix).partition(".")
        if key.startswith(prefix) and number.isdecimal() and int(number) >= len(blocks):
            inside.setdefault(number, []).append(inner)
    return [f"{prefix}{number}.{names[0]}" for number, names in inside.items() if usual.issuperset(names)]
