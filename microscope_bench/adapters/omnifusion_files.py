"""Reads the two tensor files of a published OmniFusion checkpoint without running anything that is in them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from microscope_bench.adapters.omnifusion_model import SPECIAL_MARKS, VisualToGPTMapping
from microscope_bench.errors import AdapterError

PUBLISHED_HEADS = 4
"""Attention heads of the published projection; a ``projection.safetensors`` may say otherwise in its metadata."""

_PROJECTION_PARTS = {
    f"{part.__module__}.{part.__qualname__}": part
    for part in (
        nn.TransformerEncoderLayer,
        nn.MultiheadAttention,
        NonDynamicallyQuantizableLinear,
        nn.Linear,
        nn.Dropout,
        nn.LayerNorm,
        functional.relu,
    )
}


def tensor_file(directory: Path, stem: str) -> Path | None:
    """``stem.safetensors`` where there is one, else ``stem.pt``, else None."""
    return next((p for suffix in (".safetensors", ".pt") if (p := directory / f"{stem}{suffix}").is_file()), None)


def load_projection(path: Path) -> VisualToGPTMapping:
    """Loads the projection in float32, its sizes taken from its tensors.

    ``projection.pt`` is a pickled module. What its pickle refers to is listed first, without running it, and anything
    but the modules a projection is made of is refused; of what is then read only the tensors are used.

    Raises:
        AdapterError: the file refers to anything else, is damaged, or is not a projection of the published kind.
    """
    if path.suffix == ".safetensors":
        tensors, metadata = _read_safetensors(path)
        heads = int(metadata.get("heads", PUBLISHED_HEADS))
    else:
        tensors, heads = _projection_tensors(_load_known_pickle(path), path)
    try:
        projection = VisualToGPTMapping(
            vision_size=tensors["transformer_layer.norm1.weight"].shape[0],
            text_size=tensors["linear.weight"].shape[0],
            feed_forward=tensors["transformer_layer.linear1.weight"].shape[0],
            heads=heads,
        )
        projection.load_state_dict(dict(tensors), strict=True)
    except (KeyError, AssertionError, RuntimeError) as error:
        raise AdapterError(f"{path} is not a projection of the published layout: {error}") from error
    return projection


def load_special_embeddings(path: Path) -> dict[str, Tensor]:
    """Loads the learned embeddings of the four marks, (d,) each, in the dtype of the file.

    Raises:
        AdapterError: the file holds anything but tensors, is damaged, or lacks a mark.
    """
    if path.suffix == ".safetensors":
        loaded: Any = _read_safetensors(path)[0]
    else:
        loaded = _load_known_pickle(path)
    if not isinstance(loaded, dict):
        raise AdapterError(f"{path} should hold a dictionary of tensors, not a {type(loaded).__name__}")
    wrong = [n for n in SPECIAL_MARKS if not (isinstance(loaded.get(n), Tensor) and loaded[n].ndim == 1)]
    if wrong:
        raise AdapterError(
            f"{path} has no one-dimensional tensor named {', '.join(wrong)}; it needs {[*SPECIAL_MARKS]}"
        )
    return {name: loaded[name].detach() for name in SPECIAL_MARKS}


def _load_known_pickle(path: Path) -> Any:
    """Unpickles under torch's restricted unpickler, which builds nothing that is not on its list.

    The list: what plain tensors need, the modules a projection is made of, and the projection's class under whatever
    module it was saved from ("models", "__main__"), which becomes the class of this package.
    """
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        own = {name: VisualToGPTMapping for name in names if name.rpartition(".")[2] == VisualToGPTMapping.__name__}
        known: dict[str, Any] = {**_PROJECTION_PARTS, **own}
        if foreign := sorted(set(names) - set(known)):
            raise AdapterError(
                f"{path} is refused: besides tensors and the known modules it refers to {', '.join(foreign)}, which could "
                f"run code. Nothing of it was run. Take the file from its publisher, or convert it to {path.stem}.safetensors"
            )
        with torch.serialization.safe_globals([(known[name], name) for name in names]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, ValueError, RuntimeError, EOFError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise AdapterError(
            f"{path} cannot be read as a file of torch.save; nothing of it was run: {first_line}"
        ) from error


def _projection_tensors(module: Any, path: Path) -> tuple[dict[str, Tensor], int]:
    """The tensors of an unpickled projection, and the number of its heads, which no shape tells."""
    if not isinstance(module, VisualToGPTMapping):
        raise AdapterError(f"{path} should hold a {VisualToGPTMapping.__name__} module, not a {type(module).__name__}")
    try:
        layer: Any = module.transformer_layer
        as_published = not layer.norm_first and layer.self_attn.batch_first and layer.activation is functional.relu
        heads, tensors = int(layer.self_attn.num_heads), module.state_dict()
    except (AttributeError, TypeError) as error:
        raise AdapterError(f"{path} is not a projection of the published layout: {error}") from error
    if not as_published:
        raise AdapterError(f"{path}: the projection's transformer layer is not post-norm, batch-first and ReLU")
    return tensors, heads


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise AdapterError(f"{path} is damaged: {error}") from error
