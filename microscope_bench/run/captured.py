"""A token store that is whole, with all that measuring it needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from msgspec import Struct, ValidationError, convert

from microscope_bench.capture.store import TokenStore
from microscope_bench.errors import StoreError
from microscope_bench.identity import Identity
from microscope_bench.results.records import Environment
from microscope_bench.run.resolve import Stopwatch
from microscope_bench.system.field_types import NotNegative, Sha256, content_sha256


@dataclass(frozen=True)
class Captured:
    """What the capture hands over to measuring."""

    store: TokenStore
    identity: Identity
    environment: Environment
    stopwatch: Stopwatch


class About(Struct, frozen=True):
    """What a store's manifest says of its capture, beside what only citations and pictures of it need."""

    identity: Identity
    environment: Environment
    media_sha256: Sha256 | None
    capture_seconds: NotNegative


def open_finished(store: str | Path) -> tuple[TokenStore, About]:
    """A kept token store that is whole, and what it says of the run that captured it."""
    token_store = TokenStore(Path(store))
    token_store.check_complete()
    if not token_store.manifest["about"]:
        raise StoreError(f"{store}: its capture did not end; give the run's command again to finish it")
    try:
        about = convert(token_store.manifest["about"], About)
    except ValidationError as error:
        raise StoreError(f"{store}: it says of its capture what this version does not know ({error})") from error
    ids = sorted(record.id for record in token_store.records)
    if content_sha256(ids) != about.identity.example_ids_sha256:
        raise StoreError(f"{store} does not hold the examples of its run; delete it and capture the run again")
    return token_store, about
