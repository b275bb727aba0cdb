"""The fusions of the zoo, one file per checkpoint format."""

from __future__ import annotations

from microscope_bench.errors import unknown_name
from microscope_bench.zoo.formats.base import Format
from microscope_bench.zoo.formats.blip2 import Blip2
from microscope_bench.zoo.formats.fuyu import Fuyu
from microscope_bench.zoo.formats.llava import Llava
from microscope_bench.zoo.formats.llava_next import LlavaNext
from microscope_bench.zoo.formats.omnifusion import OmniFusion

FORMATS: dict[str, Format] = {known.name: known for known in (Llava(), LlavaNext(), OmniFusion(), Blip2(), Fuyu())}


def find_format(name: str) -> Format:
    if name not in FORMATS:
        raise unknown_name("fusion", name, list(FORMATS))
    return FORMATS[name]
