"""Finds the parts of an OmniFusion checkpoint, and reads its two tensor files without running code in them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from microscope_bench.adapters.omnifusion.module import SPECIAL_MARKS, VisualToGPTMapping
from microscope_bench.adapters.pinned_checkpoint import Checkpoint, resolve_checkpoint
from microscope_bench.errors import AdapterError, first_line

PUBLISHED_SUBFOLDER = "OmniMistral-v1_1"
PUBLISHED_TOWER = "openai/clip-vit-large-patch14-336"
# The published language model and CLIP tower may come as .bin; transformers reads those as plain tensors only.
_WEIGHTS = ("*.json", "*.safetensors", "*.bin")
_TOWER_FOLDER = "clip"
_FILES = (
    "tokenizer/*",
    *(f"tuned-model/{pattern}" for pattern in _WEIGHTS),
    *(f"{stem}.{suffix}" for stem in ("projection", "special_embeddings") for suffix in ("pt", "safetensors")),
)

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

_log = logging.getLogger(__name__)


def find_checkpoint(args: Mapping[str, str]) -> Checkpoint:
    """The pinned folder that holds ``tokenizer/``, ``tuned-model/`` and the two tensor files."""
    pretrained, revision, subfolder = args["pretrained"], args.get("revision"), args.get("subfolder")
    directory = Path(pretrained).expanduser()
    files: Sequence[str] = _FILES
    if directory.is_dir():
        if subfolder is None and not (directory / PUBLISHED_SUBFOLDER).is_dir():
            subfolder = ""
        _refuse_incomplete(directory / (PUBLISHED_SUBFOLDER if subfolder is None else subfolder))
        # A tower beside the other parts belongs to the checkpoint's content, whether or not this run uses it.
        files = [*_FILES, *(f"{_TOWER_FOLDER}/{pattern}" for pattern in _WEIGHTS)]
    subfolder = PUBLISHED_SUBFOLDER if subfolder is None else subfolder
    found = resolve_checkpoint(pretrained, revision, files, subfolder=subfolder, weights="tuned-model", pickled=True)
    _refuse_incomplete(found.path)
    return found


def _refuse_incomplete(root: Path) -> None:
    missing = [f"{name}/" for name in ("tokenizer", "tuned-model") if not (root / name).is_dir()]
    missing += [f"{stem}.pt" for stem in ("projection", "special_embeddings") if tensor_file(root, stem) is None]
    if missing:
        raise AdapterError(
            f"{root} is not an OmniFusion checkpoint: it lacks {', '.join(missing)}. Expected are tokenizer/, "
            f"tuned-model/, projection.pt and special_embeddings.pt (or .safetensors), as in subfolder "
            f"{PUBLISHED_SUBFOLDER} of AIRI-Institute/OmniFusion; name another folder with subfolder="
        )


def find_vision_tower(args: Mapping[str, str], checkpoint: Checkpoint) -> Checkpoint:
    """The pinned folder of the CLIP tower: the checkpoint's ``clip/`` where it has one and ``args`` name no other."""
    source, revision = args.get("vision_tower"), args.get("vision_revision")
    beside = checkpoint.path / _TOWER_FOLDER
    if source is None and beside.is_dir() and revision is None:
        source = str(beside)
    tower = resolve_checkpoint(source or PUBLISHED_TOWER, revision, _WEIGHTS, pickled=True)
    _log.info("omnifusion: the vision tower is %s", source or PUBLISHED_TOWER)
    return tower


def tensor_file(directory: Path, stem: str) -> Path | None:
    return next((p for suffix in (".safetensors", ".pt") if (p := directory / f"{stem}{suffix}").is_file()), None)


def load_projection(path: Path) -> VisualToGPTMapping:
    """Loads the projection in float32, its sizes taken from its tensors.

    ``projection.pt`` is a pickled module. An AdapterError is raised, and nothing of it is run, if it refers to anything
    but the modules a projection is made of; only the tensors are used.
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
    """Loads the learned embeddings of the four marks, (d,) each, in the file's dtype, or raises an AdapterError."""
    if path.suffix == ".safetensors":
        loaded: Any = _read_safetensors(path)[0]
    else:
        loaded = _load_known_pickle(path)
    if not isinstance(loaded, dict):
        raise AdapterError(f"{path} should hold a dictionary of tensors, not a {type(loaded).__name__}")
    wrong = [n for n in SPECIAL_MARKS if not (isinstance(loaded.get(n), Tensor) and loaded[n].ndim == 1)]
    if wrong:
        raise AdapterError(
            f"{path} has no one-dimensional tensor named {', '.join(wrong)}; it needs {', '.join(SPECIAL_MARKS)}"
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
                f"{path} is refused: besides tensors and a projection's modules it refers to {', '.join(foreign)}, "
                f"which could run code. Nothing of it was run. Take the file from its publisher, or convert it to "
                f"{path.stem}.safetensors"
            )
        with torch.serialization.safe_globals([(known[name], name) for name in names]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except AdapterError:
        raise
    except Exception as error:  # damaged bytes make zip reader and unpickler raise anything
        raise AdapterError(
            f"{path} cannot be read as a file of torch.save; nothing of it was run: {first_line(error)}"
        ) from error


def _projection_tensors(module: Any, path: Path) -> tuple[dict[str, Tensor], int]:
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
