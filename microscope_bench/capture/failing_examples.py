"""Whose fault an exception is: an example's, which is skipped then, or the instrument's, which ends the run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from traceback import walk_tb

from microscope_bench.adapters.base import Adapter, Batch
from microscope_bench.capture.example_record import ExampleRecord
from microscope_bench.errors import BatchError, CaptureError, ExampleError, MicroscopeError, said
from microscope_bench.example import Example, ExampleSource
from microscope_bench.protocol import Protocol
from microscope_bench.system.memory import out_of_memory

LOG = logging.getLogger("microscope_bench")
_CALLED_BY_ALL = ("numpy", "torch")


@contextmanager
def of_examples(ids: Sequence[str], what: str) -> Iterator[None]:
    """Inside, whatever a model, a processor or an adapter raises is an ExampleError of the example that it is given.

    Of several it is a BatchError: one of them, or all together, are at fault. Errors of this package, memory that runs
    out, and what ends a process stay as they are.
    """
    try:
        yield
    except MicroscopeError:
        raise
    except Exception as error:
        if out_of_memory(error) or _raised_here(error):
            raise
        cause = said(error, what)
        LOG.debug("examples %s: %s", ids, cause, exc_info=error)
        error.__traceback__ = None  # an error that is raised again would bring these frames along
        if len(ids) == 1:
            raise ExampleError(ids[0], cause) from error
        raise BatchError(
            f"examples {', '.join(ids)} do not go through the model together ({cause}). Use --batch_size 1."
        ) from error


def render_example(source: ExampleSource, index: int) -> Example:
    """One example; an ExampleError where its task fails on it, however it does."""
    with of_examples([source.ids[index]], "in the task"):
        return source.example(index)


def encode_examples(adapter: Adapter, examples: Sequence[Example]) -> Batch:
    """The examples encoded; an ExampleError, or of several a BatchError, where that fails."""
    with of_examples([example.id for example in examples], "in the encoding"):
        return adapter.encode(examples)


def check_skipped(protocol: Protocol, n_skipped: int, n_examples: int, skipped: Sequence[ExampleRecord]) -> None:
    """Raises a CaptureError where more examples could not be measured than the protocol allows."""
    allowed = int(protocol.max_skipped * n_examples)
    if n_skipped > allowed:
        ids: dict[str, list[str]] = {}
        for record in skipped:
            ids.setdefault(str(record.skipped), []).append(record.id)
        told = [f"{', '.join(of[:3])}{', ...' * (len(of) > 3)}: {cause}" for cause, of in list(ids.items())[:3]]
        first = "; ".join(told) or "those that the other processes name"
        raise CaptureError(
            f"{n_skipped} of {n_examples} examples could not be measured, {allowed} may be (max_skipped="
            f"{protocol.max_skipped:g}). First: {first}. Repair them, or raise max_skipped"
        )


def _raised_here(error: Exception) -> bool:
    """Whether it is a bug of ours: raised by code of this package, in a call of NumPy or torch too, or by a hook."""
    room, ours = __name__.rpartition(".")[0], __name__.partition(".")[0]
    modules = [str(frame.f_globals.get("__name__")) for frame, _ in walk_tb(error.__traceback__)]
    packages = [module.partition(".")[0] for module in modules]
    outside = next((n for n, package in enumerate(packages) if package != ours), len(packages))
    if any(module.startswith(f"{room}.") for module in modules[outside:]):
        return True  # the model has called a hook of the capture
    return next((package for package in reversed(packages) if package not in _CALLED_BY_ALL), ours) == ours
