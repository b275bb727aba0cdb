"""From a hub id or a directory to a pinned local checkpoint: which bytes a run used is known before they are loaded."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from microscope_bench.errors import AdapterError
from microscope_bench.registry import unknown_name

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CHECKPOINT_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.tiktoken", "*.jinja")
"""The files of a checkpoint that can change a number: configuration, tokenizer, processor, weights."""

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on the local disk whose content is known.

    Attributes:
        path: the directory to load from.
        repo: hub repository ("org/name"), or the name of the local directory without the path to it.
        revision: 40-hex commit, or ``"sha256-"`` + 16 hex digits of a local directory's content.
    """

    path: Path
    repo: str
    revision: str


def resolve_checkpoint(
    pretrained: str, revision: str | None = None, files: Sequence[str] = CHECKPOINT_FILES
) -> Checkpoint:
    """Pins a hub repository or a local directory, and fetches what of the former is not here yet.

    A hub repository is pinned to its commit first and then loaded by that commit, so that the recorded revision is the
    one that ran even when the repository moves meanwhile.

    Args:
        pretrained: "org/name" on the hub, or a directory.
        revision: branch, tag or commit on the hub; None means its main branch. Not for a directory.
        files: glob patterns, relative to the checkpoint, of the files that matter.

    Raises:
        AdapterError: no such directory or repository, no access, or the hub cannot be reached; with what to do next.
    """
    directory = Path(pretrained).expanduser()
    if directory.is_dir():
        if revision is not None:
            raise AdapterError(f"revision={revision} means a hub commit, but {pretrained} is a directory; leave it out")
        resolved = directory.resolve()
        return Checkpoint(resolved, resolved.name, content_revision(resolved, files))
    if pretrained.startswith((".", "/", "~")) or pretrained.count("/") > 1:
        raise AdapterError(f"pretrained={pretrained}: there is no such directory")
    commit = _pin(pretrained, revision)
    return Checkpoint(_fetch(pretrained, commit, files), pretrained, commit)


def content_revision(directory: Path, files: Sequence[str] = CHECKPOINT_FILES) -> str:
    """``"sha256-"`` + 16 hex digits over names and content of the matching files; the directory's own name is left out.

    Raises:
        AdapterError: no file matches.
    """
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
    """The dtype of that name; "auto" (as the checkpoint says) stays as it is.

    Raises:
        UnknownNameError: with the nearest names.
    """
    if name == "auto":
        return name
    if name not in DTYPES:
        raise unknown_name("dtype", name, ["auto", *DTYPES])
    return DTYPES[name]


def _pin(repo: str, revision: str | None) -> str:
    """The commit that a branch or tag points at now; in offline mode, the one that the local cache has."""
    import huggingface_hub
    from huggingface_hub import constants, errors

    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    name = revision or "main"
    if constants.is_offline_mode():
        commit = _cached_commit(repo, name)
        if commit is None:
            raise AdapterError(
                f"{repo}@{name} is not in the local hub cache and HF_HUB_OFFLINE is set. Unset it, or point at a local "
                f"directory: pretrained=path/to/checkpoint"
            )
        return commit
    url = f"{constants.ENDPOINT}/{repo}"
    try:
        commit = huggingface_hub.model_info(repo, revision=revision, timeout=30).sha
    except errors.GatedRepoError as error:
        raise AdapterError(f"{repo} is gated: accept its licence at {url}, then log in with: hf auth login") from error
    except errors.RevisionNotFoundError as error:
        raise AdapterError(f"{repo} has no revision {name!r}; its branches and tags are at {url}") from error
    except errors.RepositoryNotFoundError as error:
        raise AdapterError(
            f"there is no model {repo} on the hub, or it is private. Check the spelling; log in with: hf auth login; "
            f"or point at a local directory: pretrained=path/to/checkpoint"
        ) from error
    except errors.HFValidationError as error:
        raise AdapterError(f"pretrained={repo} is neither a directory nor a hub repository (org/name)") from error
    except Exception as error:  # whatever the HTTP client of the hub library raises
        cached = _cached_commit(repo, name)
        here = f" The local cache has {cached}: revision={cached} loads that one." if cached else ""
        raise AdapterError(
            f"the hub cannot be reached to pin {repo}@{name} ({type(error).__name__}: {first_line(error)}).{here} "
            f"Without the hub, point at a local directory: pretrained=path/to/checkpoint"
        ) from error
    if commit is None:
        raise AdapterError(f"the hub names no commit for {repo}@{name}; give one: revision=<40 hex digits>")
    return str(commit)


def _cached_commit(repo: str, name: str) -> str | None:
    """The commit the local hub cache has under that branch or tag, if its snapshot is there."""
    ref = _cache_folder(repo) / "refs" / name
    commit = ref.read_text().strip() if ref.is_file() else ""
    return commit if commit and (_cache_folder(repo) / "snapshots" / commit).is_dir() else None


def _cache_folder(repo: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"


def _fetch(repo: str, commit: str, files: Sequence[str]) -> Path:
    """The snapshot of that commit in the hub cache, completed from the hub where needed."""
    import huggingface_hub
    from huggingface_hub import constants, errors

    if constants.is_offline_mode():
        snapshot = _cache_folder(repo) / "snapshots" / commit
        if not snapshot.is_dir():
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
        url = f"{constants.ENDPOINT}/{repo}"
        raise AdapterError(f"{repo} is gated: accept its licence at {url}, then log in with: hf auth login") from error
    except Exception as error:  # whatever the HTTP client of the hub library raises
        raise AdapterError(
            f"{repo}@{commit} could not be fetched ({type(error).__name__}: {first_line(error)}). Try again, or point "
            f"at a local directory: pretrained=path/to/checkpoint"
        ) from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the hub and transformers write pages."""
    return (str(error).strip().splitlines() or [""])[0]
