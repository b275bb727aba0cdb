"""Lets torchvision's Python half work beside a torch that its compiled half was not built for.

A torchvision wheel beside a CPU build of torch fails to load its operators, and then fails to import at all, because it
describes them to torch. Nothing that an image processor or a timm model does here uses them: declared without an
implementation, they raise where they are called and nowhere else.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch

_OPERATORS = ("nms", "qnms")
_library: torch.library.Library | None = None


def declare_operators() -> None:
    """Declares torchvision's operators where it is installed and cannot declare them itself; once."""
    global _library
    if _library is not None or find_spec("torchvision") is None:
        return
    try:
        import torchvision
    except RuntimeError:
        _library = torch.library.Library("torchvision", "DEF")
        for name in _OPERATORS:
            _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401
