"""Second stage: connector and language model learn together to answer questions on pictures; the tower is frozen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from microscope_bench.zoo import parts
from microscope_bench.zoo.batches import NONE, LessonEncoder
from microscope_bench.zoo.formats.base import Format
from microscope_bench.zoo.lessons import answer_words, draw, lesson
from microscope_bench.zoo.steps import Schedule, Training, train

SCHEDULE = Schedule(steps=1600, batch_size=8, learning_rate=1.5e-3, warm_up=50)

ANSWER_LAYER, MATCH_LAYER = 3, 4
"""The boundaries at which two auxiliary heads read the residual stream while the model is trained."""
AUXILIARY_WEIGHT = 0.5


class AuxiliaryHeads(nn.Module):
    """Two linear read-outs that exist in training only.

    ``answer`` reads, at the end of a question, the answer in words; ``match``, at the end of an option, whether it is
    right. An answer by letter needs both before it: in a trial without them, letters were at chance after 500 steps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.answer = nn.Linear(parts.HIDDEN_SIZE, len(answer_words()))
        self.match = nn.Linear(parts.HIDDEN_SIZE, 2)

    def forward(self, states: Mapping[int, Tensor], answers: Tensor, matches: Tensor) -> Tensor:
        return _read(self.answer, states[ANSWER_LAYER], answers) + _read(self.match, states[MATCH_LAYER], matches)


def _read(head: nn.Module, states: Tensor, targets: Tensor) -> Tensor:
    asked = targets != NONE
    normed = functional.rms_norm(states[asked], states.shape[-1:])
    return functional.cross_entropy(head(normed), targets[asked])


def training(fusion: Format, seed: int, device: torch.device) -> Training:
    return Training(f"fusion-{fusion.name}", seed, SCHEDULE, device.type)


def train_fusion(
    fusion: Format, model: Any, seed: int, work: Path, *, device: torch.device, quiet: bool = False
) -> None:
    """Trains everything in the model but its vision tower, in place; see :func:`~microscope_bench.zoo.steps.train`."""
    tokenizer = parts.tokenizer()
    encoder = LessonEncoder(tokenizer, fusion.frame(tokenizer))
    model.to(device).train()
    heads = parts.heads(AuxiliaryHeads(), seed).to(device)
    if fusion.tower is not None:
        fusion.tower_of(model).requires_grad_(False)
    blocks = fusion.blocks(model)
    states: dict[int, Tensor] = {}

    def loss_of_step(step: int) -> tuple[Tensor, Mapping[str, float]]:
        first = step * SCHEDULE.batch_size
        lessons = [lesson(seed, first + index) for index in range(SCHEDULE.batch_size)]
        batch = encoder.batch(lessons)
        media = fusion.media([draw(each.scene) for each in lessons])
        logits = fusion.forward(
            model,
            input_ids=batch.input_ids.to(device),
            attention_mask=batch.mask.to(device),
            position_ids=batch.position_ids.to(device),
            **{name: value.to(device) for name, value in media.items()},
        )
        weights = batch.weights[:, 1:].to(device)
        asked = weights > 0
        predicted, target = logits[:, :-1][asked], batch.input_ids[:, 1:].to(device)[asked]
        losses = functional.cross_entropy(predicted, target, reduction="none") * weights[asked]
        loss = losses.sum() / weights.sum()
        auxiliary = heads(states, batch.answers.to(device), batch.matches.to(device))
        right = (predicted.argmax(-1) == target)[weights[asked] == 1].float().mean()
        return loss + AUXILIARY_WEIGHT * auxiliary, {"right": round(float(right), 3)}

    def keep(layer: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            states[layer] = output[0] if isinstance(output, tuple) else output

        return hook

    hooks = [blocks[layer - 1].register_forward_hook(keep(layer)) for layer in (ANSWER_LAYER, MATCH_LAYER)]
    try:
        train(training(fusion, seed, device), {"model": model, "heads": heads}, loss_of_step, work, quiet=quiet)
    finally:
        for hook in hooks:
            hook.remove()
        states.clear()
    model.eval()
