"""A model of one's own, from nothing: token ids and vectors in a sequence become a language model's ``inputs_embeds``.

``docs/adding_a_model.md`` begins with one.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from msgspec import structs
from PIL.Image import Image
from torch import Tensor, nn

from microscope_bench.adapters.base import Adapter, Batch
from microscope_bench.adapters.decoder import find_blocks
from microscope_bench.adapters.foreign_errors import loading
from microscope_bench.adapters.held_modules import held_modules, outermost
from microscope_bench.adapters.model_args import refuse_unknown_args
from microscope_bench.adapters.model_loading import peft_of
from microscope_bench.adapters.pieces import NO_ID, Piece, Row, batch_of, row_of
from microscope_bench.adapters.prompting import check_placeholders, continuation_token_ids, parts_of, places_of
from microscope_bench.adapters.quantization import quantised_modules, quantization_name
from microscope_bench.adapters.settings_digest import settings_digest
from microscope_bench.adapters.tap_names import LANGUAGE
from microscope_bench.adapters.tokenizing import NoWordsError, PlainWords, whole_prompts
from microscope_bench.adapters.untrained_weights import initialise_anew, seeded_initialisation
from microscope_bench.errors import AdapterError, ExampleError
from microscope_bench.example import Example
from microscope_bench.identity import ModelInfo, Processing
from microscope_bench.system.devices import pick_device


class OwnModel(Adapter):
    """The base of an adapter whose model is put together in its constructor.

    The constructor's parameters are the model args; each is given as text. Every module is held in an attribute. A
    subclass writes :meth:`sequence`, and overrides of the rest what its model does otherwise.

    Attributes:
        language_model: a causal language model of transformers; another model overrides :meth:`embed`, :meth:`run` and
            :meth:`blocks`.
        tokenizer: that of transformers; with another one :meth:`ids` and :meth:`words` are overridden.
        image_processor: what :meth:`pixels` calls.
        modalities: what the model can be given.
        trained: False for weights that no training has touched.
    """

    language_model: Any
    tokenizer: Any
    image_processor: Any = None
    modalities = frozenset({"text", "image"})
    trained = True
    _told: Mapping[str, Any] = MappingProxyType({})

    @staticmethod
    def part(kind: Any, place: str, **options: Any) -> Any:
        """A model of transformers, of class ``kind``, from a directory or the hub; every weight is from safetensors.

        Raises an AdapterError where weights are missing: transformers would draw them at random.
        """
        with loading(f"{kind.__name__} of {place}", "Correct the place, or fetch the checkpoint again"):
            model, report = kind.from_pretrained(place, use_safetensors=True, output_loading_info=True, **options)
        if lacking := sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}):
            raise AdapterError(
                f"{place} lacks {len(lacking)} weights of {kind.__name__}, which would be random: "
                f"{', '.join(lacking[:5])}; take the class that the checkpoint is of, or options that leave them out"
            )
        return model

    @abstractmethod
    def sequence(self, example: Example) -> Iterable[Piece]:
        """The example as the model reads it: label and content of each piece, in order.

        Text is token ids, so that what depends on words knows them; any other label has ids or vectors (n, d).
        """

    def parts(self, example: Example) -> list[tuple[str, Any]]:
        """The words and media of an example in their order: ``("text", words)``, ``("image", picture)``, ..."""
        check_placeholders(example)
        media = {modality: iter(given) for modality, given in example.media.items()}
        return [
            (kind, words if kind == "text" else next(media[kind]))
            for kind, words in parts_of(example.text, places_of(example))
        ]

    def ids(self, text: str) -> list[int]:
        """The token ids of a text, none added, and none cut off; a special token in it is read as words."""
        return self._tokenized(self._plain.marked(text))

    def words(self, ids: Sequence[int]) -> str:
        """What token ids stand for."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    def pixels(self, picture: Image) -> Tensor:
        """What the image processor makes of a picture, (1, ...), where the model is and in its dtype."""
        values: Tensor = self.image_processor(images=[picture], return_tensors="pt")["pixel_values"]
        self._shown.append(values)
        return values.to(self.device, self._dtype)

    def embed(self, ids: Tensor) -> Tensor:
        """The vectors (B, S, d) of token ids (B, S)."""
        return torch.as_tensor(self.language_model.get_input_embeddings()(ids))

    def run(self, inputs_embeds: Tensor, attention_mask: Tensor, positions: Tensor) -> Tensor:
        """One pass over (B, S, d), padded on the right: logits at ``positions``, int64 (k,), or at all S."""
        parameters = inspect.signature(self.language_model.forward).parameters
        some = "logits_to_keep" in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values())
        output = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            use_cache=False,
            **({"logits_to_keep": positions} if some else {}),
        )
        return torch.as_tensor(output.logits)

    @classmethod
    def load(cls, args: Mapping[str, str], *, device: str | None = None) -> OwnModel:
        parameters = inspect.signature(cls).parameters
        refuse_unknown_args(args, tuple(parameters))
        lacking = [name for name, one in parameters.items() if one.default is one.empty and name not in args]
        if lacking:
            raise AdapterError(f"{cls.__name__} needs --model_args {','.join(f'{name}=...' for name in lacking)}")
        adapter, target = cls(**args), pick_device(device)
        for module in vars(adapter).values():
            if isinstance(module, nn.Module) and not hasattr(module, "hf_device_map"):
                module.to(target)
        if "pretrained" in args:
            path = Path(args["pretrained"]).expanduser()
            name = path.resolve().name if path.exists() else args["pretrained"]
            adapter.info = structs.replace(adapter.info, name=name, repo=name)
        return adapter

    def blocks(self) -> Sequence[nn.Module]:
        return list(find_blocks(self.language_model))

    def tapped(self, tap: str) -> Adapter:
        if tap == LANGUAGE:
            return self
        raise AdapterError(
            f"{self.info.name}: its sequence() makes a picture's vectors before the pass that is watched, in which "
            f"nothing of the {tap} tap runs; leave --tap out"
        )

    def encode(self, examples: Sequence[Example]) -> Batch:
        return batch_of(self.rows(examples), tuple(example.id for example in examples), self.device)

    def rows(self, examples: Sequence[Example]) -> list[Row]:
        """Each example as the model reads it, without padding."""
        with torch.no_grad():
            return [self._row(example) for example in examples]

    def forward(self, batch: Batch, *, logits: bool) -> Tensor | None:
        positions, which = np.unique(batch.last_positions(), return_inverse=True)
        found = self.logits_at(batch, positions)
        return found[np.arange(len(which)), which].float() if logits else None

    def logits_at(self, batch: Batch, positions: np.ndarray) -> Tensor:
        """The logits (B, k, vocabulary) after some positions (int64 (k,), ascending) of one pass."""
        ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        with torch.no_grad():
            embedded = self.embed(ids.clamp(min=0))
            if "vectors" in batch.inputs:
                embedded[(ids == NO_ID) & (mask == 1)] = batch.inputs["vectors"].to(embedded)
            found = self.run(embedded, mask, torch.from_numpy(positions).to(ids.device))
        return found if found.shape[1] == len(positions) else found[:, positions]

    def choice_token_ids(self, prompt: str, choices: Sequence[str]) -> list[int]:
        found = continuation_token_ids(self._tokenized, prompt, choices)
        if found is None:
            raise AdapterError(
                f"{self.info.name}: after a prompt that ends in {prompt[-12:]!r} the choices {', '.join(choices)} are "
                f"not one token each, so one forward pass cannot score them"
            )
        return found

    def fresh_weights(self, seed: int) -> OwnModel:
        fresh = deepcopy(self)
        with seeded_initialisation(seed):
            for module in outermost(held_modules(fresh)):
                initialise_anew(module)
        fresh.info = structs.replace(self.info, trained=False)
        return fresh

    @property
    def info(self) -> ModelInfo:
        """As the modules are now; weights and code are added to it where it is put into a result.

        What is assigned to it decides, from then on, the fields in which it differs.
        """
        return structs.replace(self._found_info(), **self._told)

    @info.setter
    def info(self, info: ModelInfo) -> None:
        found = self._found_info()
        differing = (name for name in info.__struct_fields__ if getattr(info, name) != getattr(found, name))
        self._told = {name: getattr(info, name) for name in differing}

    def _found_info(self) -> ModelInfo:
        bare = sorted(name for name, value in vars(self).items() if isinstance(value, Tensor))
        if bare:
            raise AdapterError(
                f"{type(self).__name__} holds the tensor {bare[0]} itself, where no digest of the weights sees it; put "
                f"it into a module, such as nn.ParameterDict"
            )
        name, held = type(self).__name__, held_modules(self)
        quantised = {path: kind for module in outermost(held) for path, kind in quantised_modules(module).items()}
        settings = getattr(self._config, "quantization_config", None)
        return ModelInfo(
            name=name,
            repo=name,
            revision=f"config-{settings_digest(held, vars(self).values())}",
            adapter=name,
            architecture=name,
            dtype=str(self._dtype).removeprefix("torch."),
            quantization=quantization_name(settings or {}, quantised) if settings or quantised else None,
            attention=getattr(self._config, "_attn_implementation", None),
            n_layers=len(self.blocks()),
            hidden_size=self._width,
            n_parameters=sum({id(p): p.numel() for module in held for p in module.parameters()}.values()),
            trained=self.trained,
            control=None,
            options={},
            peft="+".join(sorted(filter(None, map(peft_of, outermost(held))))) or None,
        )

    @property
    def processing(self) -> Processing:  # type: ignore[override]
        tokenizer, images = getattr(self, "tokenizer", None), self.image_processor
        return Processing(
            processor=None if tokenizer is None else type(tokenizer).__name__,
            image_processor=None if images is None else type(images).__name__,
            context_length=getattr(self._config, "max_position_embeddings", None),
        )

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return next(self.blocks()[0].parameters()).device

    @property
    def model(self) -> Any:
        """By whose own hidden states ``microscope-bench check`` tells whether the boundaries are right."""
        held = vars(self).get("model")
        return self.language_model if held is None else held

    @model.setter
    def model(self, model: Any) -> None:
        vars(self)["model"] = model

    @property
    def _width(self) -> int:
        with torch.no_grad():
            return self.embed(torch.zeros((1, 1), dtype=torch.int64, device=self.device)).shape[-1]

    @property
    def _dtype(self) -> torch.dtype:
        return next(weight.dtype for weight in self.blocks()[0].parameters() if weight.is_floating_point())

    @property
    def _config(self) -> Any:
        """The language model's configuration, or None."""
        config = getattr(getattr(self, "language_model", None), "config", None)
        return None if config is None else config.get_text_config(decoder=True)

    @cached_property
    def _plain(self) -> PlainWords:
        return PlainWords(self.tokenizer, None)

    @cached_property
    def _shown(self) -> list[Tensor]:
        """What :meth:`pixels` has made for the example that is being encoded."""
        return []

    def _tokenized(self, text: str) -> list[int]:
        with whole_prompts(self.tokenizer):
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _row(self, example: Example) -> Row:
        if other := sorted(example.media.keys() - self.modalities):
            raise AdapterError(f"{self.info.name} has no modality {other[0]}, and example {example.id} needs it")
        self._shown.clear()
        try:
            pieces = list(self.sequence(example))
        except NoWordsError as error:
            raise ExampleError(example.id, str(error)) from error
        row, width = row_of(pieces, f"{type(self).__name__}.sequence()", self.words), self._width
        if odd := next((vector.shape[1] for vector in row.vectors if vector.shape[1] != width), None):
            raise AdapterError(
                f"{type(self).__name__}.sequence() yields vectors that are {odd} wide, and those of words are "
                f"{width}: what projects them is left out, or another's"
            )
        return row._replace(pixels=tuple(self._shown))
