"""Files that Pillow decodes into wrong numbers without an error: each is mended or refused."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from microscope_bench.errors import TaskError
from microscope_bench.rgb_pictures import as_rgb, open_picture
from tests.stored_pictures import ALPHA, GREY, PICTURE, png

COLOURS, GREYS, ALPHAS = np.asarray(PICTURE), np.asarray(GREY), np.asarray(ALPHA)
LOW = np.random.default_rng(1).integers(0, 256, COLOURS.shape, dtype=np.uint16)
COLOURS_16 = COLOURS * np.uint16(256) + LOW
GREYS_16 = GREYS * np.uint16(256) + LOW[..., 0]


def tiff(numbers: np.ndarray, kind: int, planar: int = 1, edge: int = 0, **tags: int) -> bytes:
    """A little-endian TIFF file, uncompressed without ``t259=8``; ``edge``: of square tiles, not one strip a plane."""
    height, width, samples = (*numbers.shape, 1)[:3]
    planes = np.moveaxis(numbers.reshape(height, width, samples), 2, 0) if planar == 2 else [numbers]
    parts = list(planes)
    if edge:
        padded = [
            np.pad(p, [(0, -p.shape[0] % edge), (0, -p.shape[1] % edge)] + [(0, 0)] * (p.ndim - 2)) for p in planes
        ]
        corners = [(y, x) for y in range(0, height, edge) for x in range(0, width, edge)]
        parts = [p[y : y + edge, x : x + edge] for p in padded for y, x in corners]
    contents = [zlib.compress(part.tobytes()) if "t259" in tags else part.tobytes() for part in parts]
    sample_format = {"u": 1, "i": 2, "f": 3}[numbers.dtype.kind]
    values = {256: [width], 257: [height], 258: [numbers.itemsize * 8] * samples, 259: [1], 262: [kind]}
    values |= {277: [samples], 284: [planar], 339: [sample_format] * samples}
    values |= {int(name[1:]): [value] for name, value in tags.items()}
    values |= {322: [edge], 323: [edge]} if edge else {278: [height]}
    start = 8 + 2 + 12 * (len(values) + 2) + 4
    beyond = b""
    offset = start + sum(4 * n for n in [*map(len, values.values()), len(contents), len(contents)] if n > 1)
    values[325 if edge else 279] = [len(content) for content in contents]
    values[324 if edge else 273] = [offset + sum(map(len, contents[:i])) for i in range(len(contents))]
    fields = b""
    for name, numbers_of_tag in sorted(values.items()):
        value = struct.pack(f"<{len(numbers_of_tag)}I", *numbers_of_tag)
        fields += struct.pack("<HHI", name, 4, len(numbers_of_tag))
        fields += value if len(value) == 4 else struct.pack("<I", start + len(beyond))
        beyond += value if len(value) > 4 else b""
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(values)) + fields + b"\0\0\0\0" + beyond + b"".join(contents)


def shown(content: bytes) -> tuple[np.ndarray, tuple[str, ...]]:
    rgb, changes = as_rgb(open_picture(content))
    return np.asarray(rgb), changes


def over_white(colours: np.ndarray) -> np.ndarray:
    return np.asarray(as_rgb(Image.fromarray(np.dstack([colours, ALPHAS])))[0])


GREY_RGB = np.asarray(GREY.convert("RGB"))
CMYK = np.asarray(PICTURE.convert("CMYK"))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("top", [1, 255, 65535])
def test_floats_of_a_pfm_file(order, top):
    numbers = (GREY_RGB[::-1, :, 0].astype(float) * top / 255).astype(f"{order}f4")
    rgb, changes = shown(f"Pf 9 6 {-1 if order == '<' else 1}.0\n".encode() + numbers.tobytes())
    assert changes == (f"F as 0..{top}",) and np.abs(rgb.astype(int) - GREY_RGB).max() <= (top == 65535)


@pytest.mark.parametrize("top", [1, 255])
def test_floats_whose_zero_is_white(top):
    rgb, changes = shown(tiff((GREYS.astype(float) * top / 255).astype(np.float32), 0))
    assert np.array_equal(rgb, 255 - GREY_RGB) and changes == (f"F as 0..{top}",)


def test_whole_numbers_whose_zero_is_white():
    assert np.array_equal(shown(tiff(GREYS, 0))[0], 255 - GREY_RGB)
    assert np.array_equal(shown(tiff(GREYS_16, 0))[0], 255 - GREY_RGB)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("key", [0, 1])
def test_the_clear_colour_of_few_bits(bits, key):
    numbers = GREYS[:, :8] >> (8 - bits)
    numbers[0, :2] = 0, 1
    packed = np.packbits(np.unpackbits(numbers[..., None], axis=2)[..., -bits:].reshape(6, -1), axis=1)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    rgb, changes = shown(png(8, 6, bits, 0, rows, clear=struct.pack(">H", key)))
    expected = np.where(numbers == key, 255, numbers * (255 // (2**bits - 1)))
    assert np.array_equal(rgb[..., 0], expected) and changes == (f"{'1' if bits == 1 else 'L'} over white",)


class TestPpm:
    """A PPM file gives the numbers that a PNG file of the same picture gives."""

    def test_sixteen_bits_keep_the_high_byte(self):
        rgb, changes = shown(b"P6 9 6 65535\n" + COLOURS_16.astype(">u2").tobytes())
        assert np.array_equal(rgb, COLOURS) and changes == ("RGB;16 as 0..65535",)
        rgb, changes = shown(b"P5 9 6 65535\n" + GREYS_16.astype(">u2").tobytes())
        assert np.array_equal(rgb, GREY_RGB) and changes == ("I as 0..65535",)

    def test_eight_bits_are_not_named(self):
        assert shown(b"P6 9 6 255\n" + COLOURS.tobytes())[1] == ()
        text = b"P3 9 6 255\n" + " ".join(map(str, COLOURS.ravel())).encode()
        assert np.array_equal(shown(text)[0], COLOURS) and shown(text)[1] == ()

    def test_another_white_is_scaled_and_named(self):
        rgb, changes = shown(b"P6 9 6 1020\n" + (COLOURS.astype(">u2") * np.uint16(4)).astype(">u2").tobytes())
        assert np.array_equal(rgb, COLOURS) and changes == ("RGB as 0..1020",)

    def test_text_of_sixteen_bits_is_refused(self):
        with pytest.raises(TaskError, match="a picture is a PPM file of 16 bits as text"):
            shown(b"P3 9 6 65535\n" + " ".join(map(str, COLOURS_16.ravel())).encode())


READ = {
    "RGB": (COLOURS, 2, {}, COLOURS),
    "RGBA": (np.dstack([COLOURS, ALPHAS]), 2, {"t338": 2}, over_white(COLOURS)),
    "RGBX": (np.dstack([COLOURS, ALPHAS]), 2, {"t338": 0}, COLOURS),
    "CMYK": (CMYK, 5, {}, COLOURS),
    "L": (GREYS, 1, {}, GREY_RGB),
}


@pytest.mark.parametrize("edge", [0, 16])
@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("kind", READ)
def test_tiff_files_of_bytes_are_read(kind, planar, edge):
    numbers, photometric, tags, expected = READ[kind]
    if planar == 2 and kind == "RGBX":
        pytest.skip("Pillow does not open it")
    assert np.array_equal(shown(tiff(numbers, photometric, planar, edge, **tags))[0], expected)


REFUSED = {
    "RGB, 16 bits": (COLOURS_16, 2, {}),
    "RGBA, 16 bits": (np.dstack([COLOURS_16, GREYS_16]), 2, {"t338": 2}),
    "RGBX, 16 bits": (np.dstack([COLOURS_16, GREYS_16]), 2, {"t338": 0}),
    "CMYK, 16 bits": (CMYK * np.uint16(257), 5, {}),
    "grey, 16 bits": (GREYS_16, 1, {}),
    "grey, floats": (GREYS.astype(np.float32), 1, {}),
    "grey, 0 is white": (GREYS, 0, {}),
    "RGB, bits reversed": (COLOURS, 2, {"t266": 2}),
    "RGBa": (np.dstack([COLOURS // 2, ALPHAS | 128]), 2, {"t338": 1}),
    "YCbCr": (np.asarray(PICTURE.convert("YCbCr")), 6, {"t530": 1}),
    "LAB": (COLOURS, 8, {}),
    "LAB, compressed": (COLOURS, 8, {"t259": 8}),
    "LA": (np.dstack([GREYS, ALPHAS]), 1, {"t338": 2}),
    "LA, compressed": (np.dstack([GREYS, ALPHAS]), 1, {"t338": 2, "t259": 8}),
    "La, compressed": (np.dstack([GREYS // 2, ALPHAS | 128]), 1, {"t338": 1, "t259": 8}),
}


@pytest.mark.parametrize("edge", [0, 16])
@pytest.mark.parametrize("kind", REFUSED)
def test_other_planar_tiff_files_are_refused(kind, edge):
    numbers, photometric, tags = REFUSED[kind]
    with pytest.raises(
        TaskError, match=r"(uncompressed( YCbCr)?|planar L\w+) TIFF file, whose numbers Pillow misreads; store"
    ):
        shown(tiff(numbers, photometric, 2, edge, **tags))


def test_a_tiff_file_of_one_alpha_that_is_not_planar_is_read():
    numbers = np.dstack([GREYS, ALPHAS])
    for compression in ({}, {"t259": 8}):
        assert np.array_equal(shown(tiff(numbers, 1, t338=2, **compression))[0], over_white(GREY_RGB))


def test_sixteen_bits_that_are_compressed_or_not_planar_are_read():
    assert np.array_equal(shown(tiff(COLOURS_16, 2, 2, t259=8))[0], COLOURS)
    for edge in (0, 16):
        assert np.array_equal(shown(tiff(COLOURS_16, 2, edge=edge))[0], COLOURS)
        assert np.array_equal(shown(tiff(GREYS_16, 1, edge=edge))[0], GREY_RGB)


def test_a_picture_that_was_decoded_before_is_refused_too():
    image = open_picture(tiff(COLOURS_16, 2, 2))
    image.load()
    with pytest.raises(TaskError, match="planar, uncompressed TIFF"):
        as_rgb(image)


def test_signed_bytes_are_refused():
    with pytest.raises(TaskError, match="signed 8-bit TIFF file"):
        shown(tiff(GREYS.view(np.int8), 1))


def test_twelve_bits_keep_their_high_byte():
    numbers = GREYS_16[:, :8] >> 4
    bits = np.unpackbits(numbers.astype(">u2")[..., None].view(np.uint8), axis=2)[..., 4:]
    packed = np.packbits(bits.reshape(6, -1), axis=1)
    rgb, changes = shown(tiff(packed, 1, t256=8, t258=12))
    assert np.array_equal(rgb, GREY_RGB[:, :8]) and changes == ("I;16 as 0..4095",)
