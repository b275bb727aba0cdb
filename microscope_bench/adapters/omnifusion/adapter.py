"""The OmniFusion adapter: a language model that gets pictures as embeddings, in the layout its authors published.

A checkpoint directory holds ``tokenizer/``, ``tuned-model/`` (a causal language model), ``projection.pt``,
``special_embeddings.pt``, and may hold the vision tower in ``clip/``. The sequence, as in the published inference code:
prompt, SOI, picture, EOI, USER, question, BOT; no BOS; without a picture SOI, picture and EOI are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from msgspec import structs
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModelForCausalLM, AutoTokenizer, CLIPVisionModel

from microscope_bench.adapters.base import IMAGE, PADDING, SPECIAL, STRUCTURE, TEMPLATE, TEXT, Adapter, Batch
from microscope_bench.adapters.foreign_errors import loading
from microscope_bench.adapters.model_args import check_args
from microscope_bench.adapters.omnifusion.checkpoint_files import find_checkpoint, find_vision_tower
from microscope_bench.adapters.omnifusion.module import IMAGE_MARK, SPECIAL_MARKS, OmniFusionModel
from microscope_bench.adapters.omnifusion.parts_loading import (
    DIALOG,
    assemble,
    framed,
    load_part,
    load_preprocessing,
    model_info,
    processing_of,
)
from microscope_bench.adapters.prompting import check_placeholders, parts_of, places_of
from microscope_bench.adapters.tap_names import LANGUAGE, PROJECTOR
from microscope_bench.adapters.taps import TappedAdapter
from microscope_bench.adapters.tokenizing import NoWordsError, PlainWords, whole_prompts
from microscope_bench.adapters.untrained_weights import seeded_initialisation
from microscope_bench.adapters.weights_digest import weights_digest
from microscope_bench.errors import AdapterError, ExampleError
from microscope_bench.example import WORD_MARK, Example
from microscope_bench.identity import ModelInfo
from microscope_bench.system.devices import pick_device


class OmniFusionAdapter(Adapter):
    """One loaded OmniFusion model.

    Model args: ``pretrained`` (hub repository or directory), ``revision``, ``subfolder`` (default: OmniMistral-v1_1 on
    the hub; in a directory, that subfolder if there is one, else the directory itself), ``vision_tower`` (hub
    repository or directory; default: ``clip/`` beside the checkpoint's other parts if a local directory has it, else
    openai/clip-vit-large-patch14-336; the log says which), ``vision_revision``, ``dtype`` (as of
    :class:`~microscope_bench.adapters.hf.HFAdapter`; "auto" is the language model's), ``attn_implementation``.
    """

    encodes_on_host = True

    def __init__(self, model: OmniFusionModel, tokenizer: Any, image_processor: Any, info: ModelInfo) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self._words = PlainWords(tokenizer, None)
        self.info = info
        self.processing = processing_of(model, tokenizer, image_processor)
        self.modalities = frozenset({"text", "image"})
        self.device = next(model.parameters()).device
        vision = model.vision_tower.config
        self._image_positions = (vision.image_size // vision.patch_size) ** 2

    @classmethod
    def load(cls, args: Mapping[str, str], *, device: str | None = None) -> OmniFusionAdapter:
        check_args("omnifusion", args)
        checkpoint = find_checkpoint(args)
        tower = find_vision_tower(args, checkpoint)
        target = pick_device(device)
        language_model = load_part(
            AutoModelForCausalLM,
            checkpoint.path / "tuned-model",
            args.get("dtype"),
            args.get("attn_implementation"),
            target,
        )
        dtype = str(language_model.dtype).removeprefix("torch.")
        vision_tower = load_part(CLIPVisionModel, tower.path, dtype, None, target)
        model = assemble(checkpoint.path, language_model, vision_tower).to(target)
        tokenizer = load_preprocessing(AutoTokenizer, checkpoint.path / "tokenizer")
        image_processor = load_preprocessing(AutoImageProcessor, tower.path)
        with loading(str(checkpoint.path), "Its configurations are not those of the published layout"):
            adapter = cls(model, tokenizer, image_processor, model_info(checkpoint, tower, model))
        adapter.loaded_weights = weights_digest(adapter)
        return adapter

    def blocks(self) -> Sequence[nn.Module]:
        return list(self.model.language_model.model.layers)

    def tapped(self, tap: str) -> Adapter:
        paths = {PROJECTOR: ("projection",)}.get(tap)
        return self if tap == LANGUAGE else TappedAdapter(self, tap, paths)

    def encode(self, examples: Sequence[Example]) -> Batch:
        """Builds the published sequence for each example, padded on the right.

        The picture stands before the question wherever its placeholder is, since the model knows no other order.
        """
        for example in examples:
            if other := sorted(example.media.keys() - self.modalities):
                raise AdapterError(f"{self.info.name} has no modality {other[0]}, and example {example.id} needs it")
        rows = [self._row(example) for example in examples]
        shape = (len(rows), max(len(ids) for ids, _ in rows))
        input_ids = np.zeros(shape, dtype=np.int64)
        labels = np.full(shape, PADDING, dtype=np.int8)
        for row, (ids, row_labels) in enumerate(rows):
            input_ids[row, : len(ids)] = ids
            labels[row, : len(ids)] = row_labels
        inputs = {
            "input_ids": torch.from_numpy(input_ids).to(self.device),
            "attention_mask": torch.from_numpy((labels != PADDING).astype(np.int64)).to(self.device),
        }
        pictures = [self._pixels(example) for example in examples if example.images]
        media = {"pixel_values": torch.cat(pictures)} if pictures else {}
        return Batch(
            inputs={**inputs, **media},
            labels=labels,
            ids=tuple(example.id for example in examples),
            prompts=tuple(
                framed(_question(example).replace(WORD_MARK, ""), bool(example.images)) for example in examples
            ),
            tokens=tuple(ids for ids, _ in rows),
            media=media,
        )

    def forward(self, batch: Batch, *, logits: bool) -> Tensor | None:
        positions, which = np.unique(batch.last_positions(), return_inverse=True)
        with torch.no_grad():
            output = self.model(**batch.inputs, logits_to_keep=torch.from_numpy(positions).to(self.device))
        if not logits:
            return None
        return output.logits[np.arange(len(which)), which].float()  # type: ignore[no-any-return]

    def choice_token_ids(self, prompt: str, choices: Sequence[str]) -> list[int]:
        """The token of each letter encoded by itself, as the training code encodes an answer.

        A sentencepiece tokenizer then gives the form with the word mark ("▁A").
        """
        ids = [self.tokenizer(choice, add_special_tokens=False)["input_ids"] for choice in choices]
        for choice, tokens in zip(choices, ids, strict=True):
            if len(tokens) != 1:
                raise AdapterError(
                    f"{self.info.name}: choice {choice!r} is {len(tokens)} tokens after BOT, not one; a single forward "
                    f"pass cannot score it"
                )
        return [tokens[0] for tokens in ids]

    def fresh_weights(self, seed: int) -> OmniFusionAdapter:
        fresh = copy(self)
        with seeded_initialisation(seed):
            fresh.model = self.model.untrained_twin()
        fresh.info = structs.replace(self.info, trained=False)
        return fresh

    def _row(self, example: Example) -> tuple[np.ndarray, np.ndarray]:
        parts = [(self._text_ids(DIALOG), TEMPLATE)]
        if example.images:
            parts += [
                ([SPECIAL_MARKS["SOI"]], STRUCTURE),
                ([IMAGE_MARK] * self._image_positions, IMAGE),
                ([SPECIAL_MARKS["EOI"]], STRUCTURE),
            ]
        parts += [
            ([SPECIAL_MARKS["USER"]], SPECIAL),
            (self._question_ids(example), TEXT),
            ([SPECIAL_MARKS["BOT"]], SPECIAL),
        ]
        ids = np.concatenate([np.asarray(ids, dtype=np.int64) for ids, _ in parts])
        return ids, np.repeat([label for _, label in parts], [len(ids) for ids, _ in parts]).astype(np.int8)

    def _question_ids(self, example: Example) -> list[int]:
        try:
            return self._text_ids(self._words.marked(_question(example)))
        except NoWordsError as error:
            raise ExampleError(example.id, str(error)) from error

    def _text_ids(self, text: str) -> list[int]:
        with whole_prompts(self.tokenizer):
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _pixels(self, example: Example) -> Tensor:
        try:
            pixels: Tensor = self.image_processor(images=list(example.images), return_tensors="pt")["pixel_values"]
        except (ValueError, OSError, ArithmeticError) as error:
            raise ExampleError(example.id, f"the picture cannot be processed: {error}") from error
        return pixels.to(self.device, self.model.vision_tower.dtype)


def _question(example: Example) -> str:
    """The example's text without the placeholder of its picture."""
    if len(example.images) > 1:
        raise AdapterError(
            f"example {example.id} has {len(example.images)} pictures, OmniFusion takes one; measure it on a task with "
            f"one picture per example"
        )
    check_placeholders(example)
    parts = parts_of(example.text, places_of(example))
    return "".join(words for kind, words in parts if kind == "text").removeprefix("\n")
