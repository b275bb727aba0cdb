"""Trains the untrained twin of zoo-llava for 200 steps by transformers' Trainer, and watches its geometry.

python benchmarks/watch_training.py OUT [--steps 200] [--every 40] [--limit 64]

Writes the results of the steps below OUT/geometry, and OUT/shapesqa.steps.svg: the picture in docs/training.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from transformers import AutoModelForMultimodalLM, AutoProcessor, Trainer, TrainingArguments

from microscope_bench.callbacks import GeometryCallback
from microscope_bench.cli.main import main as microscope_bench
from microscope_bench.example import Example
from microscope_bench.tasks import load_task
from microscope_bench.zoo.shipped import untrained_checkpoint

BATCH = 4


def collator(processor: Any) -> Any:
    """Questions with their answers as a batch; all words are learned, the places of the pictures are not."""
    no_words = {processor.tokenizer.pad_token_id, processor.tokenizer.convert_tokens_to_ids(processor.image_token)}

    def collate(examples: list[Example]) -> dict[str, Any]:
        texts = [f"{one.text} {one.choices[one.answer]}" for one in examples]
        batch = processor(text=texts, images=[list(one.images) for one in examples], padding=True, return_tensors="pt")
        labels = batch["input_ids"].clone()
        for index in no_words:
            labels[labels == index] = -100
        return {**batch, "labels": labels}

    return collate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=40)
    parser.add_argument("--limit", type=int, default=64)
    asked = parser.parse_args()
    checkpoint = untrained_checkpoint("zoo-llava-untrained")
    model = AutoModelForMultimodalLM.from_pretrained(checkpoint, dtype="float32")  # it is stored in float16
    processor = AutoProcessor.from_pretrained(checkpoint)
    task = load_task("shapesqa")
    # questions of the task that are not measured
    data = [task.example(asked.limit + index) for index in range(min(len(task) - asked.limit, BATCH * asked.steps))]
    callback = GeometryCallback(
        "shapesqa", asked.every, name="zoo-llava", limit=asked.limit, metrics="linearity,intrinsic_dimension"
    )
    arguments = TrainingArguments(
        output_dir=str(asked.out),
        max_steps=asked.steps,
        per_device_train_batch_size=BATCH,
        learning_rate=2e-3,
        warmup_steps=10,
        logging_steps=20,
        save_strategy="no",
        report_to=[],
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(
        model,
        arguments,
        data_collator=collator(processor),
        train_dataset=data,
        processing_class=processor,
        callbacks=[callback],
    )
    trainer.train()
    microscope_bench(["plot", str(asked.out / "geometry"), "--over", "step", "-o", str(asked.out)])


if __name__ == "__main__":
    main()
