"""Packages that a model or a processor needs and that are not installed, read from the errors of transformers."""

from __future__ import annotations

import re

_HOW = {name: f"'microscope-bench[{name}]'" for name in ("torchvision", "peft")}
_HOW["flash-attn"] = "flash-attn --no-build-isolation, or leave attn_implementation out"
"""Package → how pip is asked for it, where that is not its name."""

_INSTALL = re.compile(r"pip install (?:-\S+ )*['\"]?([A-Za-z][\w-]*(?:\[[\w,]+\])?(?:[<>=]=?[\d.]*\d)?)")
"""How an error asks for a package, perhaps of some version."""


def missing_package(error: Exception) -> str | None:
    """The package that an error of transformers says is missing, or None.

    >>> missing_package(ImportError("TimmWrapperModel requires the timm library but it was not found"))
    'timm'
    >>> missing_package(ImportError("compressed-tensors is required: `pip install -U compressed-tensors>=0.15.0`."))
    'compressed-tensors>=0.15.0'
    """
    if not isinstance(error, ImportError | AttributeError | ValueError):
        return None
    said = str(error)
    found = re.search(
        r"requires the `?([\w-]+)`? library|[Pp]ackage `([\w-]+)` is required|requires `(accelerate)`", said
    )
    if found:
        return next(name for name in found.groups() if name).lower()
    if "FlashAttention" in said and "installed" in said:
        return "flash-attn"
    if "torchvision" in said.lower():
        return "torchvision"
    if isinstance(error, ImportError) and (told := _INSTALL.search(said)):
        return told[1]
    module = (error.name or "") if isinstance(error, ModuleNotFoundError) else ""
    return None if module.startswith("transformers") else module.partition(".")[0] or None


def needs(package: str) -> str:
    """The end of an error message: what is needed, and how to install it.

    >>> needs("timm")
    'needs timm: pip install timm'
    """
    name = f"'{package}'" if re.search(r"[^\w-]", package) else package  # a shell takes < and [ for its own
    return f"needs {package}: pip install {_HOW.get(package, name)}"
