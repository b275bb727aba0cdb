"""The half of the lm-eval model that answers requests with pictures, through our adapter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from tqdm import tqdm

from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.errors import AdapterError
from microscope_bench.lm_eval_plugin import images
from microscope_bench.lm_eval_plugin.documents import Document, document_of
from microscope_bench.lm_eval_plugin.internals import (
    HFMultimodalLM,
    Instance,
    handle_stop_sequences,
    normalize_gen_kwargs,
    pictures_of,
    postprocess_generated_text,
)
from microscope_bench.lm_eval_plugin.refused_evaluations import refuse_several_answers
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
        templated, measured = self.chat_applied, self.geometry is not None
        rows = images.plan_scoring(self._encoding, requests, templated=templated, whole_prompts=measured)
        images.check_causal(self._encoding, rows, templated=templated, directories=self._directories)
        found: dict[int, images.Answer] = {}
        seen: set[Document] = set()
        bar = tqdm(total=len(requests), desc="Scoring with pictures", disable=disable_tqdm)
        for chunk in self._chunks(rows, [row.order[0] for row in rows]):
            examples = [
                images.example_of(
                    row.request,
                    templated=templated,
                    directories=self._directories,
                    continuation=row.continuation,
                    turns=self._turns(row.request),
                )
                for row in chunk
            ]
            batch = self._encoding.encode(examples)
            images.check_encoded(self._encoding, batch, chunk, examples, self.adapter.processing.context_length)
            positions = images.scored_positions(batch, chunk)
            prompts = [(n, row.document, row.n_after) for n, row in enumerate(chunk) if not row.n_melted]
            with self._capturing(batch, prompts, seen):
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
            shown = {number: bool(pictures_of(requests[number])) for number in members}
            ordered = sorted(members, key=lambda n: (shown[n], -len(requests[n].args[0])))
            for chunk in self._chunks(ordered, [shown[number] for number in ordered]):
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
        templated = self.chat_applied
        examples = [
            images.example_of(r, templated=templated, directories=self._directories, turns=self._turns(r))
            for r in requests
        ]
        batch = self._encoding.padded("left").encode(examples)
        new = int(options.pop("max_gen_toks"))
        limit = self.adapter.processing.context_length
        if limit is not None and limit <= new:
            raise AdapterError(
                f"{self.adapter.info.name}: {new} tokens of answer leave no room for a prompt in {limit}; give the "
                f"task a smaller max_gen_toks (--gen_kwargs max_gen_toks=N) or, if the model takes more, "
                f"--model_args max_length=N"
            )
        for example, length in zip(examples, batch.lengths().tolist(), strict=True):
            images.check_length(example, length, None if limit is None else limit - new)
        prompt = batch.inputs["input_ids"]
        prompts = [(row, document_of(request), 0) for row, request in enumerate(requests)]
        with self._capturing(batch, prompts, seen, first_pass_only=True):
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

    def _chunks(self, members: Sequence[Any], kinds: Sequence[bool]) -> Iterator[Sequence[Any]]:
        """Batches of members of one kind: some models compute otherwise beside a row that has pictures."""
        size = min(int(self.batch_size), self.adapter.max_batch or int(self.batch_size))
        start = 0
        while start < len(members):
            same = next((n for n in range(start, len(members)) if kinds[n] != kinds[start]), len(members))
            yield members[start : min(start + size, same)]
            start = min(start + size, same)

    def _capturing(
        self, batch: Any, prompts: Sequence[tuple[int, Document, int]], seen: set[Document], **options: bool
    ) -> AbstractContextManager[None]:
        """Watches the prompts of the documents not yet seen; each is (row, whose, tokens behind it)."""
        if self.geometry is None:
            return nullcontext()
        new = []
        for row, document, n_after in prompts:
            if document not in seen:
                seen.add(document)
                new.append((row, document, n_after))
        return self.geometry.capturing(batch, images.watched_rows(batch, new), **options)
