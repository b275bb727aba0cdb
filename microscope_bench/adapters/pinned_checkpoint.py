"""Pins a hub repository or a directory to a local checkpoint of known content before anything of it is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from microscope_bench.errors import AdapterError, first_line, unknown_name
from microscope_bench.system.hub import cached_snapshot, gated, is_offline, resolve_commit

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CHECKPOINT_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.tiktoken", "*.jinja")
"""The files of a checkpoint that can change a number: configuration, tokenizer, processor, weights."""
LOCAL_HINT = "point at a local directory: pretrained=path/to/checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """A directory with the repository and the revision of :class:`~microscope_bench.identity.ModelInfo`."""

    path: Path
    repo: str
    revision: str


def resolve_checkpoint(
    pretrained: str, revision: str | None = None, files: Sequence[str] = CHECKPOINT_FILES
) -> Checkpoint:
    """Pins a hub repository to its commit and fetches it by that commit, or hashes a local directory.

    ``files`` are glob patterns, relative to the checkpoint, of the files that matter.
    """
    directory = Path(pretrained).expanduser()
    if directory.is_dir():
        if revision is not None:
            raise AdapterError(f"revision={revision} means a hub commit, but {pretrained} is a directory; leave it out")
        resolved = directory.resolve()
        return Checkpoint(resolved, resolved.name, content_revision(resolved, files))
    if pretrained.startswith((".", "/", "~")) or pretrained.count("/") > 1:
        raise AdapterError(f"pretrained={pretrained}: there is no such directory")
    commit = resolve_commit(pretrained, revision, "model", local_hint=LOCAL_HINT, error_type=AdapterError)
    return Checkpoint(_fetch(pretrained, commit, files), pretrained, commit)


def content_revision(directory: Path, files: Sequence[str] = CHECKPOINT_FILES) -> str:
    """``"sha256-"`` + 16 hex digits over relative names and content of the matching files."""
    paths = sorted({p for pattern in files for p in directory.glob(pattern) if p.is_file()})
    if not paths:
        raise AdapterError(f"{directory} holds none of {', '.join(files)}; is it a checkpoint?")
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(directory).as_posix()}\0{content}\n".encode())
    return f"sha256-{digest.hexdigest()[:16]}"


def torch_dtype(name: str) -> torch.dtype | str:
    """The dtype of that name, or an UnknownNameError; "auto" (as in the checkpoint) stays as it is."""
    if name == "auto":
        return name
    if name not in DTYPES:
        raise unknown_name("dtype", name, ["auto", *DTYPES])
    return DTYPES[name]


def _fetch(repo: str, commit: str, files: Sequence[str]) -> Path:
    """The snapshot of that commit in the hub cache, completed from the hub where needed."""
    import huggingface_hub
    from huggingface_hub import constants, errors

    if is_offline():
        snapshot = cached_snapshot(repo, commit, "model")
        if snapshot is None:
            raise AdapterError(f"{repo}@{commit} is not in the local hub cache and HF_HUB_OFFLINE is set")
        return snapshot
    try:
        # Copies of the weights in other formats lie in folders of the repository; only the checkpoint itself is needed.
        folders = () if any("/" in pattern for pattern in files) else ("*/*",)
        return Path(
            huggingface_hub.snapshot_download(
                repo, revision=commit, allow_patterns=list(files), ignore_patterns=list(folders)
            )
        )
    except errors.GatedRepoError as error:
        raise AdapterError(gated(repo, f"{constants.ENDPOINT}/{repo}")) from error
    except Exception as error:  # whatever the HTTP client of the hub library raises
        raise AdapterError(
            f"{repo}@{commit} could not be fetched ({type(error).__name__}: {first_line(error)}). Try again, or "
            f"{LOCAL_HINT}"
        ) from error
