"""Pins a hub repository or a directory to a local checkpoint of known content before anything of it is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from microscope_bench.adapters.checkpoint_limits import MORE_TEMPLATES, refuse_unusable_files
from microscope_bench.adapters.model_args import LOCAL_HINT, check_place
from microscope_bench.adapters.weight_files import (
    GGUF_REMEDY,
    WeightFiles,
    find_weight_files,
    refuse_pointer,
)
from microscope_bench.errors import AdapterError, said
from microscope_bench.system.disk import file_sha256
from microscope_bench.system.hub import cached_snapshot, gated, is_offline, resolve_commit

CHECKPOINT_FILES = (
    *("*.json", "*.safetensors", "*.jinja"),
    *("*.model", "*.model.v*", "*.txt", "*.tiktoken", "*.spm", "*.bpe", "*.codes"),
)
"""The files of a checkpoint that can change a number: configuration, tokenizer, processor, weights."""


@dataclass(frozen=True)
class Checkpoint:
    """A directory with the repository and the revision of :class:`~microscope_bench.identity.ModelInfo`."""

    path: Path
    repo: str
    revision: str


def resolve_checkpoint(
    pretrained: str,
    revision: str | None = None,
    files: Sequence[str] = CHECKPOINT_FILES,
    *,
    subfolder: str = "",
    weights: str = "",
    pickled: bool = False,
) -> Checkpoint:
    """Pins a hub repository to its commit and fetches it by that commit, or hashes a local directory.

    The checkpoint is the ``subfolder`` of it. ``files`` are glob patterns, relative to it, of the files that matter; of
    weights those alone matter that transformers reads in its folder ``weights``. ``pickled`` lets .bin files take the
    place of missing safetensors.
    """
    directory = Path(pretrained).expanduser()
    if directory.is_dir():
        if revision is not None:
            raise AdapterError(_no_revision(directory, revision))
        path = (directory / subfolder).resolve()
        if not path.is_dir():
            raise AdapterError(f"{pretrained} has no subfolder {subfolder}")
        refuse_unusable_files(path, files)
        found = find_weight_files(path / weights, pickled=pickled)
        digest = content_revision(path, files, weights, found)
        return Checkpoint(path, directory.resolve().name, digest)
    if directory.is_file():
        remedy = f" {GGUF_REMEDY}" if directory.suffix == ".gguf" else ""
        raise AdapterError(f"pretrained={pretrained} is a file; name the directory of its checkpoint.{remedy}")
    check_place(pretrained)
    commit = resolve_commit(pretrained, revision, "model", local_hint=LOCAL_HINT, error_type=AdapterError)
    path = _fetch(pretrained, commit, subfolder, files)
    refuse_unusable_files(path, files)
    found = find_weight_files(path / weights, pickled=pickled)
    if not is_offline() and (inner := [name for name in found.read if not (path / weights / name).is_file()]):
        _fetch(pretrained, commit, subfolder, [f"{weights}/{name}" if weights else name for name in inner])
    return Checkpoint(path, pretrained, commit)


def content_revision(
    directory: Path, files: Sequence[str] = CHECKPOINT_FILES, weights: str = "", found: WeightFiles | None = None
) -> str:
    """``"sha256-"`` + 16 hex digits over relative names and content of the files; see :func:`resolve_checkpoint`."""
    found = find_weight_files(directory / weights) if found is None else found
    paths = {p for pattern in (*files, MORE_TEMPLATES) for p in directory.glob(pattern) if p.is_file()}
    paths -= {directory / weights / name for name in found.unread}
    paths |= {path for name in found.read if (path := directory / weights / name).is_file()}
    if not paths:
        raise AdapterError(f"{directory} holds none of {', '.join(files)}; is it a checkpoint?")
    digest = hashlib.sha256()
    for path in sorted(paths):
        try:
            refuse_pointer(path)
            content = file_sha256(path)
        except OSError as error:
            raise AdapterError(f"{path} cannot be read: {error.strerror}") from error
        digest.update(f"{path.relative_to(directory).as_posix()}\0{content}\n".encode())
    return f"sha256-{digest.hexdigest()[:16]}"


def _no_revision(directory: Path, revision: str) -> str:
    if (directory / ".git").exists():
        return (
            f"revision={revision} means a hub commit, but {directory} is a local git repository; check the commit out "
            f"(git -C {directory} checkout {revision}) and leave revision out"
        )
    return f"revision={revision} means a hub commit, but {directory} is a directory; leave it out"


def _fetch(repo: str, commit: str, subfolder: str, files: Sequence[str]) -> Path:
    """The folder of that commit in the hub cache, completed from the hub where needed."""
    import huggingface_hub
    from huggingface_hub import constants, errors

    if is_offline():
        snapshot = cached_snapshot(repo, commit, "model")
        if snapshot is None:
            raise AdapterError(f"{repo}@{commit} is not in the local hub cache and HF_HUB_OFFLINE is set")
        return snapshot / subfolder
    beneath = f"{subfolder}/" if subfolder else ""
    try:
        # Copies of the weights in other formats lie in folders of the repository; only the checkpoint itself is needed.
        folders = () if any("/" in pattern for pattern in files) else (f"{beneath}*/*",)
        wanted = [beneath + pattern for pattern in files]
        snapshot = huggingface_hub.snapshot_download(
            repo, revision=commit, allow_patterns=wanted, ignore_patterns=list(folders)
        )
        return Path(snapshot) / subfolder
    except errors.GatedRepoError as error:
        raise AdapterError(gated(repo, f"{constants.ENDPOINT}/{repo}")) from error
    except Exception as error:  # whatever the HTTP client of the hub library raises
        raise AdapterError(
            f"{repo}@{commit} could not be fetched ({said(error)}). Try again, or {LOCAL_HINT}"
        ) from error
