"""One sentence for whatever a library raises while it loads a part of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from microscope_bench.adapters.missing_packages import missing_package, needs
from microscope_bench.errors import AdapterError, MicroscopeError, first_line, said


@contextmanager
def loading(what: str, advice: str) -> Iterator[None]:
    """Turns every exception raised inside into an AdapterError: ``what`` cannot be loaded, why, and ``advice``.

    Damaged files, wrong shapes, missing packages and missing memory: each library raises something else. Errors of this
    package pass, and so do those that end a process.
    """
    try:
        yield
    except MicroscopeError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not _is_panic(error):
            raise
        if isinstance(error, Exception) and (package := missing_package(error)):
            raise AdapterError(f"{what} {needs(package)}") from error
        advice = "Install what it asks for." if isinstance(error, ImportError) else advice
        raise AdapterError(f"{what} cannot be loaded ({said(error)}). {advice}") from error


@contextmanager
def panics_told(what: str) -> Iterator[None]:
    """Turns the panic of a Rust library, which nothing that handles errors expects, into an AdapterError."""
    try:
        yield
    except BaseException as error:
        if _is_panic(error):
            raise AdapterError(
                f"{what} makes a library fail: {first_line(error)}. Fetch the checkpoint again"
            ) from error
        raise


def _is_panic(error: BaseException) -> bool:
    """Whether tokenizers or safetensors gave up; their class is no Exception and cannot be imported."""
    return type(error).__name__ == "PanicException"
