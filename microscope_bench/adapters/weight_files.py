"""Which files of a checkpoint hold its weights: those that transformers reads, and no other."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from microscope_bench.adapters.missing_packages import needs
from microscope_bench.adapters.weight_headers import read_header
from microscope_bench.errors import AdapterError

LOG = logging.getLogger("microscope_bench")
PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_USUAL = ("model.safetensors", "model.safetensors.index.json")  # in the order of transformers
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_OTHERS = (
    *("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model*.bin.index.json"),
    *("tf_model*.h5", "flax_model*.msgpack", "consolidated*.pth", "model.ckpt*", "rust_model.ot", "*.gguf"),
)
"""Names by which a directory may hold its weights once more, also for other frameworks."""
_DISTRIBUTED = "shard-[0-9][0-9][0-9][0-9][0-9]-model-*.safetensors"
_POINTER = b"version https://git-lfs"
_CONVERT = "Load it yourself and write it with model.save_pretrained(DIR), then pretrained=DIR."


@dataclass(frozen=True)
class WeightFiles:
    """Names relative to the checkpoint, with ``/``.

    ``read`` are the files that the weights are read from, an index among them; ``unread`` are files of weights beside
    them, of whatever framework.
    """

    read: tuple[str, ...]
    unread: tuple[str, ...]


def find_weight_files(directory: Path, *, pickled: bool = False) -> WeightFiles:
    """What transformers reads of a directory: a file that config.json names, else one file, else an index.

    The files of ``read`` need not be there. With ``pickled``, .bin files take the place of missing safetensors.

    Raises:
        AdapterError: an index is no index, or a name leaves the checkpoint or is of no safetensors file.
    """
    if found := sorted(directory.glob(_DISTRIBUTED)):
        raise AdapterError(
            f"{directory.name} is a checkpoint of distributed training ({found[0].name}), in pieces of weights. "
            f"{_CONVERT}"
        )
    config = json_object(directory / "config.json") or {}
    usual = [name for name in (*_USUAL, *_PICKLED[: 2 * pickled]) if (directory / name).is_file()]
    named = config.get("transformers_weights")
    heads = list(dict.fromkeys([named, *usual] if isinstance(named, str) else usual))
    read = _set_of(directory, heads[0], pickled) if heads else ()
    read += tuple(name for name in _extra_files(config) if (directory / name).is_file())
    if (directory / PEFT_CONFIG).is_file():
        read += (PEFT_WEIGHTS,)
    others = [_set_of(directory, head, pickled, unread=True) for head in heads[1:]]
    beside = {*weights_in(directory), *(name for names in others for name in names)}
    return WeightFiles(read, tuple(name for name in sorted(beside - set(read)) if (directory / name).is_file()))


def weights_in(directory: Path) -> set[str]:
    """The names of all files of a directory that may hold weights of a model, or an index of them."""
    return {path.name for pattern in _OTHERS for path in directory.glob(pattern)}


def checked_weight_files(directory: Path, *, pickled: bool = False) -> tuple[str, ...]:
    """The files that the weights are read from; tells of others beside them.

    Raises:
        AdapterError: one is missing, damaged, or outside the checkpoint.
    """
    from transformers.utils import is_peft_available

    found = find_weight_files(directory, pickled=pickled)
    if found.read in ((), (PEFT_WEIGHTS,)):
        raise AdapterError(_no_weights(directory, found.unread))
    if PEFT_WEIGHTS in found.read and not is_peft_available():
        raise AdapterError(
            f"{directory.name} has a PEFT adapter ({PEFT_CONFIG}) beside its base model, which {needs('peft')}. To "
            f"measure the base model alone, take {PEFT_CONFIG} out of the directory."
        )
    if lacking := [name for name in found.read if not (directory / name).is_file()]:
        shards = [name for name in found.read if not name.endswith(".json")]
        raise AdapterError(
            f"{directory.name} lacks {len(lacking)} of the {len(shards)} files that its weights are in: "
            f"{_listed(lacking)}. Fetch them, or the checkpoint again."
        )
    for name in found.read:
        check_file(directory, name)
    tell_unread(directory, found.read, found.unread)
    return found.read


def tell_unread(directory: Path, read: Iterable[str], unread: Iterable[str]) -> None:
    """Warns of files of weights that are not read; of those in a hub cache, where several formats are usual, by INFO.

    They may be the set that was meant: whoever writes a model over an older one may leave the older files in the place
    that transformers prefers.
    """
    if unread := sorted(unread):
        LOG.log(
            logging.WARNING if _snapshot(directory.resolve()) is None else logging.INFO,
            "%s: weights are read from %s, not from %s; an older save may have left either: delete what is not meant",
            directory.name,
            _listed(read),
            _listed(unread),
        )


def refuse_pointer(file: Path) -> None:
    """Raises an AdapterError where a file is what git leaves in the place of a large one."""
    with file.open("rb") as opened:
        if opened.read(len(_POINTER)) == _POINTER:
            raise AdapterError(
                f"{file.name} of {file.parent.name} is a git-lfs pointer, not the file itself; fetch it with: "
                f"git -C {file.parent} lfs pull"
            )


def _set_of(directory: Path, head: str, pickled: bool, *, unread: bool = False) -> tuple[str, ...]:
    """A file of weights alone, or an index and the files that it names; nothing is said of one that is not read."""
    suffixes = (".safetensors", *((".bin",) if pickled else ()))
    try:
        _check_name(directory, head, suffixes=(*suffixes, ".index.json"), said_by="config.json")
        if not head.endswith(".json"):
            return (head,)
        index = json_object(directory / head)
        files = index.get("weight_map") if index is not None else None
        if not isinstance(files, dict) or not files or not all(isinstance(name, str) for name in files.values()):
            raise AdapterError(
                f"{head} of {directory.name} is no index: it needs a weight_map from names of weights to names of "
                f"files. Fetch the checkpoint again."
            )
        shards = sorted(set(files.values()))
        for name in shards:
            _check_name(directory, name, suffixes=suffixes, said_by=head)
    except AdapterError:
        if unread:
            return (head,)
        raise
    return (head, *shards)


def _check_name(directory: Path, name: str, *, suffixes: tuple[str, ...], said_by: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise AdapterError(
            f"{said_by} of {directory.name} names {name!r:.200}, outside the checkpoint; copy the file into "
            f"it and name it there"
        )
    if not name.endswith(suffixes):
        raise AdapterError(
            f"{said_by} of {directory.name} names {name!r:.200} for weights, which is no safetensors file. {_CONVERT}"
        )


def check_file(directory: Path, name: str) -> None:
    """Raises unless a file of weights lies inside the checkpoint, and is whole if it is of safetensors."""
    file = directory / name
    real = file.resolve()
    if not any(real.is_relative_to(place) for place in _places(directory.resolve())):
        raise AdapterError(f"{name} of {directory.name} is a link to a file outside the checkpoint; copy it into it")
    refuse_pointer(file)
    if name.endswith(".safetensors"):
        read_header(file)


def _places(directory: Path) -> list[Path]:
    """Where the files of a checkpoint may lie: in it and, in a hub cache, among the files that its links lead to."""
    snapshot = _snapshot(directory)
    return [directory] if snapshot is None else [directory, snapshot.parent.parent / "blobs"]


def _snapshot(directory: Path) -> Path | None:
    """The snapshot of a hub cache that a directory is, or is in."""
    return next((place for place in (directory, *directory.parents) if place.parent.name == "snapshots"), None)


def _no_weights(directory: Path, unread: tuple[str, ...]) -> str:
    if sorted(directory.glob("*.gguf")):
        return f"{directory.name} holds GGUF files, which are not read. {GGUF_REMEDY}"
    if other := [name for name in unread if name.endswith(".safetensors")]:
        return (
            f"{directory.name} has weights under other names than transformers looks for ({_listed(other)}); name "
            f"the one that is meant model.safetensors, in a directory of its own"
        )
    return (
        f"{directory.name} has no .safetensors weights, and pickled ones (.bin, .pt) are not loaded because a pickle "
        f"can run code. {_CONVERT}"
    )


GGUF_REMEDY = (
    "Convert one: AutoModelForCausalLM.from_pretrained(DIR, gguf_file=NAME).save_pretrained(NEW), the tokenizer "
    "likewise, then pretrained=NEW."
)


def _extra_files(config: dict[str, Any]) -> tuple[str, ...]:
    """Files that an architecture reads beside its weights."""
    from transformers import CONFIG_MAPPING

    kind = config.get("model_type")
    known = CONFIG_MAPPING[kind] if isinstance(kind, str) and kind in CONFIG_MAPPING else None
    return tuple(getattr(known, "extra_files", ()))


def json_object(file: Path) -> dict[str, Any] | None:
    """The content of a JSON file, or None where it is not there or holds no object."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(every[:3]) + f" and {len(every) - 3} more" * (len(every) > 3)
