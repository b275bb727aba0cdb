"""Errors a user can act on: each says what went wrong, where, and what to do next."""

from __future__ import annotations

import difflib
from pathlib import Path


class MicroscopeError(Exception):
    """Base of every error this package raises on purpose; the command line prints its message alone."""


class UnknownNameError(MicroscopeError, LookupError):
    """A name that no registry knows; the message lists the nearest names."""


def unknown_name(kind: str, name: str, known: list[str], hint: str = "") -> UnknownNameError:
    """The error for a name that is not known: the nearest names first, then how to list all of them."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    guess = f" Did you mean {' or '.join(near)}?" if near else f" Known: {', '.join(sorted(known)[:20])}."
    return UnknownNameError(f"unknown {kind} {name!r}.{guess}{' ' + hint if hint else ''}")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, "" where it has none; hub and model libraries write pages."""
    return (str(error).strip().splitlines() or [""])[0]


def said(error: BaseException, where: str = "") -> str:
    """The kind of an error, where it was raised, and the first line of its message, if it has one."""
    kind = f"{type(error).__name__} {where}".strip()
    return ": ".join(part for part in (kind, first_line(error)) if part)


class TaskError(MicroscopeError):
    """A task that cannot be read: the message names the file and the field."""


def field_error(path: str | Path, field: str, cause: object) -> TaskError:
    """The error for one field of one task file."""
    return TaskError(f"{path}: field {field}: {cause}")


class ExampleError(MicroscopeError):
    """One example that cannot be rendered or encoded (for instance a picture that does not open).

    A run counts it, names it and its ``cause`` (one line) in the result, and goes on, up to the protocol's limit.
    """

    def __init__(self, example_id: str, cause: str) -> None:
        super().__init__(f"example {example_id}: {cause}")
        self.example_id = example_id
        self.cause = cause


class AdapterError(MicroscopeError):
    """A model that cannot be loaded, encoded for, or labelled."""


class BatchError(AdapterError):
    """Examples that a model does not take together; one by one it may take all or some of them."""


class CaptureError(MicroscopeError):
    """The forward pass did not hand over what the capture expects."""


class MainflowError(CaptureError):
    """The model's blocks cannot be run without their skip connections; ``reason`` is one line that says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the model has no main flow: {reason}. Run it without --mainflow")
        self.reason = reason


class StoreError(MicroscopeError):
    """A token store that is missing, damaged, or belongs to another run."""


class ResultError(MicroscopeError):
    """A result file that is truncated, foreign, too new, or edited by hand."""


class MetricError(MicroscopeError, ValueError):
    """A metric has no value for these arrays; the message says why and what to do."""
