"""How much of a picture an image processor cuts off, against what it really shows, and the one warning about it."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from transformers.models.chameleon.image_processing_pil_chameleon import ChameleonImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from microscope_bench.capture.cropped_pictures import CroppedPictures, shown_share
from microscope_bench.example import Example
from tests.toy import ToyAdapter, ToyTask, run

PLAIN = {"do_normalize": False, "do_rescale": False, "resample": 0}
PROCESSORS = {
    "clip": CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, **PLAIN),
    "margin": CLIPImageProcessorPil(size={"shortest_edge": 80}, crop_size={"height": 64, "width": 64}, **PLAIN),
    "flat crop": CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 32, "width": 64}, **PLAIN),
    "stretched": CLIPImageProcessorPil(
        size={"height": 64, "width": 64}, crop_size={"height": 64, "width": 48}, **PLAIN
    ),
    "not resized": CLIPImageProcessorPil(do_resize=False, crop_size={"height": 64, "width": 64}, **PLAIN),
    "not cropped": CLIPImageProcessorPil(size={"height": 64, "width": 64}, do_center_crop=False, **PLAIN),
    "chameleon": ChameleonImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, **PLAIN),
    "siglip": SiglipImageProcessorPil(size={"height": 64, "width": 64}, **PLAIN),
}


def share_seen(processor, width: int, height: int) -> float:
    """What of a picture is left: its colours say which column and row a pixel is from."""
    columns, rows = np.meshgrid(np.arange(width) * 256 // width, np.arange(height) * 256 // height)
    picture = Image.fromarray(np.stack([columns, rows, np.full_like(rows, 255)], axis=-1).astype(np.uint8))
    pixels = np.asarray(processor(images=[picture], return_tensors="np")["pixel_values"][0], dtype=float)
    seen = pixels[:, pixels[2] > 250]  # without what a crop beyond the edge adds
    return float(np.prod([np.ptp(seen[axis]) / 255 for axis in (0, 1)]))


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", [(64, 64), (400, 100), (100, 300), (50, 40), (640, 480)])
def test_the_share_is_what_the_processor_shows(name, size):
    assert shown_share(PROCESSORS[name], *size) == pytest.approx(share_seen(PROCESSORS[name], *size), abs=0.05)


def test_tiles_are_no_crop(tiny_adapter):
    assert shown_share(tiny_adapter("llava_next").processor.image_processor, 400, 100) == 1.0
    assert shown_share(None, 400, 100) == 1.0


class Cropping(ToyAdapter):
    processor = SimpleNamespace(image_processor=PROCESSORS["clip"])


class Wide(ToyTask):
    def example(self, index: int) -> Example:
        example = super().example(index)
        size = (400, 100) if index < 5 else (100, 100)
        return Example(example.id, example.text, (example.images[0].resize(size),), ("A", "B", "C"), example.answer)


def test_it_is_told_once_with_the_number_and_the_share(caplog):
    run(adapter=Cropping(), task=Wide(40), metrics="anisotropy", batch_size=3)
    told = [record.message for record in caplog.records if "crops pictures" in record.message]
    assert len(told) == 1 and caplog.records[-1].levelno != logging.ERROR
    assert (
        "CLIPImageProcessorPil crops pictures to their middle: 5 of 40 lose more than a third of their area" in told[0]
    )
    assert "75 % on average" in told[0]


def test_nothing_is_told_of_pictures_that_are_seen(caplog):
    run(adapter=Cropping(), task=ToyTask(40), metrics="anisotropy")
    assert "crops pictures" not in caplog.text


def test_the_processor_is_found_where_an_adapter_has_it():
    wide = [Example("a", "<image>", (Image.new("RGB", (300, 100)),))]
    for adapter in (
        Cropping(),
        SimpleNamespace(image_processor=PROCESSORS["clip"]),
        SimpleNamespace(whole=Cropping()),
    ):
        counted = CroppedPictures(adapter)
        counted.see(wide)
        assert counted._lost == pytest.approx([2 / 3])
