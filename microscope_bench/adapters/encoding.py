"""Turns examples into tensors and labels, by a checkpoint's own processor or tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any

import numpy as np

from microscope_bench.adapters.base import IMAGE, LABELS, STRUCTURE, TEMPLATE, TEXT, VIDEO, Batch
from microscope_bench.adapters.media_tokens import find_media_tokens, label_positions
from microscope_bench.adapters.overrides import Overrides
from microscope_bench.adapters.prompting import chat, chat_template, check_placeholders, raw_prompt
from microscope_bench.adapters.refused_examples import check_sound, refuse_what_the_model_lacks
from microscope_bench.adapters.template_words import aligned, own_characters, own_tokens
from microscope_bench.errors import AdapterError, ExampleError, first_line
from microscope_bench.example import Example

_TAKEN_BY = {
    "image": ("image_processor",),
    "video": ("video_processor",),
    "audio": ("feature_extractor", "audio_processor"),
}
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
        self.templated = self.has_template
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
        prepared = [modality for modality in _TAKEN_BY if self._has_part_for(modality)]
        placed = [modality for modality in prepared if self._has_place_for(modality)]
        unknown = {modality: _NO_PLACE.format(modality) for modality in prepared if modality not in placed}
        self.lacks = {**unknown, **overrides.lacks}
        self.padding_side = "right"
        self.untold = self._why_untold()
        self.modalities = frozenset({"text", *placed}) - self.lacks.keys()

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """One batch, padded on :attr:`padding_side`, with all of the processor's outputs, not yet on a device."""
        refuse_what_the_model_lacks(self.title, self.modalities, self.lacks, self._overrides, examples)
        for example in examples:
            if example.prompt is None:
                check_placeholders(example, self.modalities)
            check_sound(self.name, self.processor, self._overrides, example)
        prompts = [self.prompt(example) for example in examples]
        try:
            encoded = self._call_processor(examples, prompts)
        except Exception as error:  # processors raise whatever their image library does
            if len(examples) == 1:
                raise ExampleError(
                    examples[0].id, f"{type(error).__name__} in the processor: {first_line(error)}"
                ) from error
            for example in examples:
                self([example])  # raises for the one at fault
            raise AdapterError(
                f"{self.name}: its processor takes these {len(examples)} examples one by one but not together "
                f"({type(error).__name__}: {first_line(error)}). Use --batch_size 1."
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
            prompts=tuple(prompt + self._overrides.prompt_end for prompt in prompts),
            tokens=tuple(row[real != 0] for row, real in zip(ids, mask, strict=True)),
        )

    def tokenize_plainly(self, text: str) -> list[int]:
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
        other.untold = other._why_untold()
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
        with self._template_errors("a conversation"):
            return chat(self.processor or self.tokenizer, turns, ("image",), in_parts=self.processor is not None)

    def prompt(self, example: Example) -> str:
        """The text of an example as the model reads it, or an AdapterError from its chat template."""
        if example.prompt is not None:
            return example.prompt
        if not self.templated:
            return raw_prompt(self.processor, example, self._overrides)
        with self._template_errors(f"example {example.id}"):
            return self._rendered(example.conversation, example.media)

    def _rendered(
        self, turns: Sequence[tuple[str, str]], modalities: Iterable[str], mark: Callable[[str], str] = str
    ) -> str:
        in_parts = self.processor is not None
        return chat(self.processor or self.tokenizer, turns, modalities, in_parts=in_parts, mark=mark)

    def _why_untold(self) -> str | None:
        """Why the template's words cannot be told from the task's in any prompt, or None; tried on a question."""
        if not self.templated:
            return None
        if not getattr(self.tokenizer, "is_fast", False):
            return f"its tokenizer, {type(self.tokenizer).__name__}, does not say which characters a token stands for"
        question = Example("", "Which of them is it?\nA. one\nB. two\nAnswer:")
        try:
            prompt = self.prompt(question)
        except AdapterError:  # such as of a template that wants a picture; it comes up with the first example
            return None
        try:
            plain = self._own_tokens(question, prompt)
        except Exception as error:  # a tokenizer may fail in its own way where it has no offsets
            return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {first_line(error)}"
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
        modalities = example.media if example.prompt is None else ("image",)
        begins = prompt if example.prompt is None else self._rendered(example.conversation, modalities)
        if not prompt.startswith(begins):
            raise ValueError("its conversation is not known")
        own = own_characters(lambda mark: self._rendered(example.conversation, modalities, mark), begins)
        own = np.append(own, np.ones(len(prompt) - len(begins), dtype=bool))  # an answer behind it
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

    @contextmanager
    def _template_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a template is a program of the checkpoint's: it may raise anything
            raise AdapterError(
                f"{self.name}: its chat template cannot render {what} "
                f"({type(error).__name__}: {first_line(error)}). Repair chat_template.jinja in the checkpoint, or do "
                f"without it: --model_args ...,use_chat_template=false"
            ) from error

    def _call_processor(self, examples: Sequence[Example], prompts: list[str]) -> dict[str, Any]:
        options: dict[str, Any] = {"padding": True, "padding_side": self.padding_side, "return_tensors": "pt"}
        template_writes_all = self.templated and self.processor is None
        bos = self.tokenizer.bos_token
        if template_writes_all or (bos and all(prompt.startswith(bos) for prompt in prompts)):
            options["add_special_tokens"] = False  # the template has written them already
        if self._overrides.prompt_start is not None and not self.templated:
            options["add_special_tokens"] = False
        if self.processor is None:
            return dict(self.tokenizer(prompts, **options))
        texts: list[Any] = list(prompts)
        if mark := self._overrides.image_mark:
            texts = [_in_parts(example, prompt, mark) for example, prompt in zip(examples, prompts, strict=True)]
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


def _in_parts(example: Example, prompt: str, mark: str) -> list[Any]:
    """The texts and pictures of an example as one list, each picture where its mark stands in the prompt."""
    first, *rest = prompt.split(mark)
    parts = [first, *(part for pair in zip(example.images, rest, strict=True) for part in pair)]
    return [part for part in parts if part != ""]
