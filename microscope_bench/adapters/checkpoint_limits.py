"""What the files of a checkpoint may be before any of them is opened by a library: regular, bounded, of sane counts."""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from microscope_bench.errors import AdapterError

MIB = 1 << 20
MORE_TEMPLATES = "additional_chat_templates/*.jinja"
"""Chat templates that transformers reads, too; one named default is used where there is no chat_template.jinja."""
_MOST_BYTES = (
    (re.compile(r".*\.jinja|chat_template\.json"), MIB),
    (re.compile(r".*config\.json"), 8 * MIB),
    (re.compile(r"(tokenizer|vocab|added_tokens|special_tokens_map|tekken)\.json|.*\.(txt|model|tiktoken)"), 40 * MIB),
    (re.compile(r".*\.index\.json"), 32 * MIB),
)
"""File name → its largest size; a tokenizer of 33 MB is published, and an index of some 15."""
_DEEPEST, _MOST_VALUES = 50, 200_000
_MOST_GROWTH = 100
"""Characters or pieces that a tokenizer may make of one."""
_MOST_PATCHES, _MOST_TILES = 1024, 128
"""Along a side of a picture."""

_SETTINGS = re.compile(r"(config|generation_config|(pre|video_pre)?processor_config)\.json")
_MOST = (
    (re.compile(r"(.*_)?(layers?|depths?|blocks|stages|out_indices|first_k_dense_replace)"), 1_000),
    (re.compile(r".*experts"), 10_000),
    (re.compile(r"num_labels"), 1_000_000),
    (
        re.compile(
            r"height|width|image_grid_pinpoints|((image|tile|patch|merge|pad|crop)_)?size|max_patches|feature_size|n_fft"
        ),
        8192,
    ),
    (re.compile(r"(image_seq_len(gth)?|num_(additional_)?(image|video|audio|query)_tokens|.*_token_len)"), 100_000),
    (re.compile(r"sampling_rate|nb_max_frames|max_frames|num_frames"), 200_000),
    (re.compile(r"chunk_length"), 300),
)
"""Key in a settings file → the largest number, also in lists, by which something is built or repeated."""
_SIDE = re.compile(r"height|width|image_grid_pinpoints|(shortest|longest)_edge|(crop_|image_)?size")
_EDGE, _PIXELS = re.compile(r"(shortest|longest)_edge|(min|max)_pixels"), (8192, 1 << 28)


def refuse_unusable_files(directory: Path, patterns: Sequence[str]) -> None:
    """Raises an AdapterError that names the file unless every file of a checkpoint can be read in bounded time.

    A library would wait for a pipe for ever, read a device without end, and build whatever a number asks for.
    """
    matching = {path for pattern in (*patterns, MORE_TEMPLATES) for path in directory.glob(pattern)}
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
        elif path.name == "tokenizer.json":
            _refuse_growing_text(path)


def _refuse_unusable_numbers(path: Path) -> None:
    content = path.read_bytes()
    try:
        document = json.loads(content)
    except ValueError:  # who reads it says so
        return
    except RecursionError:
        document = None
    for n, (key, value, depth) in enumerate(_walk(document)):
        if document is None or depth > _DEEPEST or n > _MOST_VALUES:
            raise AdapterError(
                f"{path} is nested more than {_DEEPEST} deep or has more than {_MOST_VALUES:,} values; fetch it again"
            )
        if key.endswith("attn_implementation") and isinstance(value, str) and "/" in value:
            raise AdapterError(
                f"{path}: {key} names code of the hub, which is not run because a file says so; remove it there, and "
                f"give attn_implementation=... where it is meant"
            )
    in_pixels = b'"merge_size"' in content  # these processors call numbers of pixels edges
    for key, value, _ in _walk(document):
        if isinstance(value, int | float) and (most := _most(key, in_pixels)) is not None and abs(value) > most:
            raise AdapterError(f"{path}: {key} is {value:.6g}, but at most {most} makes sense; fetch the file again")
    if path.name.endswith("processor_config.json"):
        _refuse_too_many_patches(path, document, in_pixels)


def _refuse_too_many_patches(path: Path, document: Any, in_pixels: bool) -> None:
    patches, sides = [], []
    for key, value, _ in _walk(document):
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            continue
        if key == "patch_size":
            patches.append(value)
        elif _SIDE.fullmatch(key) and not in_pixels:
            sides.append(value)
        elif key in ("shortest_edge", "min_pixels"):
            sides.append(math.sqrt(value))
    widest = max(sides, default=0)
    for kind, smallest, most in (("patches", patches, _MOST_PATCHES), ("tiles", sides, _MOST_TILES)):
        if smallest and widest / min(smallest) > most:
            raise AdapterError(
                f"{path}: pictures of {widest:.0f} pixels in {kind} of {min(smallest):.6g} would be more than {most} "
                f"of them wide; fetch the file again"
            )


class _Pipeline(msgspec.Struct):
    """What a ``tokenizer.json`` does to a text before and after it is cut."""

    normalizer: Any = None
    pre_tokenizer: Any = None
    post_processor: Any = None


def _refuse_growing_text(path: Path) -> None:
    """Each replacement of one character by two doubles a text, and a library goes on until memory ends."""
    try:
        steps = msgspec.json.decode(path.read_bytes(), type=_Pipeline)
    except (ValueError, RecursionError):  # who reads it says so
        return
    growth = repeated = 1.0
    for _, step, _ in _walk([steps.normalizer, steps.pre_tokenizer, steps.post_processor]):
        if isinstance(step, dict):
            repeated += "Sequence" in step
            content, pattern = step.get("content"), step.get("pattern")
            if isinstance(content, str) and isinstance(pattern, dict):
                once = str(pattern.get("Regex", ""))[:1] == "^"
                growth *= 1 if once else max(1.0, len(content) / max(1, len(str(pattern.get("String", ""))[:1000])))
    if growth * repeated > _MOST_GROWTH:
        raise AdapterError(
            f"{path}: its normalizer and post_processor make more than {_MOST_GROWTH} characters of one; fetch it again"
        )


def _walk(document: Any) -> Iterator[tuple[str, Any, int]]:
    """Every value below a JSON document with its nearest key and its depth, without recursion."""
    waiting: list[tuple[str, Any, int]] = [("", document, 0)]
    while waiting:
        key, value, depth = waiting.pop()
        yield key, value, depth
        if isinstance(value, dict):
            inside = "patch_size" if key == "patch_size" else None
            waiting += [(inside or name, inner, depth + 1) for name, inner in value.items()]
        elif isinstance(value, list):
            waiting += [(key, inner, depth + 1) for inner in value]


def _most(key: str, in_pixels: bool) -> int | None:
    if _EDGE.fullmatch(key):
        return _PIXELS[in_pixels or key.endswith("pixels")]
    return next((most for names, most in _MOST if names.fullmatch(key)), None)
