"""What may happen to the parts of a token store between two lives of a run."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

from microscope_bench.system.disk import signed, write_whole


def _beside(record: Path) -> Path:
    return record.with_suffix(".safetensors")


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _copy(source: Path, target: Path) -> None:
    for old, new in ((_beside(source), _beside(target)), (source, target)):
        write_whole(new, old.read_bytes())


def _swap(one: Path, other: Path) -> None:
    contents = one.read_bytes(), _beside(one).read_bytes()
    _copy(other, one)
    write_whole(other, contents[0])
    write_whole(_beside(other), contents[1])


def _edit(record: Path, *, sign: bool) -> None:
    content = json.loads(record.read_text())
    content["examples"][0]["tokens_seen"]["text"] += 1
    write_whole(record, signed(content) if sign else json.dumps(content).encode())


def _fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


KINDS: dict[str, Callable[[Path, Path, Path], object]] = {
    "flipped bit": lambda part, other, foreign: _flip(_beside(part)),
    "truncated": lambda part, other, foreign: os.truncate(_beside(part), 1000),
    "tensors removed": lambda part, other, foreign: _beside(part).unlink(),
    "record removed": lambda part, other, foreign: part.unlink(),
    "copied over another": lambda part, other, foreign: _copy(part, other),
    "swapped": lambda part, other, foreign: _swap(part, other),
    "from another store": lambda part, other, foreign: _copy(foreign / part.name, part),
    "record edited": lambda part, other, foreign: _edit(part, sign=False),
    "record signed again": lambda part, other, foreign: _edit(part, sign=True),
    "tensors of another part": lambda part, other, foreign: write_whole(_beside(part), _beside(other).read_bytes()),
    "tensors a FIFO": lambda part, other, foreign: _fifo(_beside(part)),
}
"""Name → what is done to a part, by the path of its record, with another part and the parts of another store.

JSON stays JSON: that nothing but JSON is ever read is what the watcher holds the run itself to.
"""


def damage(root: Path, foreign: Path, rng: random.Random) -> str | None:
    """Damages a part of the one store below ``root``; says how, None where it has none."""
    records = sorted(root.glob(".stores/*/parts/*.json"))
    records = [record for record in records if _beside(record).exists() and (foreign / record.name).exists()]
    if not records:
        return None
    kind, part = rng.choice(sorted(KINDS)), rng.choice(records)
    KINDS[kind](part, rng.choice([record for record in records if record != part] or [part]), foreign)
    return kind
