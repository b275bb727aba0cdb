"""First stage: a vision tower learns the shape, colour and size of what each patch's quarter shows, and its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from microscope_bench.zoo import parts
from microscope_bench.zoo.formats.base import clip_pixels
from microscope_bench.zoo.lessons import draw, shapesqa
from microscope_bench.zoo.steps import Schedule, Training, train

SCHEDULE = Schedule(steps=2000, batch_size=32, learning_rate=1e-3, warm_up=100)
TILES = 8
"""The number of pictures in a batch that show a quarter at twice the resolution, as LLaVA-NeXT's tiles do."""
_GRID = parts.IMAGE_SIZE // parts.PATCH_SIZE


def trained_tower(kind: str, seed: int, work: Path, *, quiet: bool = False) -> Any:
    """The vision tower of a kind ("clip", "blip-2") and a seed, trained on the CPU, or loaded from ``work``."""
    tower = parts.vision_tower(kind, seed).train()
    sizes = (1 + len(shapesqa().SHAPES), 1 + len(shapesqa().COLOURS), 3, parts.N_PATCHES)
    heads = parts.heads(nn.ModuleList(nn.Linear(parts.HIDDEN_SIZE, size) for size in sizes), seed)

    def loss_of_step(step: int) -> tuple[Tensor, Mapping[str, float]]:
        first = step * SCHEDULE.batch_size
        scenes = [shapesqa().scene(seed, "train", first + index) for index in range(SCHEDULE.batch_size)]
        pixels, targets = pictures_and_targets(scenes)
        output = tower(pixels, output_hidden_states=True)
        # What the formats read: the last layer but one (LLaVA, OmniFusion) and the last one (BLIP-2).
        read = (output.hidden_states[-2][:, 1:], output.last_hidden_state[:, 1:])
        losses, right = [], []
        for states in read:
            for head, target in zip(heads, targets.unbind(-1), strict=True):
                logits = head(states)
                losses.append(functional.cross_entropy(logits.flatten(0, 1), target.flatten()))
                right.append(float((logits.argmax(-1) == target).float().mean()))
        return torch.stack(losses).sum(), {"right": round(float(np.mean(right)), 3)}

    training = Training(f"tower-{kind}", seed, SCHEDULE)
    train(training, {"tower": tower, "heads": heads}, loss_of_step, work, quiet=quiet)
    return tower.eval().requires_grad_(False)


def pictures_and_targets(scenes: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Pixels (n, 3, 64, 64) and per patch the index of shape, colour, size (0: nothing there) and place (n, 16, 4)."""
    pictures: list[NDArray[np.uint8]] = []
    targets = []
    for number, scene in enumerate(scenes):
        picture, attributes = draw(scene), _attributes(scene)
        if number < TILES:
            side, (row, column) = parts.IMAGE_SIZE, divmod(number % 4, 2)
            enlarged = np.asarray(Image.fromarray(picture).resize((2 * side, 2 * side), Image.Resampling.BICUBIC))
            picture = enlarged[row * side : (row + 1) * side, column * side : (column + 1) * side]
            attributes = np.broadcast_to(attributes[row * _GRID // 2, column * _GRID // 2], attributes.shape)
        places = np.arange(parts.N_PATCHES).reshape(_GRID, _GRID, 1)
        pictures.append(picture)
        targets.append(np.concatenate([attributes, places], axis=-1).reshape(parts.N_PATCHES, -1))
    return clip_pixels(pictures), torch.from_numpy(np.stack(targets))


def _attributes(scene: Any) -> NDArray[np.int64]:
    """(4, 4, 3): shape, colour and size of what is in each patch's quarter."""
    attributes = np.zeros((_GRID, _GRID, 3), dtype=np.int64)
    half = _GRID // 2
    for shape in scene.shapes:
        row, column = divmod(shapesqa().PLACES.index(shape.place), 2)
        attributes[row * half : (row + 1) * half, column * half : (column + 1) * half] = (
            1 + shapesqa().SHAPES.index(shape.shape),
            1 + list(shapesqa().COLOURS).index(shape.colour),
            1 + int(shape.large),
        )
    return attributes
