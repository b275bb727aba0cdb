"""Files that are there whole or not at all, their checksums, and locks that end with the process that holds them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # results are read where there is none, too; locks are for those who write them
    fcntl = None  # type: ignore[assignment]

LOCK = ".microscope-bench.lock"
"""Name of a lock file; nobody else's file is called so, since it is deleted when the lock is given back."""

_ATTEMPTS = 1000  # at a lock whose file keeps being deleted under it; there are places where none can be made at all

_HELD = (errno.EAGAIN, errno.EACCES)  # some network file systems say the second

# what file systems say that do not sync directories, and directories that may be written and not be listed
_NOT_SYNCED = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES)


CACHE_VARIABLE = "MICROSCOPE_BENCH_CACHE"


def cache_directory() -> Path:
    """What can always be made again: ``$MICROSCOPE_BENCH_CACHE``, else ``~/.cache/microscope_bench``."""
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/microscope_bench").expanduser()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; what was written there then takes its place, in one step.

    A reader sees the old file or the whole new one, and so does whoever comes after a kill or a power failure. The
    temporary name is hidden and ends in ``.tmp``: nothing that looks for JSON finds it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync_names(path.parent)  # the new name, too, is to outlive a power failure
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file by :func:`replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def remove_leftovers(directory: Path, names: str) -> None:
    """Deletes what killed processes left of :func:`replacing`, in a directory whose lock is held.

    ``names`` is a regular expression of the names of the files they were to become.
    """
    leftover = re.compile(rf"\.({names})\.\d+\.tmp")
    for file in list(directory.iterdir()) if directory.is_dir() else []:
        if leftover.fullmatch(file.name):
            file.unlink(missing_ok=True)


@contextmanager
def locked(directory: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds the lock of a directory, which is made where there is none.

    The kernel drops the lock when its process ends, however it ends, so that a lock file which a kill left behind is no
    obstacle. The lock file is deleted while the lock is held; who had opened it before then holds a lock on a file
    without a name, sees that, and tries again. Where another process holds the lock, ``wait`` waits for it; without,
    that is a BlockingIOError. Any other OSError says in its ``strerror`` why no lock can be had there.
    """
    path = directory / LOCK
    descriptor, attempts = None, _ATTEMPTS
    while descriptor is None:
        attempts -= 1
        descriptor = _try_to_lock(path, wait, last=not attempts)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def is_locked(directory: Path) -> bool:
    """Whether a process holds the lock of a directory now."""
    try:
        descriptor = os.open(directory / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _HELD
    finally:
        os.close(descriptor)
    return False


def _try_to_lock(path: Path, wait: bool, *, last: bool) -> int | None:
    """The descriptor of the locked file; None where the file, or its directory, was deleted meanwhile."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except (FileNotFoundError, FileExistsError):  # pathlib's, where a directory goes while it looks whether it is one
        if last or path.parent.is_file():
            raise
        return None
    except ValueError as error:  # a NUL
        raise OSError(errno.EINVAL, str(error), str(path.parent)) from error
    kept = False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        kept = path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:  # deleted between the two questions
        pass
    except OSError as error:
        if error.errno in _HELD:
            raise BlockingIOError(error.errno, "another process holds its lock") from error
        raise OSError(error.errno, f"its file system keeps no locks ({error.strerror})") from error
    finally:
        if not kept:
            os.close(descriptor)
    return descriptor if kept else None


def _sync_names(directory: Path) -> None:
    try:
        _sync(directory)
    except OSError as error:
        if error.errno not in _NOT_SYNCED:
            raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def user_path(given: str | Path) -> Path:
    """The path with ``~`` written out, which stays as it is for a user that there is not."""
    return Path(os.path.expanduser(given))  # noqa: PTH111 - never raises


def open_regular(path: Path) -> BufferedReader:
    """A file opened for reading; an OSError where it is no regular one: a FIFO or a device may never begin, or end."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is no regular file", str(path))


def read_regular(path: Path, most: int) -> bytes:
    """The bytes of a regular file; an OSError where it has more than ``most``."""
    with open_regular(path) as stream:
        if (size := os.fstat(stream.fileno()).st_size) > most:
            raise OSError(errno.EFBIG, f"{size:,} bytes are more than any such file has", str(path))
        return stream.read(size + 1)


def file_sha256(file: Path) -> str:
    with open_regular(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def signed(document: Mapping[str, Any]) -> bytes:
    return json.dumps({**document, "sha256": own_sha256(document)}, indent=1, allow_nan=False).encode()


def own_sha256(document: Mapping[str, Any]) -> str:
    """64 hex digits: SHA-256 of everything in a JSON document but its key ``sha256``."""
    content = {key: value for key, value in document.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
