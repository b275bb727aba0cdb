"""The model card of a checkpoint of the zoo, made from what was measured on it."""

from __future__ import annotations

import torch

from microscope_bench.adapters.base import ModelInfo
from microscope_bench.zoo import FUSIONS, fusion_training, parts, vision_training
from microscope_bench.zoo.formats import find_format
from microscope_bench.zoo.seeing import CHANCE, Seeing

BARS = {"llava": 0.70, "llava-next": 0.70}
"""What a model was meant to reach; 0.60 where nothing is said. And 0.20 above itself with exchanged pictures."""
OTHER_BAR, GAP_BAR = 0.60, 0.20


def card(fusion: str, seed: int, device: str, info: ModelInfo, seeing: Seeing) -> str:
    """The card as markdown.

    Args:
        fusion: its name.
        seed: of the model.
        device: "cpu" or "cuda", where the second stage ran.
        info: of the loaded checkpoint.
        seeing: its accuracy.
    """
    known = find_format(fusion)
    tower, joint = vision_training.SCHEDULE, fusion_training.SCHEDULE
    bar = BARS.get(fusion, OTHER_BAR)
    reached = seeing.accuracy >= bar and seeing.accuracy - seeing.shuffled >= GAP_BAR
    lines = [
        f"# zoo-{fusion}",
        "",
        f"A tiny multimodal model in the on-disk format of {FUSIONS[fusion][1]}.",
        "It ships with microscope_bench so that the instrument can be tried and tested on models that were really "
        "trained, with no download. It answers questions on drawings of coloured shapes and is of no other use.",
        "",
        "```",
        f"microscope-bench run --model zoo-{fusion} --tasks shapesqa --task_args n=2016",
        "```",
        "",
        f"- **Parameters** {info.n_parameters:,}: decoder of {parts.N_LAYERS} blocks, {parts.HIDDEN_SIZE} wide"
        + (f"; vision tower of {parts.VISION_LAYERS} blocks" if known.tower else "; no vision tower")
        + ". Stored in float16, computed in float32.",
        f"- **A picture becomes** {known.image_tokens}.",
        f"- **Revision** `{info.revision}`, seed {seed}, trained on "
        f"{'one CPU thread' if device == 'cpu' else f'a GPU ({device})'} with torch {torch.__version__}.",
        "- **Licence** MIT, as the package. The data are drawn by the package itself.",
        "",
        "## Data and recipe",
        "",
        f"All models of the zoo begin with the same random weights of the language model and see the same "
        f"{joint.steps * joint.batch_size:,} "
        "lessons in the same order: a picture of shapesqa's training split, its question, nine more questions and a "
        "description. Each question sees the picture and itself, not the other questions.",
        "",
    ]
    if known.tower:
        lines += [
            f"1. The vision tower learns shape, colour, size and place of every patch: {tower.steps:,} steps of "
            f"{tower.batch_size} pictures. It is frozen from then on."
            + (
                " This format's tower has no norm behind its embeddings: it resembles that of the other formats and is "
                "trained in the same way, but is not the same."
                if known.tower == "blip-2"
                else " LLaVA, LLaVA-NeXT and OmniFusion have the very same tower."
            ),
        ]
    lines += [
        f"{2 if known.tower else 1}. Connector and language model are trained together: {joint.steps:,} steps of "
        f"{joint.batch_size} lessons, AdamW, learning rate {joint.learning_rate:g}. Two auxiliary linear read-outs, "
        f"dropped afterwards, ask for the answer at the end of a question (boundary {fusion_training.ANSWER_LAYER}) "
        f"and, at the end of each option, whether it is right (boundary {fusion_training.MATCH_LAYER}).",
        "",
        f"Again: `python -m microscope_bench.zoo.train --fusion {fusion} --seed {seed}`",
        "",
        "## Does it see?",
        "",
        f"On {seeing.n:,} held-out questions with balanced letters (chance {CHANCE:.1%}) it answers "
        f"**{seeing.accuracy:.1%}** ± {seeing.stderr:.1%} rightly, and {seeing.shuffled:.1%} when each question is "
        f"shown another one's picture. The project asked for at least {bar:.0%}, and "
        f"{100 * GAP_BAR:.0f} percentage points more than with exchanged pictures: "
        f"{'reached' if reached else '**not reached** by the recipe all models share'}.",
        "",
        "The questions are new to the model. So are the pictures, but for at most 10 that show a single shape.",
        "",
        "| kind of question | accuracy | pictures exchanged |",
        "|---|---|---|",
        *(f"| {kind} | {own:.1%} | {other:.1%} |" for kind, (own, other) in seeing.by_kind.items()),
        "",
    ]
    return "\n".join(lines)
