"""The text of a result file, and files that are there whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from microscope_bench.errors import ResultError
from microscope_bench.system.disk import write_whole


def to_text(document: Mapping[str, Any]) -> str:
    """The file's text: sections indented, one score per line without blanks, keys in the order of the document."""
    sections = []
    for key, value in document.items():
        if key == "scores" and value:
            rows = (json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":")) for row in value)
            body = "[\n" + ",\n".join("    " + row for row in rows) + "\n  ]"
        else:
            body = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).replace("\n", "\n  ")
        sections.append(f"  {json.dumps(key)}: {body}")
    return "{\n" + ",\n".join(sections) + "\n}\n"


def check_replaceable(path: Path) -> None:
    """Raises a ResultError where something else than a regular file, a directory or a device, would be replaced."""
    if os.path.isdir(path):
        raise ResultError(f"{path} is a directory; name a file in it")
    if os.path.exists(path) and not os.path.isfile(path):
        raise ResultError(f"{path} is no regular file, and would be replaced; name another")


def unwritable(what: str, error: Exception, elsewhere: str) -> ResultError:
    """The error for what cannot be written, with the advice that its cause asks for."""
    reason = getattr(error, "strerror", None) or str(error)
    if isinstance(error, FileExistsError | NotADirectoryError):
        reason = "a file stands where a directory is due"
    free = "Free some space, or choose" if getattr(error, "errno", 0) in (errno.ENOSPC, errno.EDQUOT) else "Choose"
    return ResultError(f"cannot write {what}: {reason}. {free} {elsewhere}")


def write_atomically(path: Path, text: str) -> None:
    """Writes a file so that it is there whole or not at all; missing directories are made.

    Raises:
        ResultError: the path is that of a directory or a device, or cannot be written.
    """
    check_replaceable(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode("utf-8"))
    except (OSError, ValueError) as error:
        raise unwritable(str(path), error, "another place for it") from error
