"""The one line by which a result is cited.

It names what a reader must know to judge whether two numbers may be compared, shows every deviation from the named
protocol, and ends with a hash of the whole ``identity`` section, so that nothing that defines comparability can differ
between two results of the same signature.

    geometry/1|model:org/name@1a2b3c4d|dtype:float32|attn:sdpa|task:shapesqa@1|data:shapesqa@v1/test|n:100|tokens:32|...
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from microscope_bench import __version__
from microscope_bench.protocol import PROTOCOLS, Protocol
from microscope_bench.results.document import canonical, sha256

SHORT_ID_LENGTH = 12


def identity_hash(identity: Mapping[str, Any]) -> str:
    """64 hex digits: SHA-256 of the canonical JSON of an ``identity`` section."""
    return sha256(canonical(identity))


def short_id(identity: Mapping[str, Any]) -> str:
    """The first 12 hex digits of :func:`identity_hash`: the ``id`` at the end of a signature."""
    return identity_hash(identity)[:SHORT_ID_LENGTH]


def short_revision(revision: str) -> str:
    """A revision as people read it: 8 digits of a commit or of a content hash, any other name in full."""
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision[:8]
    if re.fullmatch(r"sha256-[0-9a-f]+", revision):
        return revision[: len("sha256-") + 8]
    return revision


def protocol_deviations(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """In which fields a recorded protocol differs from the named one.

    A name that this version of the package does not know has no defaults to deviate from: every field is returned.
    """
    if protocol["name"] in PROTOCOLS:
        return Protocol(**protocol).deviations()
    return {field: value for field, value in protocol.items() if field != "name"}


def protocol_label(protocol: Mapping[str, Any]) -> str:
    """The protocol's name and every deviation as ``key=value``, separated by ``|``; ``limit=None`` reads ``limit=all``.

    Results with different labels are never put into one table.
    """
    deviations = protocol_deviations(protocol)
    values = {key: "all" if value is None else value for key, value in deviations.items()}
    return "|".join([_text(protocol["name"]), *(f"{key}={_text(value)}" for key, value in values.items())])


def signature(identity: Mapping[str, Any], package_version: str = __version__) -> str:
    """One line without blanks that cites a result.

    Args:
        identity: the ``identity`` section as JSON types (``Result.to_dict()["identity"]``).
        package_version: of the package that measured.

    Returns:
        Printable ASCII; parts are separated by ``|``, anything unusual in a name is percent-encoded.
    """
    protocol, model, task, dataset = (identity[key] for key in ("protocol", "model", "task", "dataset"))
    data = f"{dataset['path']}:{dataset['name']}" if dataset["name"] else dataset["path"]
    parts = [
        protocol_label(protocol),
        f"model:{_text(model['repo'])}@{_text(short_revision(model['revision']))}",
        "" if model["trained"] else "untrained",
        f"control:{_text(model['control'])}" if model["control"] else "",
        *(f"{_text(key)}={_text(value)}" for key, value in sorted(model["options"].items())),
        f"dtype:{_text(model['dtype'])}",
        f"quant:{_text(model['quantization'])}" if model["quantization"] else "",
        f"attn:{_text(model['attention'])}" if model["attention"] else "",
        f"task:{_text(task['name'])}@{_text(task['version'])}",
        f"data:{_text(data)}@{_text(short_revision(dataset['revision']))}/{_text(dataset['split'])}",
        f"n:{identity['n_examples']}",
        f"tokens:{protocol['tokens_per_example']}",
        f"seed:{protocol['seed']}",
        f"mb:{_text(package_version)}",
        f"id:{short_id(identity)}",
    ]
    return "|".join(part for part in parts if part)


def _text(value: object) -> str:
    return quote(str(value), safe="/:@+,.~", errors="replace")
