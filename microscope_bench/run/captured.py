"""A token store that is whole, with all that measuring it needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from msgspec import ValidationError, convert

from microscope_bench.capture.store import TokenStore
from microscope_bench.errors import StoreError
from microscope_bench.identity import Identity
from microscope_bench.results.records import Environment
from microscope_bench.run.resolve import Stopwatch


@dataclass(frozen=True)
class Captured:
    """What the capture hands over to measuring."""

    store: TokenStore
    identity: Identity
    environment: Environment
    stopwatch: Stopwatch


def open_finished(store: str | Path) -> tuple[TokenStore, Identity]:
    """A kept token store that is whole, and the identity of the run that captured it."""
    token_store = TokenStore(Path(store))
    token_store.check_complete()
    if not token_store.manifest.get("about"):
        raise StoreError(f"{store}: its capture did not end; give the run's command again to finish it")
    try:
        return token_store, convert(token_store.manifest["about"]["identity"], Identity)
    except ValidationError as error:
        raise StoreError(f"{store}: its identity is none that this version knows ({error})") from error
