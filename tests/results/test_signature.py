from __future__ import annotations

import hashlib
import json

import msgspec
import pytest
from msgspec.structs import replace

from microscope_bench.identity import short_revision
from microscope_bench.protocol import named_protocol
from tests.results.sample import sample

NAMED = named_protocol("geometry/1")


def test_no_deviation_no_mark() -> None:
    assert sample(protocol=NAMED).signature.startswith("geometry/1|model:example/tiny-llava@3b0c8f0f|dtype:")


@pytest.mark.parametrize("field", ["tokens_per_example", "limit", "folds", "id_tokens", "max_skipped", "seed"])
def test_every_deviation_shows(field: str) -> None:
    changed = sample(protocol=replace(NAMED, **{field: 1 if field == "max_skipped" else 7}))
    assert f"|{field}={1 if field == 'max_skipped' else 7}|" in changed.signature
    assert changed.identity_hash != sample(protocol=NAMED).identity_hash


def test_of_an_unknown_protocol_every_field_shows() -> None:
    line = sample(protocol=replace(NAMED, name="geometry/99")).signature
    assert line.startswith(
        "geometry/99|tokens_per_example=32|limit=all|folds=10|id_tokens=1024|sink_rule=massive/2|"
        "max_skipped=0.01|seed=0|"
    )


def test_untrained_controls_and_quantisation_show() -> None:
    line = sample(model={"trained": False, "control": "permuted", "quantization": "bitsandbytes"}).signature
    assert "|untrained|control:permuted|dtype:float32|quant:bitsandbytes|attn:sdpa|" in line


def test_a_hostile_name_stays_one_part() -> None:
    line = sample(model={"repo": "a|seed:9 b`c\nd<e>\u202e"}).signature
    assert line.isascii()
    assert line.isprintable()
    assert " " not in line
    assert line.count("|") == sample().signature.count("|")
    assert "model:a%7Cseed:9%20b%60c%0Ad%3Ce%3E%E2%80%AE@" in line


def test_the_id_covers_all_of_the_identity_and_nothing_else() -> None:
    result = sample()
    assert result.signature.endswith(f"|id:{result.short_id}")
    assert len(result.short_id) == 12
    assert sample(prompt_sha256="0" * 64).short_id != result.short_id
    mirrored = replace(result.identity, metrics=dict(reversed(result.identity.metrics.items())))
    assert mirrored.hash == result.identity_hash, "the order of a mapping is none of it"
    assert result.identity.signature("9.9.9").endswith(f"|mb:9.9.9|id:{result.short_id}")


def test_anybody_can_compute_the_hash() -> None:
    """docs/result_format.md gives this recipe; other ways to write a float are the one thing that could differ."""
    identity = msgspec.to_builtins(sample().identity)
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == sample().identity_hash


def test_short_revisions() -> None:
    assert short_revision("a" * 40) == "aaaaaaaa"
    assert short_revision("sha256-0123456789abcdef") == "sha256-01234567"
    assert short_revision("generator-1-seed0-n500") == "generator-1-seed0-n500"
