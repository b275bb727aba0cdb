"""Pins hub repositories: which commit a branch or tag points at, before anything of it is loaded.

A hub that cannot be reached is an error, never a silent use of what happens to be cached: a cached commit may be an old
one. Offline mode (``HF_HUB_OFFLINE=1``) is the user's word that the cache is meant.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from microscope_bench.errors import MicroscopeError, said

Kind = Literal["model", "dataset"]

_COMMIT = re.compile(r"[0-9a-f]{40}")


def resolve_commit(
    repo: str, revision: str | None, kind: Kind, *, local_hint: str, error_type: type[MicroscopeError]
) -> str:
    """The full commit that a branch, tag or commit (None: the main branch) of the repository "org/name" means now."""
    import huggingface_hub
    from huggingface_hub import constants, errors

    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    name = revision or "main"
    if is_offline():
        cached = cached_snapshot(repo, name, kind)
        if cached is None:
            raise error_type(
                f"{repo}@{name} is not in the local hub cache and HF_HUB_OFFLINE is set. Unset it, or: {local_hint}"
            )
        return cached.name
    url = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repo}"
    try:
        look_up = huggingface_hub.model_info if kind == "model" else huggingface_hub.dataset_info
        found = look_up(repo, revision=revision, timeout=30).sha
    except errors.GatedRepoError as error:
        raise error_type(gated(repo, url)) from error
    except errors.RevisionNotFoundError as error:
        raise error_type(f"{repo} has no revision {name!r}; its branches and tags are at {url}") from error
    except errors.RepositoryNotFoundError as error:
        raise error_type(
            f"there is no {kind} {repo} on the hub, or it is private. Check the spelling; log in with: hf auth login; "
            f"or: {local_hint}"
        ) from error
    except errors.HFValidationError as error:
        raise error_type(f"{repo!r} is neither a directory nor a hub {kind} (org/name)") from error
    except Exception as error:  # whatever the HTTP client of the hub library raises
        cached = cached_snapshot(repo, name, kind)
        here = f" The local cache has {cached.name}: revision={cached.name} loads that one." if cached else ""
        raise error_type(
            f"the hub cannot be reached to pin {kind} {repo}@{name} ({said(error)})."
            f"{here} Without the hub: {local_hint}"
        ) from error
    if found is None or not _COMMIT.fullmatch(found):
        raise error_type(f"the hub names no commit for {repo}@{name}; give one: revision=<40 hex digits>")
    return str(found)


def gated(repo: str, url: str) -> str:
    return f"{repo} is gated: accept its licence at {url}, then log in with: hf auth login"


def is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.is_offline_mode())


def cached_snapshot(repo: str, revision: str, kind: Kind) -> Path | None:
    """The directory of a commit, branch or tag in the local hub cache, or None; it may lack files."""
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(repo, repo_type=kind, revision=revision, local_files_only=True))
    except (errors.LocalEntryNotFoundError, errors.HFValidationError):
        return None
