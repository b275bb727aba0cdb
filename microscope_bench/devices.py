"""Where arithmetic runs."""

from __future__ import annotations

import torch

from microscope_bench.errors import MicroscopeError
from microscope_bench.hub import first_line


def pick_device(name: str | None) -> torch.device:
    """The device of that name; None means a GPU where there is one.

    Raises:
        MicroscopeError: no such device here.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise MicroscopeError(
            f"device {name!r} is not available here ({first_line(error)}); try --device cpu"
        ) from error
    return device


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a GPU; None for the host, whose memory others bound."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def device_name(device: torch.device) -> str:
    """What a result calls a device: its kind, and of a GPU its model."""
    return f"{device.type} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
