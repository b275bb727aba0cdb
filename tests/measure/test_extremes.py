"""States at the ends of what their dtype holds: values, or nulls with their reasons, and never an exception."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from microscope_bench.measure.scores import Measurement
from microscope_bench.metrics.registry import METRICS
from microscope_bench.protocol import named_protocol
from tests.measure.stores import measurement_of, noise_layers, write_store

STATES = {"image": noise_layers(80, 6, 2), "text": noise_layers(60, 6, 2, seed=1)}


def measured(path, states) -> Measurement:
    store = write_store(path, states, tokens_per_example=4)
    return measurement_of(store, named_protocol("geometry/1"), METRICS.names(), n_layers=1)


def rows_of(found: Measurement):
    return {(s.metric, s.estimator, s.stream, s.modality, s.tokens, s.layer): s for s in found.scores}


def times(scale: float, dtype: torch.dtype):
    return lambda modality, layer, x: (x.double() * scale).to(dtype)


def one_entry(value: float, at: int):
    def change(modality: str, layer: int, x: Tensor) -> Tensor:
        x = x.double().clone()
        if (modality, layer) == ("image", at):
            x[3, 1] = value
        return x

    return change


CASES = {
    "float64 x 1e-300": times(1e-300, torch.float64),
    "float64 x 1e-80": times(1e-80, torch.float64),
    "float64 x 1e80": times(1e80, torch.float64),
    "float64 x 1e300": times(1e300, torch.float64),
    "float32 x 1e36": times(1e36, torch.float32),
    "float32 x 1e-44": times(1e-44, torch.float32),
    "one entry of 1e100": one_entry(1e100, at=0),
    "one next entry of 1e100": one_entry(1e100, at=1),
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return rows_of(measured(tmp_path_factory.mktemp("s") / "s", STATES))


@pytest.mark.parametrize("case", CASES)
def test_every_row_is_a_value_or_a_null_with_its_reason(tmp_path, expected, case):
    change = CASES[case]
    states = {name: [change(name, k, x) for k, x in enumerate(layers)] for name, layers in STATES.items()}
    rows = rows_of(measured(tmp_path / "s", states))
    assert set(rows) == set(expected)
    for key, row in rows.items():
        assert (row.value is None) == bool(row.reason) and (row.value is None or math.isfinite(row.value)), key
        assert "no variance" not in str(row.reason) and "same" not in str(row.reason), key
        if case.startswith("float64"):
            assert row.value is None and "outside 1e-60 to 1e60" in row.reason, key
        if case == "float32 x 1e36" and expected[key].value is not None and key[1:3] != ("raw", None):
            assert row.value == pytest.approx(expected[key].value, rel=1e-4), key
        if case.startswith("one") and row.modality == "text":
            assert row == expected[key]
