"""Memory that ran out: how that is told from other errors, and what gives memory back."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from microscope_bench.errors import MicroscopeError, first_line

# plain RuntimeErrors of MPS and older CUDA allocators, of torch's CPU allocator, of cuBLAS
_SAID = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


def out_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out: this error, or one that it was raised from, says so."""
    while error is not None:
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID):
            return True
        error = error.__cause__
    return False


def free_memory() -> None:
    """Gives back what nothing refers to any more; call it where the error, which holds tensors, is gone."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def memory_enough(what_to_do: str) -> Iterator[None]:
    """Inside, memory that runs out is an error that says what to do."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise MicroscopeError(f"out of memory ({first_line(error) or type(error).__name__}). {what_to_do}") from error
