from __future__ import annotations

import hashlib
import json

import pytest

from microscope_bench.capture.selection import RULE
from microscope_bench.errors import MicroscopeError, UnknownNameError
from microscope_bench.metrics import gride_metric, linearity_metric
from microscope_bench.metrics.core import (
    arrays,
    axes,
    cloud,
    concentration,
    distances,
    duplicates,
    frechet,
    moments,
    pareto_law,
    sinks,
)
from microscope_bench.metrics.registry import DEFAULT_METRICS, METRICS
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


def test_what_geometry_1_stands_on_is_frozen():
    """Every constant that decides a number: a change of one is another protocol, or another version of a metric."""
    built_in = {name: METRICS.get(name) for name in sorted(DEFAULT_METRICS)}
    rules = {
        "protocol": named_protocol("geometry/1").as_dict(),
        "metrics": {name: [metric.version, metric.estimators] for name, metric in built_in.items()},
        "default metrics": DEFAULT_METRICS,
        "selection": RULE,
        "folds": [arrays.N_FOLDS, arrays.SEED, cloud.SAMPLE_SEED],
        "sinks": [sinks.MAGNITUDE, sinks.MEDIANS, sinks.NORMS, sinks.SPREADS, sinks.NOTABLE_SHARE],
        "concentration": [concentration.TOP, concentration.NOTABLE],
        "copies": [
            sorted(map(str, one.items()))
            for one in (duplicates.COPY_TOLERANCE, duplicates.CLOSE_TOLERANCE, duplicates.NARROWER)
        ],
        "solves": [axes.RANK_CUTOFF, moments.ROUNDING, moments.SMALLEST, moments.LARGEST],
        "linearity": [linearity_metric.LEADING, linearity_metric.FEW_EXAMPLES],
        "dimension": [cloud.MOST_DRAWS, distances.AS_NEIGHBOURS, pareto_law.CRITICAL, gride_metric.GROUPS],
        "scales": gride_metric.SCALES,
        "mir": frechet.OUTLIER_STDS,
    }
    text = json.dumps(rules, sort_keys=True)
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "f739da622a1eb2855d57aef3419fb5280ffa6dbac0784c6a3de8774ccf6f5983"
    ), text
