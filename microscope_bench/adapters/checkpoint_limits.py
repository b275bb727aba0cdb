"""What the files of a checkpoint may be before any of them is opened by a library: regular, bounded, of sane counts."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from microscope_bench.errors import AdapterError

MIB = 1 << 20
_MOST_BYTES = (
    (re.compile(r".*\.jinja|chat_template\.json"), MIB),
    (re.compile(r".*config\.json"), 8 * MIB),
    (re.compile(r"(tokenizer|vocab|added_tokens|special_tokens_map|tekken|.*\.index)\.json|.*\.(txt|model)"), 64 * MIB),
    (re.compile(r".*\.tiktoken"), 64 * MIB),
)
"""File name → its largest size; the largest published ones have 1.3 (config), 33 (tokenizer) and 22 MB (index)."""
_DEEPEST = 50

_SETTINGS = re.compile(r"(config|generation_config|(pre|video_pre)?processor_config)\.json")
_MOST = (
    (re.compile(r"(.*_)?(layers?|depths?|blocks|stages|experts|out_indices|first_k_dense_replace)"), 10_000),
    (re.compile(r"num_labels"), 1_000_000),
    (re.compile(r"height|width|((image|tile|patch|merge|pad|crop)_)?size|max_patches|feature_size|n_fft"), 8192),
    (re.compile(r"(image_seq_len(gth)?|num_(additional_)?(image|video|audio|query)_tokens|.*_token_len)"), 100_000),
    (re.compile(r"sampling_rate|chunk_length|nb_max_frames|max_frames|num_frames"), 1_000_000),
)
"""Key in a settings file → the largest number, also in lists, by which something is built or repeated."""
_EDGE, _PIXELS = re.compile(r"(shortest|longest)_edge|(min|max)_pixels"), (8192, 1 << 28)


def refuse_unusable_files(directory: Path, patterns: Sequence[str]) -> None:
    """Raises an AdapterError that names the file unless every file of a checkpoint can be read in bounded time.

    A library would wait for a pipe for ever, read a device without end, and build whatever a number asks for.
    """
    matching = {path for pattern in patterns for path in directory.glob(pattern)}
    for path in sorted({*directory.iterdir(), *matching}):
        try:
            found = path.stat()
        except OSError:  # a link to nothing, or to itself: to every library a file that is not there
            continue
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            raise AdapterError(f"{path} is no regular file (but a pipe, a socket or a device); put the file there")
        most = next((size for names, size in _MOST_BYTES if names.fullmatch(path.name)), None)
        if path not in matching or not stat.S_ISREG(found.st_mode) or most is None:
            continue
        if found.st_size > most:
            raise AdapterError(
                f"{path} has {found.st_size / MIB:.0f} MiB, and a file of this name at most {most // MIB}; fetch the "
                f"checkpoint again"
            )
        if _SETTINGS.fullmatch(path.name):
            _refuse_unusable_numbers(path)


def _refuse_unusable_numbers(path: Path) -> None:
    content = path.read_bytes()
    try:
        document = json.loads(content)
        deepest = max(depth for _, _, depth in _walk(document))
    except RecursionError:
        deepest = _DEEPEST + 1
    except ValueError:  # who reads it says so
        return
    if deepest > _DEEPEST:
        raise AdapterError(f"{path} is nested more than {_DEEPEST} deep; fetch the checkpoint again")
    in_pixels = b'"merge_size"' in content  # these processors call numbers of pixels edges
    for key, value, _ in _walk(document):
        if isinstance(value, int | float) and (most := _most(key, in_pixels)) is not None and abs(value) > most:
            raise AdapterError(f"{path}: {key} is {value:.6g}, but at most {most} makes sense; fetch the file again")


def _walk(document: Any) -> Iterator[tuple[str, Any, int]]:
    """Every value below a JSON document with its nearest key and its depth, without recursion."""
    waiting: list[tuple[str, Any, int]] = [("", document, 0)]
    while waiting:
        key, value, depth = waiting.pop()
        yield key, value, depth
        if isinstance(value, dict):
            waiting += [(name, inner, depth + 1) for name, inner in value.items()]
        elif isinstance(value, list):
            waiting += [(key, inner, depth + 1) for inner in value]


def _most(key: str, in_pixels: bool) -> int | None:
    if _EDGE.fullmatch(key):
        return _PIXELS[in_pixels or key.endswith("pixels")]
    return next((most for names, most in _MOST if names.fullmatch(key)), None)
