from __future__ import annotations

import math
import sys

import pytest

from microscope_bench.errors import ResultError
from microscope_bench.results.records import Score
from tests.results.sample import failed, sample


def test_one_row_per_score_with_its_own_numbers() -> None:
    pytest.importorskip("pandas")
    result = sample()
    frame = result.to_dataframe()
    assert len(frame) == len(result.scores)
    assert list(frame.columns)[-13:] == list(Score.__struct_fields__)
    assert set(frame["signature"]) == {result.signature}
    for score, row in zip(result.scores, frame.itertuples(), strict=True):
        assert (row.metric, row.layer, row.n_tokens) == (score.metric, score.layer, score.n_tokens)
        assert row.value == score.value if score.value is not None else math.isnan(row.value)
        assert row.flags == "; ".join(score.flags)
    chosen = frame.query("estimator == 'cross_fitted' and stream == 'update' and tokens == 'all'")
    series = result.series("linearity", "cross_fitted", "update", "image")
    assert chosen[chosen.modality == "image"]["value"].tolist() == [score.value for score in series]


def test_a_failed_result_has_no_rows_but_all_columns() -> None:
    pandas = pytest.importorskip("pandas")
    both = pandas.concat([sample().to_dataframe(), failed(sample()).to_dataframe()])
    assert len(both) == len(sample().scores)


def test_without_pandas_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ResultError, match="pip install pandas"):
        sample().to_dataframe()
