"""Pictures as data sets store them: in files, with transparency, and turned by a tag."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

RANDOM = np.random.default_rng(0)
PICTURE = Image.fromarray(RANDOM.integers(0, 256, (6, 9, 3), dtype=np.uint8))
GREY = PICTURE.convert("L")
ALPHA = Image.fromarray(RANDOM.integers(0, 256, (6, 9), dtype=np.uint8))


def stored(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def opened(image: Image.Image, kind: str = "PNG", **options: object) -> Image.Image:
    return Image.open(io.BytesIO(stored(image, kind, **options)))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, clear: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    clear = chunk(b"tRNS", clear) if clear else b""
    return b"\x89PNG\r\n\x1a\n" + head + clear + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def with_alpha(mode: str) -> Image.Image:
    image = PICTURE.copy()
    image.putalpha(ALPHA)
    if mode in ("La", "LA"):
        return image.convert("LA").convert(mode)
    if mode == "PA":
        return Image.merge("PA", (PICTURE.convert("P"), ALPHA))
    return image.convert(mode)


TRANSPARENT = {
    "RGBA": (opened(with_alpha("RGBA")), "RGBA over white"),
    "LA": (opened(with_alpha("LA")), "LA over white"),
    "PA": (with_alpha("PA"), "PA over white"),
    "RGB with a colour": (opened(PICTURE, transparency=PICTURE.getpixel((3, 2))), "RGB over white"),
    "L with a colour": (opened(GREY, transparency=GREY.getpixel((0, 0))), "L over white"),
    "1 with a colour": (opened(PICTURE.convert("1"), transparency=0), "1 over white"),
    "P with a colour": (opened(PICTURE.quantize(8), transparency=3), "P over white"),
    "P with alphas": (opened(PICTURE.quantize(8), transparency=bytes([0, 9, 200])), "P over white"),
    "GIF": (opened(PICTURE.quantize(8), "GIF", transparency=2), "P over white"),
    "WebP": (opened(with_alpha("RGBA"), "WEBP", lossless=True, exact=True), "RGBA over white"),
    "TIFF": (opened(with_alpha("RGBA"), "TIFF"), "RGBA over white"),
    "ICO": (opened(with_alpha("RGBA"), "ICO", sizes=[(9, 6)]), "RGBA over white"),
}


TURNS = range(2, 9)


def turned(orientation: int, image: Image.Image = PICTURE) -> Image.Image:
    """What a camera stores that was held so that ``orientation`` brings ``image`` back."""
    back = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    forth = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        7: Image.Transpose.TRANSVERSE,
    }
    return image.transpose((back | forth)[orientation])


def tag(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif
