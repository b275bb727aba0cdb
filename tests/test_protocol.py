from __future__ import annotations

import pytest

from microscope_bench.errors import MicroscopeError, UnknownNameError
from microscope_bench.protocol import PROTOCOLS, named_protocol


def test_geometry_1_is_frozen():
    """A released protocol never changes: whoever wants another number writes another protocol."""
    assert named_protocol("geometry/1").as_dict() == {
        "name": "geometry/1",
        "tokens_per_example": 32,
        "limit": None,
        "folds": 10,
        "id_tokens": 1024,
        "sink_rule": "massive/2",
        "max_skipped": 0.01,
        "seed": 0,
    }


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_named_protocol_has_no_deviations(name):
    assert PROTOCOLS[name].name == name
    assert PROTOCOLS[name].deviations() == {}


def test_changes_are_deviations_and_none_is_no_change():
    changed = named_protocol("geometry/1").with_changes(limit=10, seed=None, tokens_per_example=32)
    assert changed.deviations() == {"limit": 10}


def test_unknown_fields_and_names_are_refused_with_the_nearest():
    with pytest.raises(UnknownNameError, match="tokens_per_example"):
        named_protocol("geometry/1").with_changes(tokens_per_exmaple=3)
    with pytest.raises(UnknownNameError, match="geometry/1"):
        named_protocol("geometry")


@pytest.mark.parametrize(
    "field, value",
    [
        ("folds", 1),
        ("seed", -1),
        ("seed", True),
        ("tokens_per_example", 2.5),
        ("id_tokens", 2),
        ("limit", 0),
        ("max_skipped", -0.1),
    ],
)
def test_values_out_of_range_are_refused(field, value):
    with pytest.raises(MicroscopeError, match=field):
        named_protocol("geometry/1").with_changes(**{field: value})
