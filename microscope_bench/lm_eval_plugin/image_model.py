"""The half of the lm-eval model that answers requests with pictures, through our adapter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from tqdm import tqdm

from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.lm_eval_plugin import images
from microscope_bench.lm_eval_plugin.geometry import Document, document_of
from microscope_bench.lm_eval_plugin.internals import (
    HFMultimodalLM,
    Instance,
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from microscope_bench.lm_eval_plugin.refusals import refuse_several_answers
from microscope_bench.lm_eval_plugin.text_model import TextModel


class ImageModel(TextModel, HFMultimodalLM):  # type: ignore[misc]
    """The same for a multimodal model: what shows pictures goes through our adapter, text alone as before."""

    def _options(self, adapter: HFAdapter, options: Mapping[str, Any]) -> dict[str, Any]:
        # lm-eval would look for an image token that only its own encoding of pictures needs
        return {
            **super()._options(adapter, options),
            "image_string": str(getattr(adapter.processor, "image_token", "-")),
        }

    def _create_tokenizer(self, *args: Any, **options: Any) -> None:
        self.processor, self.tokenizer = self.adapter.processor, self.adapter.tokenizer

    def _score_pictures(self, requests: list[Instance], disable_tqdm: bool) -> Any:
        rows = images.plan_scoring(self._encoding, requests, templated=self.chat_applied)
        images.check_causal(self._encoding, rows)
        found: dict[int, images.Answer] = {}
        seen: set[Document] = set()
        bar = tqdm(total=len(requests), desc="Scoring with pictures", disable=disable_tqdm)
        for chunk in self._chunks(rows):
            batch = self._encoding.encode([row.example for row in chunk])
            images.check_encoded(self._encoding, batch, chunk, self.adapter.info.context_length)
            positions = images.scored_positions(batch, chunk)
            with self._capturing(batch, [(row.document, row.n_after) for row in chunk], seen):
                logits = self._encoding.logits_at(batch, positions)
            found.update(images.answers(batch, chunk, positions, logits))
            bar.update(sum(len(row.asked) for row in chunk))
        bar.close()
        scored = [found[number] for number in range(len(requests))]
        for request, answer in zip(requests, scored, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        if self.geometry is not None:
            self.geometry.scored(requests, scored)
        return scored

    def _generate_pictures(self, requests: list[Instance], disable_tqdm: bool) -> Any:
        by_options: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            by_options.setdefault(repr(request.args[1]), []).append(number)
        said: dict[int, str] = {}
        seen: set[Document] = set()
        bar = tqdm(total=len(requests), desc="Generating with pictures", disable=disable_tqdm)
        for members in by_options.values():
            longest_first = sorted(members, key=lambda n: -len(requests[n].args[0]))
            for chunk in self._chunks(longest_first):
                asked = [requests[n] for n in chunk]
                said.update(zip(chunk, self._generate_batch(asked, seen), strict=True))
                bar.update(len(chunk))
        bar.close()
        for number, request in enumerate(requests):
            self.cache_hook.add_partial("generate_until", request.args, said[number])
        return [said[number] for number in range(len(requests))]

    def _generate_batch(self, requests: Sequence[Instance], seen: set[Document]) -> list[str]:
        """What the model says to a batch of requests with the same options."""
        options = dict(normalize_gen_kwargs(dict(requests[0].args[1]), self.max_gen_toks))
        refuse_several_answers(options, geometry=self.geometry is not None)
        end = self.eot_token_id
        eos = None if end is None else self.tok_decode([end], skip_special_tokens=False)
        until = handle_stop_sequences(options.pop("until", None), eos=eos)
        examples = [images.example_of(request, templated=self.chat_applied) for request in requests]
        batch = self._encoding.padded("left").encode(examples)
        new = int(options.pop("max_gen_toks"))
        limit = self.adapter.info.context_length
        for example, length in zip(examples, batch.lengths().tolist(), strict=True):
            images.check_length(example, length, None if limit is None else limit - new)
        prompt = batch.inputs["input_ids"]
        documents = [(document_of(request), 0) for request in requests]
        with self._capturing(batch, documents, seen, first_pass_only=True):
            options["max_length"] = prompt.shape[1] + new
            output = self._model_multimodal_generate(batch.inputs, stop=until, **options)
        # some models return the prompt with the answer, some the answer alone
        if output.shape[1] >= prompt.shape[1] and bool((output[:, : prompt.shape[1]] == prompt).all()):
            output = output[:, prompt.shape[1] :]
        return [postprocess_generated_text(self.tok_decode(row), until, None) for row in output.tolist()]

    @property
    def _encoding(self) -> HFAdapter:
        """The adapter, its prompts as lm-eval wants them."""
        if self.adapter.encoder.templated != self.chat_applied:
            self.adapter = self.adapter.with_template(self.chat_applied)
        return self.adapter

    def _chunks(self, members: Sequence[Any]) -> Iterable[Sequence[Any]]:
        size = min(int(self.batch_size), self.adapter.max_batch or int(self.batch_size))
        return (members[start : start + size] for start in range(0, len(members), size))

    def _capturing(
        self, batch: Any, prompts: Sequence[tuple[Document, int]], seen: set[Document], **options: bool
    ) -> AbstractContextManager[None]:
        """Watches the prompts of the documents not yet seen."""
        if self.geometry is None:
            return nullcontext()
        new = []
        for row, (document, n_after) in enumerate(prompts):
            if document not in seen and self.geometry.measures(document):
                seen.add(document)
                new.append((row, document, n_after))
        return self.geometry.capturing(batch, images.watched_rows(batch, new), **options)
