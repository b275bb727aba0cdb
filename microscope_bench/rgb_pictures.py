"""The one rule by which a picture, however it is stored, becomes the RGB picture that is hashed and shown to a model.

``docs/inputs.md`` states it. Whoever opens a picture or takes one from elsewhere uses these functions.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microscope_bench.errors import TaskError, said
from microscope_bench.system.disk import read_regular

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 89_478_485
"""Of one picture: above it Pillow warns of a decompression bomb."""
MAX_BYTES = 2**29
"""Of one stored picture or recording."""
UNREADABLE = frozenset({"EPS"})
"""Formats of Pillow's that are programs and not pictures."""

_ORIENTATION = 0x0112
_CHANGES, _NAME = "microscope_bench.changes", "microscope_bench.name"


def media_in(found: Any) -> list[Any]:
    """The media among what ``doc_to_image`` or ``doc_to_audio`` gives: one, or a list of them, without any None."""
    return [medium for medium in (found if isinstance(found, list | tuple) else [found]) if medium is not None]


def open_picture(found: Any, directories: Sequence[Path] = ()) -> Image:
    """A PIL image as it is; bytes, a path or ``{"bytes": ..., "path": ...}`` opened, but not yet decoded.

    Args:
        found: the picture. Bytes win over a path, which then is a name alone.
        directories: where files may lie; see :func:`stored_content`.

    Raises:
        TaskError: there is no such file, it may not be read, or it is no picture; names the file.
        TypeError: ``found`` is something else.
    """
    from PIL import Image

    if isinstance(found, Image.Image):
        return found
    name = _name(found.get("path") if isinstance(found, Mapping) else found)
    content = stored_content(found, directories)
    Image.init()
    try:
        image = Image.open(io.BytesIO(content), formats=[f for f in Image.ID if f not in UNREADABLE])
    except Image.DecompressionBombError as error:
        raise TaskError(f"{name} has more than {MAX_PIXELS:,} pixels; scale it down") from error
    except Exception as error:  # of the picture library
        raise TaskError(f"{name} does not open: not an image file, or damaged") from error
    image.info[_NAME] = name
    return image


def stored_content(found: Any, directories: Sequence[Path] = ()) -> bytes:
    """What bytes, a path or ``{"bytes": ..., "path": ...}`` stand for, as data sets store pictures and sounds.

    Args:
        found: bytes, a path, or a mapping of both; a relative path counts from the directories, then from the working
            directory.
        directories: those of the data set: where there are any, a file that lies, links followed, in none of them is
            refused.

    Raises:
        TaskError: there is no such file, it is no regular file, too large, or elsewhere.
        TypeError: ``found`` is something else.
    """
    if isinstance(found, Mapping) and (found.get("bytes") is not None or found.get("path") is not None):
        found = found["path"] if found.get("bytes") is None else found["bytes"]
    if isinstance(found, str | os.PathLike):
        return _file_content(os.fspath(found), directories)
    if not isinstance(found, bytes | bytearray | memoryview):
        keys = f" of {', '.join(map(repr, list(found)[:5]))}" if isinstance(found, Mapping) else ""
        raise TypeError(
            f"{type(found).__name__}{keys} is given where a PIL image, stored bytes or the path of a file is due; let "
            f"a function make them of it: doc_to_image: !function utils.pictures"
        )
    if len(found) > MAX_BYTES:
        raise TaskError(f"a stored file has {len(found):,} bytes; at most {MAX_BYTES:,} are read")
    return bytes(found)


def as_rgb(image: Image) -> tuple[Image, tuple[str, ...]]:
    """The picture in RGB mode, and what was changed for it, such as "orientation 6 applied" and "RGBA over white".

    A picture of which nothing is to be changed is given back as it is. What is not a PIL image is too: an adapter of
    one's own may take other things.

    Raises:
        TaskError: it does not decode, has too many pixels, or holds numbers whose range is not known.
    """
    if not hasattr(image, "getexif"):
        return image, ()
    name = image.info.get(_NAME, "a picture")
    if not 0 < image.width * image.height <= MAX_PIXELS:
        raise TaskError(f"{name} has {image.width} x {image.height} pixels; 1 to {MAX_PIXELS:,} are shown")
    try:
        return _as_rgb(image)
    except TaskError as error:
        raise TaskError(f"{name} {error}") from error
    except Exception as error:  # of the picture library
        raise TaskError(f"{name} does not open ({said(error)})") from error


def rgb_picture(found: Any, directories: Sequence[Path] = ()) -> Image:
    """What :func:`open_picture` opens as :func:`as_rgb` shows it; the picture remembers what was changed."""
    rgb, changes = as_rgb(open_picture(found, directories))
    rgb = rgb.copy()  # without a format, so that whoever stores it again does so without loss
    rgb.info = {_CHANGES: changes}
    return rgb


def pixels(image: Image) -> bytes:
    """What a picture's hash is of: mode, size and numbers."""
    return f"{image.mode} {image.size}\0".encode() + image.tobytes()


def _as_rgb(image: Image) -> tuple[Image, tuple[str, ...]]:
    from PIL import ImageOps

    changes = list(image.info.get(_CHANGES, ()))
    if getattr(image, "fp", None) is not None and getattr(image, "is_animated", False):
        changes.append("first of several frames")
    changes += _read_right(image)
    if image.mode in ("RGB", "RGBA", "LA") and any(";16" in str(tile) for tile in getattr(image, "tile", ())):
        changes.append(f"{image.mode};16 as 0..65535")  # Pillow keeps the high byte of each number
    orientation = image.getexif().get(_ORIENTATION, 1)
    image.load()  # Pillow turns TIFF files itself
    if image.getexif().get(_ORIENTATION, 1) in range(2, 9):
        image = ImageOps.exif_transpose(image)
    if orientation in range(2, 9):
        changes.append(f"orientation {orientation} applied")
    rgb, change = _scaled(image) if image.mode in ("I", "F") or image.mode[:4] == "I;16" else _over_white(image)
    if rgb is not image or _CHANGES in image.info:
        rgb = rgb.copy() if rgb is image else rgb
        rgb.info = {}
    return rgb, (*changes, *change)


def _read_right(image: Any) -> list[str]:
    """Mends, before Pillow decodes a file, what it would misread; gives what it scales, and refuses the rest."""
    if misread := _misread_tiff(image) if hasattr(image, "tag_v2") else image.format == "FITS" and image.mode == "I;16":
        raise TaskError(f"is a {misread or 'signed FITS'} file, whose numbers Pillow misreads; store it as PNG")
    for tile in getattr(image, "tile", ())[:1]:
        key = image.info.get("transparency")
        if image.format == "PNG" and tile.args in ("L;2", "L;4") and isinstance(key, int):  # the pixels are scaled
            top = 2 ** int(tile.args[-1]) - 1
            image.info["transparency"] = (key & top) * (255 // top)
        if image.format == "PPM" and tile.codec_name in ("ppm", "ppm_plain") and image.mode not in ("1", "L", "I"):
            top = tile.args[-1]
            if tile.codec_name == "ppm" and image.mode == "RGB" and top == 65535:  # which Pillow rounds to 8 bits
                image.tile = [tile._replace(codec_name="raw", args="RGB;16B")]
            elif top == 65535:
                raise TaskError("is a PPM file of 16 bits as text, which Pillow rounds; store it as PNG")
            elif top != 255:
                return [f"{image.mode} as 0..{top}"]
    return []


def _misread_tiff(image: Any) -> str | None:
    """The kind of a TIFF file that Pillow decodes into wrong numbers without an error."""
    tags = image.tag_v2
    bits, extra, kind = tags.get(258, (1,)), tags.get(338, ()), tags.get(262)
    samples, planar = tags.get(277, 1), tags.get(284, 1) == 2
    if max(bits) <= 8 and 2 in tags.get(339, ()):
        return "signed 8-bit TIFF"
    if planar and image.mode in ("LA", "La", "PA", "LAB"):
        return f"planar {image.mode} TIFF"
    if image.info.get("compression") != "raw":  # libtiff decodes it
        return None
    if kind == 6 and samples == 3 and tags.get(530, (2, 2)) != (1, 1):
        return "subsampled, uncompressed YCbCr TIFF"
    as_bytes = set(bits) == {8} and kind in (1, 2, 3, 5) and tags.get(266, 1) == 1
    if planar and not (as_bytes and 1 not in extra and samples == {2: 3, 5: 4}.get(kind, 1) + len(extra)):
        return "planar, uncompressed TIFF"  # of which Pillow takes each plane for bytes
    return None


def _over_white(image: Image) -> tuple[Image, tuple[str, ...]]:
    """As transformers composes it, whatever kind of transparency it is."""
    from PIL import Image as Pictures

    mode = image.mode
    key = image.info.get("transparency")
    if mode == "RGB" and isinstance(key, tuple) and max(key) > 255:  # of 16 bits, where Pillow gives pixels of 8
        image = image.copy()
        image.info["transparency"] = tuple(number >> 8 for number in key)
    if image.has_transparency_data:
        rgba = (image.convert("LA") if mode == "La" else image).convert("RGBA")
        if rgba.getchannel("A").histogram()[255] < rgba.width * rgba.height:
            white = Pictures.new("RGBA", rgba.size, "white")
            return Pictures.alpha_composite(white, rgba).convert("RGB"), (f"{mode} over white",)
        image = rgba
    return image if image.mode == "RGB" else image.convert("RGB"), () if mode == "RGB" else (mode,)


def _scaled(image: Image) -> tuple[Image, tuple[str, ...]]:
    """Numbers of 16 bits keep their high byte, as Pillow keeps it of colours of 16 bits.

    "I" and "F" have no range of their own: 0..1 (of "F"), 0..255 or 0..65535 is what the numbers fit into.
    """
    import numpy as np
    from PIL import Image as Pictures

    mode, key = image.mode, image.info.get("transparency")
    numbers = np.asarray(image)
    low, high = numbers.min(), numbers.max()
    if not 0 <= low <= high <= 65535:
        raise TaskError(
            f"holds numbers from {low} to {high}, of which it is not known what is white; scale them to 0..255"
        )
    clear = (numbers == key) if isinstance(key, int) else np.zeros_like(numbers, dtype=bool)
    tags = getattr(image, "tag_v2", {})
    if mode == "I;16" and tags.get(258) == (12,):
        top, grey = 4095, numbers // 16
    elif mode[:4] == "I;16" or (mode == "I" and image.format in ("PNG", "PPM")) or high > 255:
        top, grey = 65535, numbers // 256  # PNG and PPM files have no more than 16 bits
    elif mode == "F" and high <= 1:
        top, grey = 1, np.rint(numbers * 255)
    else:
        top, grey = 255, np.rint(numbers)
    if tags.get(262) == 0:  # a TIFF file whose 0 is white, which Pillow minds at 8 bits
        grey = 255 - grey
    rgb = Pictures.fromarray(np.where(clear, 255, grey).astype(np.uint8)).convert("RGB")
    return rgb, (f"{mode} as 0..{top}", *([f"{mode} over white"] if clear.any() else []))


def _file_content(path: str | bytes, directories: Sequence[Path]) -> bytes:
    path, name = os.fsdecode(path), _name(path)
    if not path:
        raise TaskError("the path of a file is empty")
    try:
        file = next((d / path for d in directories if (d / path).exists()), Path(path)).resolve(strict=True)
        if directories and not any(file.is_relative_to(d.resolve()) for d in directories):
            raise TaskError(f"{name} lies outside the data set's directory; copy it there")
        return read_regular(file, MAX_BYTES)
    except FileNotFoundError as error:
        raise TaskError(f"{name} does not open: there is no such file") from error
    except RuntimeError as error:
        raise TaskError(f"{name} does not open: its links lead in a circle") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "its path holds a NUL"
        raise TaskError(f"{name} does not open: {why}") from error


def _name(path: Any) -> str:
    """The last three parts of a path, 100 characters at most: a directory of this machine must not reach a result."""
    known = isinstance(path, str | os.PathLike) and os.fspath(path)
    return f"file {str(Path(*Path(os.fsdecode(known)).parts[-3:]))[-100:]!r}" if known else "a picture"
