"""What makes two results comparable, made once before the first forward pass, and the line by which one is cited.

geometry/1|model:org/name@1a2b3c4d|dtype:float32|attn:sdpa|task:shapesqa@1|data:shapesqa@v1/test|n:100|tokens:32|...
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, ValidationError, convert, to_builtins

from microscope_bench.errors import MicroscopeError
from microscope_bench.protocol import Protocol, quoted
from microscope_bench.system.field_types import (
    Count,
    Layer,
    Name,
    Sha256,
    Text,
    Version,
    Width,
    content_sha256,
    place_and_rule,
)

SHORT_ID_LENGTH = 12

UNTRAINED = "-untrained"
"""What the names of the zoo's untrained twins end in."""


TemplateWords = Literal["separated", "not_told_apart"]


class ModelInfo(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which model was measured, as far as that decides whether two results may be compared.

    Attributes:
        name: What a leaderboard row shows: the hub repository, or the last part of a local path.
        repo: Hub repository as org/name; of a local directory its name alone.
        revision: Commit of the hub repository (40 hex digits), or sha256- and 16 hex digits of a directory's content,
            or of the configurations of a model in memory and of its processor behind config-; behind it +weights- and
            16 hex digits where the weights in memory are not those.
        adapter: Registered name of the adapter; behind an @ a plug-in's distribution and digits of local code.
        architecture: Model class, for instance LlavaNextForConditionalGeneration.
        dtype: Type of the hidden states, for instance bfloat16.
        quantization: Quantisation method, a hash of its settings and of the modules it met, and their number by part
            of the model and class; or null.
        attention: Attention implementation of the decoder, or null where the model does not say.
        n_layers: L, the number of blocks; there are L + 1 boundaries. 0 at tap projector.
        hidden_size: d, the width of the residual stream.
        n_parameters: Parameters of the whole model, encoders included.
        trained: False for freshly initialised weights, which every page calls untrained.
        control: Name of the deliberate change that makes this model a control, or null. Controls are never shown as
            models.
        options: Model args that can change a number and stand in no other field, as the user gave them.
        peft: Method and rank of a PEFT adapter that is applied to the model, for instance LORA-r8; left out where there
            is none.
        template: Whether the words of the chat template were told from the task's own, which alone are text, or count
            as text too; left out where prompts go through no template.
    """

    name: Name
    repo: Name
    revision: Name
    adapter: Name
    architecture: Name
    dtype: Name
    quantization: Name | None
    attention: Name | None
    n_layers: Layer
    hidden_size: Width
    n_parameters: Annotated[int, Meta(ge=1, le=10**15)]
    trained: bool
    control: Name | None
    options: Annotated[Mapping[Name, Text], Meta(max_length=100)]
    template: TemplateWords | None = None
    peft: Name | None = None


class TaskInfo(Struct, frozen=True, forbid_unknown_fields=True):
    """Which task was measured.

    Attributes:
        name: Its name.
        version: Its version; behind a + what the run changed about prompts or rows.
    """

    name: Name
    version: Name


class DatasetInfo(Struct, frozen=True, forbid_unknown_fields=True):
    """The data that the examples were rendered from.

    Attributes:
        path: Hub repository, or name of the generator or local directory.
        name: Configuration of the data set, or null.
        revision: Commit, content hash, or version of the generator.
        split: The split measured.
    """

    path: Name
    name: Name | None
    revision: Name
    split: Name


class Identity(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, dict=True):
    """Everything that decides whether two results may be compared; the signature ends with a hash of it.

    Attributes:
        protocol: The choices under which it was measured, each spelt out.
        model: The model.
        task: The task.
        dataset: The data.
        n_examples: Examples asked for, those included that are skipped.
        example_ids_sha256: Hash of their ids.
        prompt_sha256: Hash of the first of them as the task renders them, answers and pictures included.
        selection: Name and version of the rule that selected the tokens.
        metrics: Version of each metric.
        metric_code: Of each metric that another package adds, its distribution and digits of local code; left out where
            there is none.
    """

    protocol: Protocol
    model: ModelInfo
    task: TaskInfo
    dataset: DatasetInfo
    n_examples: Count
    example_ids_sha256: Sha256
    prompt_sha256: Sha256
    selection: Name
    metrics: Annotated[Mapping[Name, Version], Meta(min_length=1, max_length=1000)]
    metric_code: Annotated[Mapping[Name, Name], Meta(max_length=1000)] = {}

    @cached_property
    def hash(self) -> str:
        """64 hex digits: SHA-256 of the identity as JSON without blanks, keys sorted."""
        return content_sha256(self)

    @property
    def short_id(self) -> str:
        """The first 12 hex digits of the hash: the ``id`` at the end of a signature."""
        return self.hash[:SHORT_ID_LENGTH]

    def of_states(self) -> dict[str, Any]:
        """What of it decides the captured states, as JSON types: all but what acts when they are measured."""
        fields: dict[str, Any] = to_builtins(self)
        del fields["metrics"]
        fields.pop("metric_code", None)
        for name in ("folds", "id_tokens", "sink_rule", "max_skipped"):
            del fields["protocol"][name]
        return fields

    def signature(self, package_version: str) -> str:
        """One line without blanks that cites a result.

        It names what a reader must know to judge whether two numbers may be compared, and every deviation from the
        named protocol. It ends with the hash of the identity, so that nothing that defines comparability can differ
        between two results of one signature. Anything unusual in a name is percent-encoded.
        """
        return f"{self.protocol.label}|{self.signature_end(package_version)}"

    def signature_end(self, package_version: str) -> str:
        """The signature behind the protocol's label, whose wording hangs on the protocols that a version knows."""
        protocol, model, task, dataset = self.protocol, self.model, self.task, self.dataset
        data = f"{dataset.path}:{dataset.name}" if dataset.name else dataset.path
        parts = [
            f"model:{quoted(model.repo)}@{quoted(short_revision(model.revision))}",
            "" if model.trained else "untrained",
            f"control:{quoted(model.control)}" if model.control else "",
            *(f"{quoted(key)}={quoted(value)}" for key, value in sorted(model.options.items())),
            f"dtype:{quoted(model.dtype)}",
            f"quant:{quoted(model.quantization)}" if model.quantization else "",
            f"peft:{quoted(model.peft)}" if model.peft else "",
            f"attn:{quoted(model.attention)}" if model.attention else "",
            f"template:{model.template}" if model.template == "not_told_apart" else "",
            f"task:{quoted(task.name)}@{quoted(task.version)}",
            f"data:{quoted(data)}@{quoted(short_revision(dataset.revision))}/{quoted(dataset.split)}",
            f"n:{self.n_examples}",
            f"tokens:{protocol.tokens_per_example}",
            f"seed:{protocol.seed}",
            f"mb:{quoted(package_version)}",
            f"id:{self.short_id}",
        ]
        return "|".join(part for part in parts if part)


def checked(identity: Identity) -> Identity:
    """The same identity; a MicroscopeError where no result file can hold it, for instance an unseen character."""
    try:
        return convert(to_builtins(identity), Identity)
    except ValidationError as error:
        raise MicroscopeError(f"no result file can hold this run; {place_and_rule(error)}. Rename what is so") from None


def short_revision(revision: str) -> str:
    """A revision as people read it: 8 digits of a commit or of a content hash, any other name in full."""
    if found := re.fullmatch(r"(.+)\+(weights|peft)-([0-9a-f]+)", revision):
        of_files, change, digest = found.groups()
        return f"{short_revision(of_files)}+{change}-{digest[:8]}"
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision[:8]
    if re.fullmatch(r"(sha256|config)-[0-9a-f]+", revision):
        return revision[: len("sha256-") + 8]
    return revision


class Processing(Struct, frozen=True):
    """What makes a model's inputs of examples. It is no part of the identity: hashes of the inputs tell of a change.

    Attributes:
        processor: class name of the processor or tokenizer.
        image_processor: class name of the image processor; its PIL and torchvision variants differ slightly.
        chat_template_sha256: of the template that framed the prompt, or None where there is none.
        context_length: the longest sequence the model accepts, or None where the configuration does not say.
    """

    processor: str | None = None
    image_processor: str | None = None
    chat_template_sha256: str | None = None
    context_length: int | None = None
