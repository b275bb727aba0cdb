"""The rule for pictures: what each kind becomes, which files are read, and that containers and paths do not matter."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from transformers.image_transforms import convert_to_rgb

from microscope_bench.errors import TaskError
from microscope_bench.example import Example
from microscope_bench.rgb_pictures import MAX_PIXELS, as_rgb, open_picture, rgb_picture
from tests.stored_pictures import (
    GREY,
    PICTURE,
    RANDOM,
    TRANSPARENT,
    TURNS,
    opened,
    png,
    stored,
    tag,
    turned,
    with_alpha,
)


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.mode == other.mode == "RGB" and one.size == other.size and one.tobytes() == other.tobytes()


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_transparency_is_composed_over_white_as_transformers_does(kind):
    image, change = TRANSPARENT[kind]
    rgb, changes = as_rgb(image)
    assert changes == (change,)
    assert same(rgb, convert_to_rgb(image)) and not rgb.info
    assert not same(rgb, image.convert("RGB")) or kind == "1 with a colour"


@pytest.mark.parametrize("mode", ["La", "RGBa"])
def test_premultiplied_alpha(mode):
    rgb, changes = as_rgb(with_alpha(mode))
    plain = as_rgb(with_alpha(mode.upper()))[0]
    assert changes == (f"{mode} over white",)
    assert np.abs(np.asarray(rgb, int) - np.asarray(plain, int)).max() <= 2, "premultiplying rounds"


def test_a_palette_with_alphas_of_its_own():
    image = with_alpha("RGBA").quantize(16, method=Image.Quantize.FASTOCTREE)
    assert same(as_rgb(image)[0], as_rgb(image.convert("RGBA"))[0]) and as_rgb(image)[1] == ("P over white",)


def test_transparency_that_no_pixel_has_changes_nothing():
    opaque = PICTURE.copy()
    opaque.putalpha(255)
    assert same(as_rgb(opaque)[0], PICTURE) and as_rgb(opaque)[1] == ("RGBA",)
    unused = opened(Image.new("RGB", (4, 3), (9, 9, 9)), transparency=(1, 2, 3))
    rgb, changes = as_rgb(unused)
    assert rgb.getpixel((0, 0)) == (9, 9, 9) and changes == () and "transparency" not in rgb.info


SIXTEEN = np.asarray(GREY).astype(np.uint16) * 257
NUMBERS = {
    "PNG": (opened(Image.fromarray(SIXTEEN)), "I;16 as 0..65535"),
    "TIFF": (opened(Image.fromarray(SIXTEEN), "TIFF"), "I;16 as 0..65535"),
    "TIFF, big-endian": (opened(Image.fromarray(SIXTEEN.astype(">u2")), "TIFF"), "I;16B as 0..65535"),
    "JPEG 2000": (opened(Image.fromarray(SIXTEEN), "JPEG2000", irreversible=False), "I;16 as 0..65535"),
    "PGM": (opened(Image.fromarray(SIXTEEN), "PPM"), "I as 0..65535"),
    "I, 16 bits": (Image.fromarray(SIXTEEN.astype(np.int32)), "I as 0..65535"),
    "I, 8 bits": (GREY.convert("I"), "I as 0..255"),
    "F, 8 bits": (GREY.convert("F"), "F as 0..255"),
    "F, to 1": (opened(Image.fromarray(np.asarray(GREY, np.float32) / 255), "TIFF"), "F as 0..1"),
    "F, 16 bits": (Image.fromarray(SIXTEEN.astype(np.float32)), "F as 0..65535"),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_many_bits_are_scaled_by_their_own_range(kind):
    image, change = NUMBERS[kind]
    rgb, changes = as_rgb(image)
    assert same(rgb, GREY.convert("RGB")) and changes == (change,)


def test_sixteen_bits_of_grey_and_of_colour_keep_the_same_byte():
    numbers = RANDOM.integers(0, 65536, (5, 7), dtype=np.uint16)
    grey = as_rgb(opened(Image.fromarray(numbers)))[0]
    assert np.array_equal(np.asarray(grey)[..., 0], numbers >> 8)
    rows = b"".join(b"\0" + row.astype(">u2").repeat(3).tobytes() for row in numbers)
    colour, changes = as_rgb(open_picture(png(7, 5, 16, 2, rows)))
    assert same(colour, grey) and changes == ("RGB;16 as 0..65535",)


def test_a_clear_colour_of_sixteen_bits():
    clear = int(SIXTEEN[0, 0])
    rgb, changes = as_rgb(opened(Image.fromarray(SIXTEEN), transparency=clear))
    expected = np.where(clear == SIXTEEN, 255, SIXTEEN >> 8)
    assert np.array_equal(np.asarray(rgb)[..., 1], expected)
    assert changes == ("I;16 as 0..65535", "I;16 over white")
    rows = b"".join(b"\0" + row.astype(">u2").repeat(3).tobytes() for row in SIXTEEN)
    colour = open_picture(png(9, 6, 16, 2, rows, clear=np.full(3, clear, ">u2").tobytes()))
    assert same(as_rgb(colour)[0], rgb)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -1.0, 70000.0])
def test_numbers_whose_white_is_not_known_are_refused(wrong):
    numbers = np.asarray(GREY, np.float32).copy()
    numbers[1, 1] = wrong
    with pytest.raises(TaskError, match=r"a picture holds numbers from .*; scale them to 0\.\.255"):
        as_rgb(Image.fromarray(numbers))
    if np.isfinite(wrong):
        with pytest.raises(TaskError, match="holds numbers from"):
            as_rgb(Image.fromarray(numbers.astype(np.int32)))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LAB", "HSV", "RGBX"])
def test_other_modes_are_converted_by_pillow(mode):
    image = PICTURE.convert(mode)
    rgb, changes = as_rgb(image)
    assert same(rgb, image.convert("RGB")) and changes == (mode,)


def test_cmyk_of_adobe_and_of_tiff_agree():
    image = Image.new("RGB", (16, 16), (200, 30, 60)).convert("CMYK")
    jpeg, tiff = (as_rgb(opened(image, kind))[0] for kind in ("JPEG", "TIFF"))
    assert np.abs(np.asarray(jpeg, int) - np.asarray(tiff, int)).max() <= 4
    assert tiff.getpixel((5, 5)) == (200, 30, 60)


def test_colour_profiles_are_left_alone():
    from PIL.ImageCms import ImageCmsProfile, createProfile

    profile = ImageCmsProfile(createProfile("LAB")).tobytes()
    rgb, changes = as_rgb(opened(PICTURE, icc_profile=profile))
    assert same(rgb, PICTURE) and changes == ()


FRAMES = [PICTURE.quantize(8), ImageOps.invert(PICTURE).quantize(8)]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_of_several_frames_the_first_is_shown(kind):
    frames = [frame.convert("RGB") if kind in ("WEBP", "MPO") else frame for frame in FRAMES]
    options = {"lossless": True} if kind == "WEBP" else {}
    image = opened(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    rgb, changes = as_rgb(image)
    assert changes[0] == "first of several frames"
    if kind == "MPO":
        assert same(rgb, opened(frames[0], "JPEG").convert("RGB"))
    else:
        assert same(rgb, frames[0].convert("RGB"))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG", "MPO"])
@pytest.mark.parametrize("orientation", TURNS)
def test_orientation_is_applied(kind, orientation):
    options = {"lossless": True} if kind == "WEBP" else {}
    image = opened(turned(orientation), kind, exif=tag(orientation), **options)
    rgb, changes = as_rgb(image)
    assert changes[-1] == f"orientation {orientation} applied" and rgb.size == PICTURE.size
    if kind not in ("JPEG", "MPO"):
        assert same(rgb, PICTURE)
    assert as_rgb(rgb) == (rgb, ()), "it is applied once"


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_orientations_that_mean_nothing_change_nothing(orientation):
    image = opened(PICTURE, exif=tag(orientation))
    assert same(as_rgb(image)[0], PICTURE) and as_rgb(image)[1] == ()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16", "P", "1"])
def test_orientation_and_mode_go_together(mode):
    upright = Image.fromarray(SIXTEEN) if mode == "I;16" else with_alpha("RGBA").convert(mode)
    rgb, changes = as_rgb(opened(turned(6, upright), exif=tag(6)))
    assert same(rgb, as_rgb(upright)[0]) and changes == ("orientation 6 applied", *as_rgb(upright)[1])


def test_an_rgb_picture_stays_the_object_that_it_is():
    assert as_rgb(PICTURE)[0] is PICTURE
    file = opened(PICTURE, "JPEG")
    assert as_rgb(file)[0] is file


def test_an_example_holds_pictures_and_frames_by_the_rule():
    alpha = TRANSPARENT["RGBA"][0]
    example = Example("x", "<image><video>", (alpha, PICTURE), videos=((GREY, alpha),), converted_from=("before",))
    rgb = as_rgb(alpha)[0]
    assert same(example.images[0], rgb) and example.images[1] is PICTURE
    assert [same(*pair) for pair in zip(example.videos[0], (GREY.convert("RGB"), rgb), strict=True)] == [True, True]
    assert example.converted_from == ("before", "RGBA over white", "L", "RGBA over white")


def test_a_picture_that_was_opened_by_the_rule_says_what_was_changed_once():
    content = stored(turned(6, TRANSPARENT["RGBA"][0]), exif=tag(6))
    example = Example("x", "<image>", (rgb_picture(content),))
    assert example.converted_from == ("orientation 6 applied", "RGBA over white")
    assert Example("x", "<image>", example.images).converted_from == ()
    cropped = rgb_picture(content).crop((0, 0, 2, 2))
    assert Example("x", "<image>", (cropped,)).converted_from == ("orientation 6 applied", "RGBA over white")


class TestFiles:
    """Regular files of bounded size, inside the data set."""

    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        directory = tmp_path / "data"
        (directory / "sub").mkdir(parents=True)
        PICTURE.save(directory / "sub" / "in.png")
        PICTURE.save(tmp_path / "out.png")
        return directory

    def test_paths_bytes_and_mappings(self, directory, monkeypatch):
        content = (directory / "sub/in.png").read_bytes()
        everywhere = [directory / "sub/in.png", str(directory / "sub/in.png"), "sub/in.png", content]
        mappings = [
            {"path": "sub/in.png", "bytes": None},
            {"path": "/etc/nowhere", "bytes": content},
            {"path": "sub/in.png"},
        ]
        for found in (*everywhere, *mappings, bytearray(content)):
            assert same(rgb_picture(found, [directory]), PICTURE), found
        monkeypatch.chdir(directory.parent)
        assert same(rgb_picture("data/sub/in.png", [Path("data")]), PICTURE)
        assert same(rgb_picture("out.png"), PICTURE), "without a directory any file may be read"

    @pytest.mark.parametrize("path", ["../out.png", "ABSOLUTE", "link.png", "sub/../../out.png", "linked/out.png"])
    def test_files_outside_the_directory_are_refused(self, directory, path):
        (directory / "link.png").symlink_to(directory.parent / "out.png")
        (directory / "linked").symlink_to(directory.parent)
        path = str(directory.parent / "out.png") if path == "ABSOLUTE" else path
        with pytest.raises(TaskError, match=r"out\.png' lies outside|link\.png' lies outside"):
            open_picture(path, [directory])
        with pytest.raises(TaskError, match="lies outside"):
            open_picture({"bytes": None, "path": path}, [directory])

    def test_links_inside_and_a_linked_directory_are_followed(self, directory):
        (directory / "link.png").symlink_to("sub/in.png")
        assert same(rgb_picture("link.png", [directory]), PICTURE)
        (directory.parent / "elsewhere").symlink_to(directory)
        assert same(rgb_picture("link.png", [directory.parent / "elsewhere"]), PICTURE)

    @pytest.mark.parametrize(
        "kind", ["fifo", "socket", "device", "directory", "missing", "loop", "nul", "long", "address"]
    )
    def test_what_is_no_regular_file_is_refused_at_once(self, directory, kind, monkeypatch):
        monkeypatch.chdir(directory)
        path = {"device": "/dev/zero", "directory": "sub", "nul": "a\0b.png", "long": "x" * 5000}.get(kind, kind)
        if kind == "fifo":
            os.mkfifo("fifo")
        elif kind == "loop":
            Path("loop").symlink_to("loop")
        elif kind == "address":
            path = "https://example.org/a.png"
        server = socket.socket(socket.AF_UNIX)
        if kind == "socket":
            server.bind("socket")
        start = time.monotonic()
        with pytest.raises(TaskError, match=r"^file '.*' (does not open: |lies outside)"):
            open_picture(path, [] if kind == "device" else [directory])
        assert time.monotonic() - start < 1
        server.close()

    def test_large_files_and_many_pixels_are_refused(self, directory, monkeypatch):
        with (directory / "large.png").open("wb") as file:
            file.truncate(2**40)
        with pytest.raises(TaskError, match=r"file 'large\.png' does not open: 1,099,511,627,776 bytes are more"):
            open_picture("large.png", [directory])
        bomb = png(20000, 20000, 1, 0, b"\0" * (2501 * 20000))
        for found in (bomb, {"bytes": bomb, "path": "bomb.png"}):
            with pytest.raises(TaskError, match="pixels"):
                rgb_picture(found)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        with pytest.raises(TaskError, match=rf"has 20000 x 20000 pixels; 1 to {MAX_PIXELS:,} are shown"):
            rgb_picture(bomb)

    @pytest.mark.parametrize("content", [b"", b"no picture", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
    def test_what_is_no_picture_is_named(self, content):
        with pytest.raises(TaskError, match=r"^file 'a/b\.png' does not open: not an image file, or damaged$"):
            open_picture({"bytes": content, "path": "a/b.png"})

    def test_a_cut_picture_is_named(self):
        content = stored(Image.effect_noise((64, 64), 90))[:2000]
        with pytest.raises(TaskError, match=r"^file 'b\.png' does not open \(OSError: image file is truncated"):
            rgb_picture({"bytes": content, "path": "b.png"})

    @pytest.mark.parametrize("found", [7, None, {"bytes": None, "path": None}, {"pixels": b""}, object()])
    def test_other_objects_are_refused(self, found):
        with pytest.raises(TypeError, match="where a PIL image, stored bytes or the path of a file is due"):
            open_picture(found)

    def test_names_are_printable(self):
        with pytest.raises(TaskError) as raised:
            open_picture("a\x1b[31m\n::error::x.png")
        assert str(raised.value).isprintable()
