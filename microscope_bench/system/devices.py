"""Where arithmetic runs."""

from __future__ import annotations

import logging
import time
from functools import cache

import torch

from microscope_bench.errors import MicroscopeError, first_line
from microscope_bench.system.processes import launched

LOG = logging.getLogger("microscope_bench")


ACCELERATORS = ("cuda", "mps", "xpu")
"""What is taken without being asked for, where it is there."""

PRODUCT_WIDTH = 1024
"""Of the matrices whose product is timed: wide enough to take longer than the launch of a kernel."""


def pick_device(name: str | None) -> torch.device:
    """The device of that name; None means a GPU where there is one, and for several processes one GPU each."""
    try:
        device = torch.device(name or _default())
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise MicroscopeError(
            f"device {name!r} is not available here ({first_line(error)}); try --device cpu"
        ) from error
    return device


def measuring_device(name: str | None) -> torch.device:
    """The device of that name if it computes in float64, which every value is made in, and no later than the CPU.

    Else the CPU: mps has no float64, and that of many a graphics card is slow. Both are found by trying. Where the two
    are about as fast one process may take the one and the next the other; the values then differ by rounding alone.
    """
    device, cpu = pick_device(name), torch.device("cpu")
    if device == cpu:
        return cpu
    try:
        torch.zeros(1, dtype=torch.float64, device=device)
    except (RuntimeError, TypeError):
        LOG.info("%s has no float64: the captured states are measured on the CPU", device)
        return cpu
    there, here = product_seconds(device), product_seconds(cpu)
    if there > here:
        LOG.info("in float64 the CPU is %.1f times as fast as %s: it measures the states", there / here, device)
        return cpu
    return device


@cache
def product_seconds(device: torch.device) -> float:
    """Seconds that a product of two float64 matrices takes there, the least of four; tried once."""
    matrix = torch.ones(PRODUCT_WIDTH, PRODUCT_WIDTH, dtype=torch.float64, device=device)

    def seconds() -> float:
        begin = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # waits until it is computed
        return time.perf_counter() - begin

    return min(seconds() for _ in range(4))


def _default() -> str:
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None or found.type not in ACCELERATORS:
        return "cpu"
    # the number of a GPU only where there is a choice: a scheduler may let each process see one alone
    n_gpus, processes = torch.accelerator.device_count(), launched()
    return f"{found.type}:{processes.local_rank % n_gpus}" if processes.size > 1 and n_gpus > 1 else found.type


def free_bytes(device: torch.device) -> int | None:
    """Bytes that are free on a GPU, to each of the processes that share it; None for the host."""
    if device.type != "cuda":
        return None
    return torch.cuda.mem_get_info(device)[0] // -(-launched().local_size // torch.cuda.device_count())
