"""Picture columns of a data set, decoded by the rule that holds for every picture."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

from microscope_bench.rgb_pictures import rgb_picture

STORED = ("string", "large_string", "binary", "large_binary")
"""Types of columns whose paths or bytes become pictures where ``doc_to_image`` names them."""


class PictureColumn(datasets.Image):  # type: ignore[misc]
    """A column of pictures: each row gives an RGB picture. Stored as ``datasets`` stores it."""

    def __init__(self, directories: Sequence[Path] = ()) -> None:
        super().__init__()
        self.directories = directories

    def decode_example(self, value: Any, token_per_repo_id: object = None) -> Any:
        return rgb_picture(value, self.directories)


def with_picture_columns(rows: Any, shown: object, directories: Sequence[Path]) -> Any:
    """A ``datasets.Dataset`` whose decoded pictures, nested ones too, are those of the rule.

    Args:
        rows: the data set.
        shown: the task's ``doc_to_image``: a column of paths or bytes that it names becomes one of pictures.
        directories: where the files must lie; see :func:`microscope_bench.rgb_pictures.stored_content`.
    """
    column_of_pictures = PictureColumn(directories)
    for column in [shown] if isinstance(shown, str) else shown if isinstance(shown, list) else []:
        if getattr(rows.features.get(column), "dtype", None) in STORED:
            rows = rows.cast_column(column, column_of_pictures)
    return with_features(rows, datasets.Image, lambda feature: column_of_pictures if feature.decode else feature)


def with_undecoded_media(rows: Any) -> Any:
    """The same rows with every picture and every recording as it is stored."""

    def stored(feature: Any) -> Any:
        return type(feature)(decode=False) if type(feature) is datasets.Audio else datasets.Image(decode=False)

    return with_features(rows, (datasets.Image, datasets.Audio), stored)


def with_features(rows: Any, kind: Any, change: Callable[[Any], Any]) -> Any:
    """The same rows, features of a kind changed at any depth into others that are stored in the same way."""

    def changed(feature: Any) -> Any:
        if isinstance(feature, kind):
            return change(feature)
        if isinstance(feature, Mapping):
            return {key: changed(inner) for key, inner in feature.items()}
        if isinstance(feature, datasets.List | datasets.LargeList):
            inner = changed(feature.feature)
            return type(feature)(inner, length=feature.length) if hasattr(feature, "length") else type(feature)(inner)
        return feature

    rows = copy.deepcopy(rows)  # the table itself is shared
    rows.info.features = datasets.Features({column: changed(feature) for column, feature in rows.features.items()})
    return rows
