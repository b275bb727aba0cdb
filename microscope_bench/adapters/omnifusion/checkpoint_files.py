"""Finds the parts of an OmniFusion checkpoint, and reads its two tensor files without running code in them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from microscope_bench.adapters.omnifusion.module import SPECIAL_MARKS, VisualToGPTMapping
from microscope_bench.adapters.omnifusion.pickled_tensors import PickledFile, PickledModule, PickledTensor
from microscope_bench.adapters.pinned_checkpoint import Checkpoint, resolve_checkpoint
from microscope_bench.adapters.weight_files import tell_unread, weights_in
from microscope_bench.adapters.weight_headers import read_header
from microscope_bench.adapters.weight_places import PLAIN
from microscope_bench.errors import AdapterError

PUBLISHED_SUBFOLDER = "OmniMistral-v1_1"
PUBLISHED_TOWER = "openai/clip-vit-large-patch14-336"
# The published language model and CLIP tower may come as .bin; transformers reads those as plain tensors only.
_WEIGHTS = ("*.json", "*.safetensors", "*.bin")
_TOWER_FOLDER = "clip"
_TENSOR_FILES = {
    f"{stem}.{suffix}" for stem in ("projection", "special_embeddings") for suffix in ("pt", "safetensors")
}
_FILES = ("tokenizer/*", *(f"tuned-model/{pattern}" for pattern in _WEIGHTS), *sorted(_TENSOR_FILES))

PUBLISHED_HEADS = 4
"""Attention heads of the published projection; a ``projection.safetensors`` may say otherwise in its metadata."""

_SIZES = ("transformer_layer.norm1.weight", "linear.weight", "transformer_layer.linear1.weight")
"""Tensors of a projection whose first dimensions are its width, the language model's, and that of its feed-forward."""

_PARTS = (nn.TransformerEncoderLayer, nn.MultiheadAttention, NonDynamicallyQuantizableLinear, nn.Linear, nn.Dropout)
_ACTIVATION = f"{functional.relu.__module__}.{functional.relu.__qualname__}"
_PROJECTION_PARTS = {_ACTIVATION, *(f"{part.__module__}.{part.__qualname__}" for part in (*_PARTS, nn.LayerNorm))}

_log = logging.getLogger(__name__)


def find_checkpoint(args: Mapping[str, str]) -> Checkpoint:
    """The pinned folder that holds ``tokenizer/``, ``tuned-model/`` and the two tensor files."""
    pretrained, revision, subfolder = args["pretrained"], args.get("revision"), args.get("subfolder")
    directory = Path(pretrained).expanduser()
    files: Sequence[str] = _FILES
    if directory.is_dir():
        if subfolder is None and not (directory / PUBLISHED_SUBFOLDER).is_dir():
            subfolder = ""
        root = directory / (PUBLISHED_SUBFOLDER if subfolder is None else subfolder)
        _refuse_incomplete(root)
        # A tower beside the other parts belongs to the checkpoint's content, whether or not this run uses it.
        files = [*_FILES, *(f"{_TOWER_FOLDER}/{pattern}" for pattern in _WEIGHTS)]
        files = [name for name in files if name not in _TENSOR_FILES - _tensor_files_read(root)]
    subfolder = PUBLISHED_SUBFOLDER if subfolder is None else subfolder
    found = resolve_checkpoint(pretrained, revision, files, subfolder=subfolder, weights="tuned-model", pickled=True)
    _refuse_incomplete(found.path)
    read = _tensor_files_read(found.path)
    beside = {name for name in _TENSOR_FILES if (found.path / name).is_file()} | weights_in(found.path)
    tell_unread(found.path, [*sorted(read), "tuned-model/"], beside - read)
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


def _tensor_files_read(directory: Path) -> set[str]:
    return {path.name for stem in ("projection", "special_embeddings") if (path := tensor_file(directory, stem))}


def load_projection(path: Path) -> VisualToGPTMapping:
    """Loads the projection in float32, its sizes taken from its tensors.

    ``projection.pt`` is a pickled module, of which only the tensors are used. An AdapterError is raised, and nothing of
    it is run, if it refers to anything but the modules that a projection is made of.
    """
    tensors, heads = _stored_projection(path) if path.suffix == ".safetensors" else _pickled_projection(path)
    if cast := sorted(name for name, tensor in tensors.items() if tensor.dtype not in PLAIN):
        raise AdapterError(
            f"{path} holds quantised weights ({cast[0]} of {tensors[cast[0]].dtype}), which would be read as they lie, "
            f"without scales; take the projection of before the quantisation"
        )
    width, text_size, feed_forward = (next(iter(tensors[name].shape), 0) for name in _SIZES)
    if not 1 <= heads <= width or width % heads:
        raise AdapterError(f"{path}: {heads} attention heads do not divide the projection's width, {width}")
    try:
        with torch.device("meta"):  # without memory, since the sizes need not fit each other
            projection = VisualToGPTMapping(width, text_size, feed_forward, heads)
        projection.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise AdapterError(f"{path} is not a projection of the published layout: {said}") from error
    return projection


def load_special_embeddings(path: Path) -> dict[str, Tensor]:
    """Loads the learned embeddings of the four marks, (d,) each, in the file's dtype, or raises an AdapterError."""
    if path.suffix == ".safetensors":
        loaded = _read_safetensors(path, SPECIAL_MARKS)[0]
    else:
        file = PickledFile(path)
        if not isinstance(file.content, dict):
            raise AdapterError(f"{path} should hold a dictionary of tensors, not a {type(file.content).__name__}")
        marks = {name: file.content.get(name) for name in SPECIAL_MARKS}
        loaded = {name: file.tensor(mark) for name, mark in marks.items() if isinstance(mark, PickledTensor)}
    wrong = [n for n in SPECIAL_MARKS if n not in loaded or loaded[n].ndim != 1 or loaded[n].dtype not in PLAIN]
    if wrong:
        raise AdapterError(
            f"{path} has no one-dimensional tensor of floats named {', '.join(wrong)}; it needs "
            f"{', '.join(SPECIAL_MARKS)}"
        )
    return loaded


def _pickled_projection(path: Path) -> tuple[dict[str, Tensor], int]:
    """The tensors of a pickled projection by their names in its state, and its number of attention heads."""
    file = PickledFile(path, _is_part_of_a_projection)
    module = file.content
    found = module.name.rpartition(".")[2] if isinstance(module, PickledModule) else type(module).__name__
    if found != VisualToGPTMapping.__name__:
        raise AdapterError(f"{path} should hold a {VisualToGPTMapping.__name__} module, not a {found:.100}")
    try:
        tensors = dict(_pickled_tensors(module, _smallest_projection(), ""))
        layer = module.state["_modules"]["transformer_layer"].state
        attention = layer["_modules"]["self_attn"].state
        as_published = layer["norm_first"] is False and attention["batch_first"] is True
        as_published &= isinstance(layer["activation"], str) and layer["activation"] == _ACTIVATION
        heads = attention["num_heads"]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise AdapterError(f"{path} is not a projection of the published layout: {error!s:.200}") from error
    if not as_published or type(heads) is not int:
        raise AdapterError(f"{path}: the projection's transformer layer is not post-norm, batch-first and ReLU")
    return {name: file.tensor(tensor) for name, tensor in tensors.items()}, heads


def _stored_projection(path: Path) -> tuple[dict[str, Tensor], int]:
    """The same of a ``projection.safetensors``."""
    names = _smallest_projection().state_dict().keys()
    tensors, metadata = _read_safetensors(path, names)
    if lacking := sorted(names - tensors.keys()):
        raise AdapterError(f"{path} is not a projection of the published layout: it lacks {', '.join(lacking)}")
    heads = metadata.get("heads", str(PUBLISHED_HEADS))
    if not (heads.isascii() and heads.isdigit() and len(heads) < 9):
        raise AdapterError(f"{path}: heads={heads:.50} in its metadata is no number of attention heads")
    return tensors, int(heads)


def _is_part_of_a_projection(name: str) -> bool:
    """Whether a pickled projection may refer to this; its own class was saved from some module ("models")."""
    return name in _PROJECTION_PARTS or name.rpartition(".")[2] == VisualToGPTMapping.__name__


def _smallest_projection() -> VisualToGPTMapping:
    with torch.device("meta"):
        return VisualToGPTMapping(1, 1, 1, 1)


def _pickled_tensors(module: Any, like: nn.Module, place: str) -> Iterator[tuple[str, PickledTensor]]:
    """The parameters of a pickled module that has the same parts as ``like``; a ValueError where it has others."""
    parameters = {name: value for name, value in module.state["_parameters"].items() if value is not None}
    children = dict(like.named_children())
    expected = {name for name, _ in like.named_parameters(recurse=False)}
    if parameters.keys() != expected or module.state["_modules"].keys() != children.keys():
        raise ValueError(f"{place or 'the projection'} has other parts")
    for name, value in parameters.items():
        if not isinstance(value, PickledTensor):
            raise ValueError(f"{place}{name} is no tensor")
        yield place + name, value
    for name, child in children.items():
        yield from _pickled_tensors(module.state["_modules"][name], child, f"{place}{name}.")


def _read_safetensors(path: Path, names: Collection[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of these names that a file has, and its metadata."""
    held = read_header(path)
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in names if name in held}, file.metadata() or {}
