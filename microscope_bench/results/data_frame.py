"""A result as a table of pandas, which is imported when it is asked for and is no dependency of the package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import structs

from microscope_bench.errors import ResultError
from microscope_bench.identity import Identity
from microscope_bench.results.records import Score

if TYPE_CHECKING:
    import pandas

_NUMBERS = {"layer": "int64", "value": "float64", "stderr": "float64", "n_tokens": "int64", "n_examples": "int64"}


def identity_columns(identity: Identity, n_measured: int, signature: str) -> dict[str, Any]:
    """What tells the rows of one result from those of another, the same in each row."""
    model, data = identity.model, identity.dataset
    return {
        "id": identity.short_id,
        "protocol": identity.protocol.label,
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
        "n_measured": n_measured,
        "signature": signature,
    }


def dataframe(columns: Mapping[str, Any], scores: Sequence[Score]) -> pandas.DataFrame:
    """The scores as rows, behind columns that have one value each."""
    try:
        import pandas
    except ImportError as error:
        raise ResultError("to_dataframe needs pandas, which is not installed: pip install pandas") from error
    rows = [{**structs.asdict(score), "flags": "; ".join(score.flags)} for score in scores]
    frame = pandas.DataFrame(rows, columns=list(Score.__struct_fields__)).astype(_NUMBERS)
    for place, (name, value) in enumerate(columns.items()):
        frame.insert(place, name, [value] * len(rows))
    return frame
