"""A result as a table of pandas, which is imported when it is asked for and is no dependency of the package."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from microscope_bench.errors import ResultError
from microscope_bench.results.records import Score
from microscope_bench.results.signature import protocol_label

if TYPE_CHECKING:
    import pandas

    from microscope_bench.results.result import Result

NUMBERS = {"layer": "int64", "value": "float64", "stderr": "float64", "n_tokens": "int64", "n_examples": "int64"}


def identity_columns(result: Result) -> dict[str, Any]:
    """What tells the rows of one result from those of another, the same in each row."""
    identity = result.identity
    model, data = identity.model, identity.dataset
    return {
        "id": result.short_id,
        "protocol": protocol_label(identity.protocol.as_dict()),
        "model": model.name,
        "repo": model.repo,
        "revision": model.revision,
        "tap": model.options.get("tap"),
        "trained": model.trained,
        "control": model.control,
        "dtype": model.dtype,
        "quantization": model.quantization,
        "n_layers": model.n_layers,
        "hidden_size": model.hidden_size,
        "n_parameters": model.n_parameters,
        "task": identity.task.name,
        "task_version": identity.task.version,
        "dataset": data.path,
        "dataset_name": data.name,
        "dataset_revision": data.revision,
        "split": data.split,
        "n_measured": identity.n_examples,
        "signature": result.signature,
    }


def dataframe(result: Result) -> pandas.DataFrame:
    """See :meth:`~microscope_bench.results.result.Result.to_dataframe`."""
    try:
        import pandas
    except ImportError as error:
        raise ResultError("to_dataframe needs pandas, which is not installed: pip install pandas") from error
    names = [field.name for field in fields(Score)]
    rows = [{name: getattr(score, name) for name in names} for score in result.scores]
    for row in rows:
        row["flags"] = "; ".join(row["flags"])
    frame = pandas.DataFrame(rows, columns=names).astype(NUMBERS)
    for place, (name, value) in enumerate(identity_columns(result).items()):
        frame.insert(place, name, [value] * len(rows))
    return frame
