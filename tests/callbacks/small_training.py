"""A training of a few steps by transformers' Trainer, for this process or, as a program, for several."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor, Trainer, TrainingArguments

from microscope_bench.callbacks import GeometryCallback
from tests.toy import ToyTask


def train(checkpoint: Path, directory: Path, callbacks: list[Any], *, model: Any = None, processor: Any = None) -> Any:
    """Five steps with dropout; the Trainer, and in it model and log."""
    torch.manual_seed(1)
    model = model or AutoModelForMultimodalLM.from_pretrained(checkpoint)
    processor = processor or AutoProcessor.from_pretrained(checkpoint)
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    ids = torch.randint(5, 200, (40, 9), generator=torch.Generator().manual_seed(0))
    arguments = TrainingArguments(
        output_dir=str(directory),
        max_steps=5,
        per_device_train_batch_size=2,
        learning_rate=1e-3,
        logging_steps=1,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        dataloader_pin_memory=False,
    )
    data = [{"input_ids": row, "labels": row} for row in ids]
    trainer = Trainer(model, arguments, train_dataset=data, processing_class=processor, callbacks=callbacks)
    trainer.train()
    return trainer


def weights(trainer: Any) -> torch.Tensor:
    """All weights of a trained model in one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


if __name__ == "__main__":
    checkpoint, directory = Path(sys.argv[1]), Path(sys.argv[2])
    plain = train(checkpoint, directory, [])
    measured = train(checkpoint, directory, [GeometryCallback(ToyTask(8), 2, metrics="anisotropy")])
    found = {"plain": weights(plain), "measured": weights(measured)}
    torch.save(found, directory / f"weights-{plain.args.process_index}-of-{plain.args.world_size}.pt")
