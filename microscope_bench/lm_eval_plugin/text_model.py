"""The half of the lm-eval model that answers requests in text alone, by the code of lm-eval's own class ``hf``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NoReturn

from torch import Tensor

from microscope_bench.adapters.evaluation_mode import evaluation_mode
from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.config import RunConfig
from microscope_bench.errors import AdapterError, CaptureError, MicroscopeError, said
from microscope_bench.lm_eval_plugin.documents import Document, Turns, document_of
from microscope_bench.lm_eval_plugin.geometry import Geometry
from microscope_bench.lm_eval_plugin.images import Answer, Directories
from microscope_bench.lm_eval_plugin.internals import HFLM, Instance, output_path, running
from microscope_bench.lm_eval_plugin.refused_evaluations import (
    check_images,
    check_text,
    refuse_cached_answers,
    refuse_several_answers,
)
from microscope_bench.lm_eval_plugin.text import Encoded, Generation, Scoring
from microscope_bench.tasks.lm_eval_tasks import directories_of


class TextModel(HFLM):  # type: ignore[misc]
    """lm-eval's transformers model with our adapter underneath.

    What is asked in text alone lm-eval answers itself, by the code of its class ``hf``; states are read as they go by.
    """

    # also for a model that takes no pictures: the refusal is to name the reason
    MULTIMODAL = True

    def __init__(self, adapter: HFAdapter, config: RunConfig | None, **options: Any) -> None:
        self.adapter = adapter
        self.geometry = None if config is None else Geometry(adapter, config)
        self.chat_applied = False
        self._scoring: Scoring | None = None
        self._generation: Generation | None = None
        self._documents: list[Document] = []
        self._summary: dict[str, Any] = {}
        self._directories: Directories = {}
        with evaluation_mode(adapter):  # lm-eval's own would leave it so
            super().__init__(
                pretrained=adapter.model,
                tokenizer=adapter.tokenizer,
                backend="causal",
                **self._options(adapter, options),
            )
        self.revision = adapter.info.revision

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Answer]:
        """Log-likelihood of each continuation after its context; see lm-eval's ``LM.loglikelihood``."""
        return self._answered(requests, self._score_texts, self._score_pictures, disable_tqdm)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What the model says after each context; see lm-eval's ``LM.generate_until``."""
        return self._answered(requests, self._generate_texts, self._generate_pictures, disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, by lm-eval; there is no prompt in them to measure."""
        if self.geometry is not None and requests:
            raise CaptureError(
                f"{requests[0].task_name} asks for the likelihood of whole texts (loglikelihood_rolling): there is no "
                f"prompt to measure. Load the model with geometry=false"
            )
        return list(super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as `microscope-bench run` puts it to the model; see lm-eval's ``LM.apply_chat_template``."""
        self.chat_applied = True
        turns = tuple((turn["role"], turn["content"]) for turn in chat_history)
        prompt = self.adapter.encoder.chat(turns)
        if self.geometry is not None:
            self.geometry.conversations[prompt] = turns
        return prompt

    def _turns(self, request: Instance) -> Turns:
        """Of what conversation a prompt was made, where that matters."""
        return () if self.geometry is None else self.geometry.conversations.get(str(request.args[0]), ())

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Called where answers are to come from ``--use_cache``."""
        refuse_cached_answers(geometry=self.geometry is not None)
        super().set_cache_hook(cache_hook)

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval's results say of the model, with ``microscope``: where each task's result is."""
        info: dict[str, Any] = super().get_model_info()
        info["model_sha"] = self.adapter.info.revision
        if self.geometry is not None:
            self._summary |= self.geometry.finish(output_path())
            info["microscope"] = self._summary
        return info

    def _options(self, adapter: HFAdapter, options: Mapping[str, Any]) -> dict[str, Any]:
        return {"max_length": adapter.processing.context_length, **options}

    def _answered(self, requests: list[Instance], texts: Any, pictures: Any, disable_tqdm: bool) -> list[Any]:
        """Each request answered by the half of the code that is for it, in the requests' order."""
        with_media = [len(request.args) > 2 for request in requests]
        halves: dict[bool, list[int]] = {True: [], False: []}
        for number, seen in enumerate(with_media):
            halves[seen].append(number)
        now = running()
        if now is not None:
            self.chat_applied = now.templated
            self._directories = {name: directories_of(task.config) for name, task in now.tasks.items()}
        if halves[True]:
            check_images([requests[n] for n in halves[True]], None if now is None else now.tasks)
        if self.geometry is not None:
            if halves[False]:
                check_text(self.adapter, [requests[n] for n in halves[False]])
            self.geometry.begin(requests)
            self.adapter = self.geometry.hf
        found: dict[int, Any] = {}
        for seen, answer in ((False, texts), (True, pictures)):
            if not halves[seen]:
                continue
            with evaluation_mode(self.adapter):
                found.update(zip(halves[seen], answer([requests[n] for n in halves[seen]], disable_tqdm), strict=True))
        return [found[number] for number in range(len(requests))]

    def _score_texts(self, requests: list[Instance], disable_tqdm: bool) -> list[Answer]:
        self._documents = [document_of(r) for r in requests]
        try:
            with self._failing_as_lm_eval(requests):
                scored: list[Answer] = HFLM.loglikelihood(self, requests, disable_tqdm=disable_tqdm)
        finally:
            self._scoring = None
        if self.geometry is not None:
            self.geometry.scored(requests, scored)
        return scored

    def _generate_texts(self, requests: list[Instance], disable_tqdm: bool) -> list[str]:
        if self.geometry is not None:
            documents = [document_of(r) for r in requests]
            self._generation = Generation(self.geometry, documents, [str(r.args[0]) for r in requests])
        try:
            with self._failing_as_lm_eval(requests):
                return list(HFLM.generate_until(self, requests, disable_tqdm=disable_tqdm))
        finally:
            self._generation = None

    @contextmanager
    def _failing_as_lm_eval(self, requests: list[Instance]) -> Iterator[None]:
        try:
            yield
        except MicroscopeError:
            raise
        except (TypeError, ValueError) as error:
            raise AdapterError(
                f"{self.adapter.info.name}: lm-eval's own code for text fails on {requests[0].task_name} "
                f"({said(error)}); the geometry alone comes from: microscope-bench run"
            ) from error

    def _score_pictures(self, requests: list[Instance], disable_tqdm: bool) -> NoReturn:
        raise AdapterError(
            f"{requests[0].task_name} has pictures, but {self.adapter.info.name} is a model of text alone; take a "
            f"multimodal one, or a task without pictures"
        )

    _generate_pictures = _score_pictures

    # what lm-eval's own code calls on its way: here what goes into the model is seen

    def _loglikelihood_tokens(self, requests: list[Encoded], disable_tqdm: bool = False, **options: Any) -> Any:
        if self.geometry is not None:
            self._scoring = Scoring(self.geometry, self._documents, requests, self.max_length)
        return super()._loglikelihood_tokens(requests, disable_tqdm=disable_tqdm, **options)

    def _model_call(self, inps: Tensor, **options: Any) -> Tensor:
        with self._watching(self._scoring, inps):
            logits: Tensor = super()._model_call(inps, **options)
        return logits

    def tok_batch_encode(self, strings: Iterable[str], *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """Token ids and mask of a batch of prompts, by lm-eval; how long each was before it was cut is noted."""
        strings = list(strings)
        if self._generation is not None:
            whole = super().tok_batch_encode(strings, *args, **{**options, "left_truncate_len": None})
            self._generation.encoded(strings, whole[1].sum(dim=1).tolist())
        encoded: tuple[Tensor, Tensor] = super().tok_batch_encode(strings, *args, **options)
        return encoded

    def _model_generate(self, context: Tensor, **options: Any) -> Tensor:
        refuse_several_answers(options, geometry=self._generation is not None)
        with self._watching(self._generation, context, first_pass_only=True):
            sequences: Tensor = super()._model_generate(context, **options)
        return sequences

    def _watching(
        self, finder: Scoring | Generation | None, sequences: Tensor, **options: bool
    ) -> AbstractContextManager[None]:
        if self.geometry is None or finder is None:
            return nullcontext()
        return self.geometry.capturing(None, finder.rows(sequences), **options)
