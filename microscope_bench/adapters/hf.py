"""The generic adapter: any causal or multimodal model of transformers, with its own processor and chat template."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from msgspec import structs
from torch import Tensor, nn

from microscope_bench.adapters.base import IMAGE, STRUCTURE, Adapter, Batch
from microscope_bench.adapters.decoder import describe_module_lists, find_blocks, first_tensor_at
from microscope_bench.adapters.encoding import Encoder
from microscope_bench.adapters.evaluation_mode import unwrapped
from microscope_bench.adapters.foreign_errors import loading, panics_told
from microscope_bench.adapters.hf_loading import load_parts
from microscope_bench.adapters.media_tokens import constant_media_vectors
from microscope_bench.adapters.model_loading import model_info, processing_of, start_tokens
from microscope_bench.adapters.offloading import input_device, offloading_fails
from microscope_bench.adapters.overrides import Overrides, overrides_of
from microscope_bench.adapters.pinned_checkpoint import Checkpoint
from microscope_bench.adapters.prompting import chat_template, continuation_token_ids, template_sha256
from microscope_bench.adapters.tap_names import LANGUAGE, PROJECTOR, VISION
from microscope_bench.adapters.taps import TappedAdapter
from microscope_bench.adapters.untrained_weights import seeded_initialisation, untrained_twin
from microscope_bench.adapters.weights_digest import weights_digest
from microscope_bench.errors import AdapterError
from microscope_bench.example import Example
from microscope_bench.identity import TemplateWords


class HFAdapter(Adapter):
    """A transformers model with its processor (multimodal) or tokenizer (text only).

    Model args: ``pretrained`` (hub id or directory), ``revision``, ``subfolder`` (the checkpoint's folder in it),
    ``peft`` (directory or repository of an adapter), ``dtype`` (float32, bfloat16, float16, or auto, the
    checkpoint's; default: the checkpoint's, but on a CPU float32 for one of float16),
    ``attn_implementation``, ``quantization`` (bnb-8bit, bnb-4bit, torchao-int8), ``device_map``, ``max_memory`` and
    ``offload_folder`` (these three need accelerate), ``use_chat_template`` (default: where the checkpoint has one),
    ``max_length`` (instead of the configuration's).
    """

    overrides: Overrides | None = None  # a subclass's own, which replace the entry of the architecture

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        processor: Any | None,
        checkpoint: Checkpoint,
        *,
        use_chat_template: bool | None = None,
        max_length: int | None = None,
    ) -> None:
        model = unwrapped(model)
        self._overrides = self.overrides or overrides_of(model.config)
        if all(getattr(type(self), name) is getattr(HFAdapter, name) for name in ("encode", "prepare", "process")):
            self.encodes_on_host = not (self._overrides.adds_image or self._overrides.constants_inside)
        model = model if self._overrides.part is None else model.get_submodule(self._overrides.part)
        self._set_model(model)
        self.tokenizer, self.processor = tokenizer, processor
        self.device = input_device(model)
        encoder = Encoder(checkpoint.repo, model.config, tokenizer, processor, self._overrides, self.process)
        self.encoder = encoder if use_chat_template is None else encoder.with_template(use_chat_template)
        self.modalities, self.lacks = self.encoder.modalities, self.encoder.lacks
        self.needs_image, self.unplaced = self._overrides.needs == "image", self._overrides.unplaced
        self.states_differ = self._overrides.states_differ
        self.sees, self.answers_apart = self._overrides.sees, self._overrides.answers_apart
        self.codes_repeat, self.max_batch = self._overrides.fusion == "discrete", self._overrides.max_batch
        self._forward_arguments = {*inspect.signature(model.forward).parameters, *self._overrides.passes}
        info = model_info(model, checkpoint, self._overrides, len(self.blocks()))
        self.info, self.template_untold = structs.replace(info, template=self._template_words), self.encoder.untold
        self.processing = processing_of(model, processor or tokenizer, self.encoder.templated, max_length)

    @classmethod
    def load(cls, args: Mapping[str, str], *, device: str | None = None) -> HFAdapter:
        parts = load_parts(args, device, measured_anyway=cls.overrides is not None)
        with loading(
            parts["checkpoint"].repo, "Its configuration, tokenizer or template is not what its class expects"
        ):
            adapter = cls(**parts)
        adapter.loaded_weights = weights_digest(adapter)
        return adapter

    def blocks(self) -> Sequence[nn.Module]:
        return list(self._found_blocks)

    @cached_property
    def _found_blocks(self) -> nn.ModuleList:
        return find_blocks(self.model, self._overrides.stack)

    def optional_blocks(self) -> frozenset[int]:
        """The cross-attention blocks that a pass without a picture leaves out."""
        return frozenset(getattr(self.model.config.get_text_config(decoder=True), "cross_attention_layers", None) or ())

    def residual(self, hidden: Tensor) -> Tensor:
        if self._overrides.streams is None or hidden.dim() < 4:
            return hidden
        _, axis = self._overrides.streams
        return hidden.movedim(axis, 2).flatten(2)

    def fresh_weights(self, seed: int) -> HFAdapter:
        with seeded_initialisation(seed):
            twin = untrained_twin(self.model)
        fresh = copy(self)
        fresh._set_model(twin)
        fresh.info = structs.replace(self.info, trained=False)
        return fresh

    def tapped(self, tap: str) -> Adapter:
        paths = {VISION: self._overrides.tower, PROJECTOR: self._overrides.projector}.get(tap)
        return self if tap == LANGUAGE else TappedAdapter(self, tap, paths)

    def process(self, text: list[str], **options: Any) -> Mapping[str, Any]:
        """``input_ids`` and ``attention_mask``, both (B, S), and what else the model takes; made to be overridden."""
        assert self.processor is not None
        encoded: Mapping[str, Any] = self.processor(text=text, **options)
        return encoded

    def with_template(self, templated: bool) -> HFAdapter:
        """The same model, its prompts with or without its chat template; an AdapterError where it has none."""
        other = copy(self)
        other.encoder = self.encoder.with_template(templated)
        template = chat_template(self.processor or self.tokenizer)
        options = {key: value for key, value in self.info.options.items() if key != "use_chat_template"}
        if template is not None and not templated:
            options["use_chat_template"] = "false"  # as if it had been loaded so
        sha256 = template_sha256(template) if templated else None
        options = dict(sorted(options.items()))
        other.info = structs.replace(self.info, options=options, template=other._template_words)
        other.template_untold = other.encoder.untold
        other.processing = structs.replace(self.processing, chat_template_sha256=sha256)
        return other

    def padded(self, side: str) -> HFAdapter:
        other = copy(self)
        other.encoder = self.encoder.padded(side)
        return other

    def encode(self, examples: Sequence[Example]) -> Batch:
        batch = self.prepare(examples)
        labels, other = batch.labels, None
        if self._overrides.adds_image and any(example.images for example in examples):
            added = self._entering_block_1(batch.inputs).shape[1] - labels.shape[1]
            where = (added, 0) if self._overrides.adds_image == "before" else (0, added)
            labels = np.pad(labels, ((0, 0), where), constant_values=IMAGE)
        if self._overrides.constants_inside and batch.media:
            other = self._entering_block_1({**batch.inputs, **{name: -value for name, value in batch.media.items()}})
        return replace(batch, labels=labels, other=other)

    def prepare(self, examples: Sequence[Example]) -> Batch:
        with panics_told(f"the tokenizer or processor of {self.info.name}"):
            encoded = self.encoder(examples)
        given = {**encoded.inputs, **self._overrides.arguments}
        inputs = {name: self._to_device(v) for name, v in given.items() if name in self._forward_arguments}
        media = {name: value for name, value in inputs.items() if _holds_media(name, value)}
        return replace(encoded, inputs=inputs, media=media)

    def forward(self, batch: Batch, *, logits: bool) -> Tensor | None:
        last = batch.last_positions()
        if self._overrides.answers_apart:
            last = np.full_like(last, len(start_tokens(self.model)) - 1)
        kept, which = np.unique(last, return_inverse=True)
        # made before the pass: a copy to a GPU waits for what runs there
        rows, places = torch.arange(len(which), device=self.device), torch.from_numpy(which).to(self.device)
        found = self.logits_at(batch, kept)
        return found[rows.to(found.device), places.to(found.device)] if logits else None

    def logits_at(self, batch: Batch, positions: np.ndarray) -> Tensor:
        """The logits, float32 (B, k, vocabulary), after some positions (int64 (k,), ascending) of one pass."""
        arguments = dict(batch.inputs)
        wanted: Tensor | slice = torch.from_numpy(positions).to(self.device)
        if self._overrides.answers_apart:
            start = start_tokens(self.model)
            arguments["decoder_input_ids"] = torch.tensor([start] * len(batch.ids), device=self.device)
        elif "logits_to_keep" in self._forward_arguments:
            arguments["logits_to_keep"], wanted = wanted, slice(None)
        with torch.no_grad():
            try:
                output = self.model(**arguments, use_cache=False)
            except ValueError as error:
                if "features" in str(error) and "token" in str(error):
                    raise AdapterError(self._unexpanded(f"transformers says: {error}")) from error
                raise
            except (NotImplementedError, RuntimeError) as error:
                raise offloading_fails(self.info.name, self.model, error) or error from error
            if isinstance(wanted, Tensor):
                wanted = wanted.to(output.logits.device)
            return torch.as_tensor(output.logits[:, wanted].float())

    def refine_labels(self, batch: Batch, boundary0: Tensor) -> np.ndarray:
        """Media positions that hold a learned constant (``image_newline``) and no content become structure."""
        labels = batch.labels.copy()
        for constant in (*self._constants, *(() if batch.other is None else (batch.other,))):
            # of parallel streams the first is the embedding itself
            same = (boundary0[..., : constant.shape[-1]] == constant.to(boundary0)).all(dim=-1).cpu().numpy()
            labels[same & (labels >= IMAGE)] = STRUCTURE
        return labels

    def choice_token_ids(self, prompt: str, choices: Sequence[str]) -> list[int]:
        before = "" if self._overrides.answers_apart else prompt
        ids = continuation_token_ids(self.encoder.tokenize_plainly, before, choices)
        if ids is None:
            raise AdapterError(
                f"{self.info.name}: after a prompt that ends in {before[-12:]!r} the choices {', '.join(choices)} are "
                f"not one token each, with or without a blank before, so one forward pass cannot score them"
            )
        return ids

    def check_labels(self, batch: Batch, boundary0: Tensor) -> None:
        if tuple(boundary0.shape[:2]) != batch.labels.shape:
            raise AdapterError(
                self._unexpanded(f"{batch.labels.shape[1]} labels but block 1 saw {boundary0.shape[1]} positions.")
            )

    @property
    def _template_words(self) -> TemplateWords | None:
        if not self.encoder.templated:
            return None
        return "separated" if self.encoder.untold is None else "not_told_apart"

    def _set_model(self, model: Any) -> None:
        self.model = model
        vars(self).pop("_found_blocks", None)  # those of the model before
        self._constants = constant_media_vectors(model, self._overrides)

    def _entering_block_1(self, inputs: Mapping[str, Any]) -> Tensor:
        seen = first_tensor_at(self.blocks()[0], lambda: self.model(**inputs, use_cache=False))
        if seen is None:
            raise AdapterError(f"{self.info.name}: a forward pass does not run the first block; override blocks()")
        return self.residual(seen)

    def _to_device(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(self.device, self.model.dtype if value.is_floating_point() else None)

    def _unexpanded(self, seen: str) -> str:
        return (
            f"{self.info.name}: {seen} The processor does not expand the image token into one placeholder per image "
            f"position; check its settings (patch_size, image_seq_length, num_query_tokens, ...) or override encode() "
            f"in an adapter of your own. Block lists found: {describe_module_lists(self.model)}."
        )


def _holds_media(name: str, value: Any) -> bool:
    """Whether a model's input is pixels or sound: masks and numbers for each medium may be float too."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 1 and not name.endswith("mask")
