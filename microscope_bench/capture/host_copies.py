"""Rows of tensors on any device, brought to the host without keeping the device waiting."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class HostCopies:
    """The same tokens of several tensors (B, S, d), on the host.

    From a CUDA device they are gathered there and copied behind the kernels that are queued: a forward pass goes on
    being launched meanwhile, and only :meth:`wait` waits. Token i is at ``row[i]`` of B and ``column[i]`` of S.
    """

    def __init__(self, row: np.ndarray, column: np.ndarray) -> None:
        self._row, self._column = torch.from_numpy(row), torch.from_numpy(column)
        self._on_device: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def take(self, hidden: Tensor) -> Tensor:
        """(n, d): the tokens of a tensor (B, S, d), which may change afterwards; to be read after :meth:`wait`."""
        device = hidden.device
        later = device.type == "cuda"
        if device not in self._on_device:
            # only from pinned memory does a copy to the device not wait for the kernels before it
            given = [index.pin_memory() if later else index for index in (self._row, self._column)]
            self._on_device[device] = (given[0].to(device, non_blocking=later), given[1].to(device, non_blocking=later))
        # torch copies to pinned memory when asked not to block, which is what makes it possible
        return hidden[self._on_device[device]].to("cpu", non_blocking=later)

    def wait(self) -> None:
        """Returns once every tensor that :meth:`take` gave holds its tokens."""
        for device in self._on_device:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
