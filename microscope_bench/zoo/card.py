"""The model card of a checkpoint of the zoo, made from what was measured on it."""

from __future__ import annotations

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from microscope_bench.identity import ModelInfo
from microscope_bench.zoo import FUSIONS, fusion_training, parts, vision_training
from microscope_bench.zoo.formats import find_format
from microscope_bench.zoo.seeing import CHANCE, Seeing

BARS = {"llava": 0.70, "llava-next": 0.70}
"""The accuracy that a model was meant to reach; OTHER_BAR for all others."""
OTHER_BAR, GAP_BAR = 0.60, 0.20  # the gap is to its accuracy with exchanged pictures


def card(fusion: str, seed: int, device: str, info: ModelInfo, seeing: Seeing) -> str:
    """The card as markdown; the second stage ran on this device ("cpu" or "cuda")."""
    bar = BARS.get(fusion, OTHER_BAR)
    environment = Environment(loader=PackageLoader("microscope_bench", "zoo"), undefined=StrictUndefined)
    return environment.get_template("card.md.jinja").render(
        fusion=fusion,
        description=FUSIONS[fusion][1],
        format=find_format(fusion),
        seed=seed,
        device=device,
        torch_version=torch.__version__,
        info=info,
        seeing=seeing,
        parts=parts,
        tower=vision_training.SCHEDULE,
        joint=fusion_training.SCHEDULE,
        answer_layer=fusion_training.ANSWER_LAYER,
        match_layer=fusion_training.MATCH_LAYER,
        chance=CHANCE,
        bar=bar,
        gap_bar=GAP_BAR,
        reached=seeing.accuracy >= bar and seeing.accuracy - seeing.shuffled >= GAP_BAR,
        percent=lambda share, digits: f"{share:.{digits}%}",
    )
