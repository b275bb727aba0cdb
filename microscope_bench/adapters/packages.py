"""Packages that a model or a processor needs and that are not installed, read from what transformers says."""

from __future__ import annotations

import re

_WITH_EXTRA = {
    "torchvision": "'microscope-bench[torchvision]'",
}
"""Package → what to ask pip for, where an extra of this package holds it."""


def missing_package(error: Exception) -> str | None:
    """The package that an error of transformers says is missing, or None.

    >>> missing_package(ImportError("TimmWrapperModel requires the timm library but it was not found"))
    'timm'
    """
    if not isinstance(error, ImportError | AttributeError | ValueError):
        return None
    said = str(error)
    found = re.search(
        r"requires the `?([\w-]+)`? library|[Pp]ackage `([\w-]+)` is required|requires `(accelerate)`", said
    )
    if found:
        return next(name for name in found.groups() if name).lower()
    return "torchvision" if "torchvision" in said.lower() else None


def needs(package: str) -> str:
    """The end of a sentence on what needs it.

    >>> needs("timm")
    'needs timm: pip install timm'
    """
    return f"needs {package}: pip install {_WITH_EXTRA.get(package, package)}"
