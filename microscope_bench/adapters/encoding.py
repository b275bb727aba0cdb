"""Turns examples into tensors and labels, by a checkpoint's own processor or tokenizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import cached_property
from typing import Any

import numpy as np

from microscope_bench.adapters.base import IMAGE, LABELS, STRUCTURE, TEMPLATE, TEXT, VIDEO, Batch
from microscope_bench.adapters.media_tokens import find_media_tokens, label_positions
from microscope_bench.adapters.overrides import Overrides
from microscope_bench.adapters.prompting import (
    chat,
    chat_template,
    check_placeholders,
    check_template,
    in_parts,
    places_of,
    raw_prompt,
    template_fails,
    template_takes_too_much,
    written,
)
from microscope_bench.adapters.refused_examples import check_sound, refuse_what_the_model_lacks
from microscope_bench.adapters.template_words import aligned, own_characters, own_tokens
from microscope_bench.adapters.tokenizing import NoWordsError, PlainWords, whole_prompts
from microscope_bench.errors import AdapterError, BatchError, ExampleError, MicroscopeError, said
from microscope_bench.example import WORD_MARK, Example

_SOUND = ("feature_extractor", "audio_processor")
_TAKEN_BY = {"image": ("image_processor",), "video": ("video_processor",), "audio": _SOUND}
"""Modality → the parts of a processor of which one prepares it."""
_NO_PLACE = (
    "its processor prepares {0}, but neither configuration nor tokenizer names {0}_token_id, so its positions are "
    "unknown; add that to config.json, or an Overrides as docs/adding_a_model.md shows"
)


class Encoder:
    """Turns examples into tensors with one label per position; a text-only model has no processor."""

    def __init__(
        self,
        name: str,
        config: Any,
        tokenizer: Any,
        processor: Any | None,
        overrides: Overrides,
        process: Callable[..., Any],
    ) -> None:
        self.name, self.tokenizer, self.processor = name, tokenizer, processor
        self.title = f"{name} ({config.model_type})"
        self._overrides = overrides
        self._process = process
        self._tokens = find_media_tokens(config, tokenizer, processor, overrides.framing)
        self._words = PlainWords(tokenizer, processor, self._tokens.no_words)
        self.templated = self.has_template
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
        prepared = [modality for modality in _TAKEN_BY if self._has_part_for(modality)]
        placed = [modality for modality in prepared if self._has_place_for(modality)]
        unknown = {modality: _NO_PLACE.format(modality) for modality in prepared if modality not in placed}
        self.lacks = {**unknown, **overrides.lacks}
        self.padding_side = "right"
        self.modalities = frozenset({"text", *placed}) - self.lacks.keys()

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """One batch, padded on :attr:`padding_side`, with all of the processor's outputs, not yet on a device."""
        refuse_what_the_model_lacks(self.title, self.modalities, self.lacks, self._overrides, examples)
        for example in examples:
            if example.prompt is None:
                check_placeholders(example)
            check_sound(self.name, self.processor, self._overrides, example)
        prompts = [self._marked_prompt(example) for example in examples]
        try:
            encoded = self._call_processor(examples, prompts)
        except Exception as error:  # processors raise whatever their image library does
            if len(examples) == 1:
                if self.templated and self._overrides.writes_image_token:
                    check_template(self.name, examples[0].media, self._rendered)
                raise ExampleError(examples[0].id, said(error, "in the processor")) from error
            for example in examples:
                self([example])  # raises for the one at fault
            raise BatchError(
                f"{self.name}: its processor takes these {len(examples)} examples one by one but not together "
                f"({said(error)}). Use --batch_size 1."
            ) from error
        if not {"input_ids", "decoder_input_ids"} & encoded.keys():
            raise AdapterError(
                f"{self.title}: {type(self.processor).__name__} makes no tokens of a prompt (it transcribes pictures, "
                f"or draws the prompt onto them), so there is no text to watch; take another model."
            )
        if self._overrides.decoder_reads_prompt and "decoder_input_ids" not in encoded:
            encoded["decoder_input_ids"] = encoded.pop("input_ids")
            encoded["decoder_attention_mask"] = encoded.pop("attention_mask")
        before = "decoder_" if self._overrides.decoder_reads_prompt else ""
        ids, mask = (encoded[f"{before}{name}"].numpy() for name in ("input_ids", "attention_mask"))
        return Batch(
            inputs=encoded,
            labels=self._labels(examples, prompts, encoded, ids, mask),
            ids=tuple(example.id for example in examples),
            prompts=tuple(prompt.replace(WORD_MARK, "") + self._overrides.prompt_end for prompt in prompts),
            tokens=tuple(row[real != 0] for row, real in zip(ids, mask, strict=True)),
        )

    def tokenize_plainly(self, text: str) -> list[int]:
        with whole_prompts(self.tokenizer):
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _has_part_for(self, modality: str) -> bool:
        return any(getattr(self.processor, part, None) is not None for part in _TAKEN_BY[modality])

    def _has_place_for(self, modality: str) -> bool:
        overrides = self._overrides
        if modality == "video" and overrides.videos_as_images:
            return True
        if modality == "image" and (overrides.adds_image or overrides.media_mask):
            return True
        return modality in self._tokens.placeholders or modality in overrides.unplaced

    @property
    def has_template(self) -> bool:
        return chat_template(self.processor or self.tokenizer) is not None

    @property
    def prompt_end(self) -> str:
        return self._overrides.prompt_end

    def with_template(self, templated: bool) -> Encoder:
        """The same encoder with or without the chat template; an AdapterError where there is none."""
        if templated and not self.has_template:
            raise AdapterError(f"{self.name} has no chat template; leave use_chat_template out")
        other = copy(self)
        other.templated = templated
        vars(other).pop("untold", None)
        return other

    def padded(self, side: str) -> Encoder:
        """The same encoder, padding on the "right" or, for a model that continues the prompts, on the "left"."""
        other = copy(self)
        other.padding_side = side
        return other

    def chat(self, turns: Sequence[tuple[str, str]]) -> str:
        """(role, content) turns through the chat template; an AdapterError where it fails, or leaves a turn out."""
        if not self.has_template:
            raise AdapterError(f"{self.name} has no chat template; leave --apply_chat_template out")
        try:
            return self._rendered(turns, {"image": math.inf})
        except Exception as error:  # a template is a program of the checkpoint's: it may raise anything
            raise AdapterError(f"{self.name}: {template_fails('a conversation', said(error))}") from error

    def prompt(self, example: Example) -> str:
        """The text of an example as the model reads it, or an ExampleError, such as of its chat template."""
        return self._marked_prompt(example).replace(WORD_MARK, "")

    def _marked_prompt(self, example: Example) -> str:
        """The same with a mark inside each word of the task's that is a special token or placeholder to the model."""
        if example.prompt is not None:
            return example.prompt
        try:
            if not self.templated:
                return raw_prompt(self.processor, example, self._overrides, self._words.marked)
            return self._rendered(example.conversation, places_of(example), self._words.marked)
        except MicroscopeError:
            raise
        except NoWordsError as error:
            raise ExampleError(example.id, str(error)) from error
        except Exception as error:  # the same
            check_template(self.name, example.media, self._rendered)
            raise ExampleError(example.id, template_fails("it", said(error))) from error

    def _rendered(
        self, turns: Sequence[tuple[str, str]], places: Mapping[str, float], mark: Callable[[str], str] = str
    ) -> str:
        return chat(self.processor or self.tokenizer, turns, places, in_parts=self.processor is not None, mark=mark)

    @cached_property
    def untold(self) -> str | None:
        """Why the template's words cannot be told from the task's in any prompt, or None; tried on a question.

        Raises an AdapterError where the template does not end, or writes without end.
        """
        template = chat_template(self.processor or self.tokenizer)
        if not self.templated or template is None:
            return None
        if too_much := template_takes_too_much(template):
            raise AdapterError(f"{self.name}: {template_fails('a question', too_much)}")
        if not getattr(self.tokenizer, "is_fast", False):
            return f"its tokenizer, {type(self.tokenizer).__name__}, does not say which characters a token stands for"
        question = Example("", "Which of them is it?\nA. one\nB. two\nAnswer:")
        try:
            prompt = self.prompt(question)
        except MicroscopeError:  # such as of a template that wants a picture; it comes up with the first example
            return None
        try:
            plain = self._own_tokens(question, prompt)
        except Exception as error:  # a tokenizer may fail in its own way where it has no offsets
            return str(error) if isinstance(error, ValueError) else said(error)
        try:
            ids = np.asarray(self._call_processor([question], [prompt])["input_ids"])
        except Exception:  # the same
            return None
        try:
            aligned(ids[label_positions(ids, np.ones_like(ids), self._tokens) == TEXT], *plain)
        except ValueError as error:  # an adapter's own process() may change the words
            return str(error)
        return None

    def _own_tokens(self, example: Example, prompt: str) -> tuple[np.ndarray, np.ndarray]:
        """The ids of a prompt's words and which of them are the task's own; a ValueError where that is unknown."""
        turns, places = example.conversation, places_of(example)
        words = str if example.prompt is not None else self._words.marked
        begins = prompt if example.prompt is None else self._rendered(turns, places)
        if not prompt.startswith(begins):
            raise ValueError("its conversation is not known")
        writer, parts = self.processor or self.tokenizer, self.processor is not None

        def marked(mark: Callable[[str], str]) -> str:
            return written(writer, turns, places, in_parts=parts, mark=lambda text: mark(words(text)))[0]

        own = own_characters(marked, begins)
        own = np.append(own, np.ones(len(prompt) - len(begins), dtype=bool))  # an answer behind it
        with whole_prompts(self.tokenizer):
            ids, own = own_tokens(self.tokenizer, prompt, own)
        words = label_positions(ids[None], np.ones_like(ids[None]), self._tokens)[0] == TEXT
        return ids[words], own[words]

    def _tell_template(
        self, examples: Sequence[Example], prompts: Sequence[str], ids: np.ndarray, labels: np.ndarray
    ) -> None:
        """Turns the labels (B, S) of words that the task did not write from text into template."""
        for row, (example, prompt) in enumerate(zip(examples, prompts, strict=True)):
            if example.prompt is not None and not example.turns:
                continue  # of lm-eval's: answered, and not measured
            words = np.flatnonzero(labels[row] == TEXT)
            try:
                own = aligned(ids[row, words], *self._own_tokens(example, prompt))
            except ValueError as error:
                cause = f"its words cannot be told from the chat template's ({error}); see use_chat_template=false"
                raise ExampleError(example.id, cause) from error
            labels[row, words[~own]] = TEMPLATE

    def _call_processor(self, examples: Sequence[Example], prompts: list[str]) -> dict[str, Any]:
        options: dict[str, Any] = {"padding": True, "padding_side": self.padding_side, "return_tensors": "pt"}
        template_writes_all = self.templated and self.processor is None
        bos = self.tokenizer.bos_token
        if template_writes_all or (bos and all(prompt.startswith(bos) for prompt in prompts)):
            options["add_special_tokens"] = False  # the template has written them already
        if self._overrides.prompt_start is not None and not self.templated:
            options["add_special_tokens"] = False
        with whole_prompts(self.tokenizer, self.processor, self.padding_side):
            return self._processed(examples, prompts, options)

    def _processed(self, examples: Sequence[Example], prompts: list[str], options: dict[str, Any]) -> dict[str, Any]:
        if self.processor is None:
            return dict(self.tokenizer(prompts, **options))
        texts: list[Any] = list(prompts)
        if mark := self._overrides.image_mark:
            texts = [in_parts(example, prompt, mark) for example, prompt in zip(examples, prompts, strict=True)]
        elif any(example.images for example in examples):
            options["images"] = [list(example.images) for example in examples]
        if videos := [video for example in examples for video in example.videos]:
            # the frames are the task's choice; a processor that would choose among them is told not to
            name = self._overrides.videos_go_by
            options[name] = [np.stack([np.asarray(frame) for frame in video]) for video in videos]
            if name == "videos":
                options |= {"do_sample_frames": False, "input_data_format": "channels_last"}
        if audios := [audio for example in examples for audio in example.audios]:
            options |= {"audio": [audio.samples for audio in audios], "sampling_rate": audios[0].sampling_rate}
        encoded = dict(self._process(text=texts, return_mm_token_type_ids=True, **options))
        encoded.pop("labels", None)  # a training target; given to a model it changes its attention mask
        return encoded

    def _labels(
        self,
        examples: Sequence[Example],
        prompts: Sequence[str],
        encoded: Mapping[str, Any],
        ids: np.ndarray,
        mask: np.ndarray,
    ) -> np.ndarray:
        types = encoded.get("mm_token_type_ids")
        labels = label_positions(ids, mask, self._tokens, None if types is None else types.numpy())
        for modality in self._overrides.unplaced:  # a placeholder that no encoder's output replaces
            labels[labels == LABELS.index(modality)] = STRUCTURE
        if self._overrides.media_mask and (marks := encoded.get(self._overrides.media_mask)) is not None:
            labels[np.asarray(marks) == 1] = IMAGE
        if self._overrides.videos_as_images:
            for row, example in enumerate(examples):
                if example.videos:
                    labels[row, labels[row] == IMAGE] = VIDEO
        if self.templated and self.untold is None:
            self._tell_template(examples, prompts, ids, labels)
        return labels
