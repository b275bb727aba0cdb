"""The parts a result is made of: one frozen struct per section of the file, with the file's field names.

The types say what a field may hold; :mod:`~microscope_bench.results.json_schema` makes the JSON Schema of them and of
the lines under "Attributes".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct

from microscope_bench.system.field_types import Count, Finite, Label, Layer, Name, NotNegative, Sha256, Share, Text

Stream = Literal["hidden", "update", "mainflow"]
Modality = Literal["text", "image", "video", "audio", "joint"]
TokenSet = Literal["all", "no_sinks", "correct", "correct_no_sinks", "wrong", "wrong_no_sinks"]

Counts = Annotated[Mapping[Name, Count], Meta(max_length=1000)]
Names = Annotated[Mapping[Name, Text], Meta(max_length=1000)]


# what the collector would look for in half a million rows, cycles, no record can be part of
class Record(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A frozen struct that is read from a file with exactly its own fields."""


class Score(Record, frozen=True, omit_defaults=True):
    """One row: metric × estimator × stream × modality × token set × layer → value ± standard error.

    Attributes:
        metric: Name of the metric, a plug-in's too.
        estimator: How it was estimated.
        stream: What linearity maps to what; null for metrics of a single cloud.
        modality: Whose tokens; joint for all of them together.
        tokens: The token set: no_sinks leaves out massive activations; correct and wrong hold as many examples answered
            rightly and wrongly, where the run split its scores by that.
        layer: The boundary l, 0..L; of a metric between two boundaries the first of them.
        value: The value, or null with a reason.
        stderr: Its standard error (delete-a-group jackknife over folds of examples), or null.
        n_tokens: Tokens it was computed on.
        n_examples: Distinct examples among them.
        flags: Short remarks, name or name=value.
        reason: Why there is no value; null where there is one.
        replicates: The value without fold k of the examples, k = 0, 1, ..., rounded at a thousandth of the standard
            error; null where that fold holds none of the tokens, or the value without it failed. Left out where there
            is no value, with one fold, and with more than 100.
    """

    metric: Label
    estimator: Label
    stream: Stream | None
    modality: Modality
    tokens: TokenSet
    layer: Layer
    value: Finite | None
    stderr: NotNegative | None
    n_tokens: Count
    n_examples: Count
    flags: Annotated[tuple[Label, ...], Meta(max_length=100)]
    reason: Text | None
    replicates: Annotated[tuple[Finite | None, ...], Meta(max_length=100)] = ()


class SinkLayer(Record, frozen=True):
    """The sinks of one modality at one boundary.

    Attributes:
        layer: The boundary.
        n_tokens: Tokens that meet the sink rule at this very boundary.
        dimensions: Coordinates that hold more than a tenth of the squared norm of one of those tokens, the most
            frequent first, at most 16.
        top_variance_share: Share of the variance along the first principal axis of all tokens that the sinks carry;
            null where there is no variance.
    """

    layer: Layer
    n_tokens: Count
    dimensions: Annotated[tuple[Count, ...], Meta(max_length=16)]
    top_variance_share: Share | None


class Sinks(Record, frozen=True):
    """The massive-activation tokens of one modality, which the token set ``no_sinks`` leaves out.

    Attributes:
        modality: Whose tokens; joint for all of them together.
        n_tokens: Tokens kept of that modality.
        n_sinks: Those that are sinks at any boundary, and so left out of no_sinks at every boundary.
        n_examples: Distinct examples that hold a sink.
        layers: One entry per boundary; empty where there are no sinks.
    """

    modality: Modality
    n_tokens: Count
    n_sinks: Count
    n_examples: Count
    layers: Annotated[tuple[SinkLayer, ...], Meta(max_length=10_001)]


class Failure(Record, frozen=True):
    """What ended a failed run.

    Attributes:
        type: Class of the error.
        message: Its message, without directories.
        where: The stage in which it rose: capture, measure, ...
    """

    type: Name
    message: Text
    where: Name


class Skipped(Record, frozen=True):
    """An example that was not measured.

    Attributes:
        id: Its id within the task.
        reason: Why it was not measured.
    """

    id: Text
    reason: Text


class Folds(Record, frozen=True):
    """How the measured examples are divided for held-out values, standard errors and replicates.

    Attributes:
        n: Their number.
        sha256: Hash of which example, of which picture of the data set, is in which fold: equal for a model, its
            controls and other models on the same examples.
    """

    n: Annotated[int, Meta(ge=1, le=10_000)]
    sha256: Sha256


class Inputs(Record, frozen=True, omit_defaults=True):
    """What went into the model: tells a changed processor or tokenizer from a changed model.

    Attributes:
        n_examples: Examples measured.
        examples_sha256: Hash of the examples measured as the task renders them, answers and pictures included; null
            only in a failed result.
        chat_template_sha256: Hash of the chat template, or null where there is none.
        tokens_sha256: Hash of the token ids; null only in a failed result.
        media_sha256: Hash of the first pictures' tensors, or null where there are none.
        tokens_seen: Positions by label that the decoder saw: text, image, special, ...
        images_converted: Pictures of which something was changed before they were shown, by what that was.
        skipped: Examples that were not measured.
        folds: How they were divided; left out in a failed result.
        copies: Tokens by modality that were kept and not measured, because another example has the same token behind
            the same prefix, which is measured for both.
    """

    n_examples: Count
    examples_sha256: Sha256 | None
    chat_template_sha256: Sha256 | None
    tokens_sha256: Sha256 | None
    media_sha256: Sha256 | None
    tokens_seen: Counts
    images_converted: Counts
    skipped: Annotated[tuple[Skipped, ...], Meta(max_length=1_000_000)]
    folds: Folds | None = None
    copies: Counts = {}


class Environment(Record, frozen=True):
    """With what and on what it was measured. No directory and no user's name stands in it.

    Attributes:
        package_version: Version of microscope_bench.
        commit: Commit of microscope_bench where it ran from a checkout, or null.
        dirty: Whether its code differed from that commit; null without a commit.
        python: Version of Python.
        platform: Operating system and machine.
        packages: Version of each installed package that can change a number.
        device: Device of the forward passes.
        processor: Class of the processor or tokenizer, or null where the adapter does not say.
        image_processor: Class of the image processor, or null.
        command: What was run, with resolved names.
        captured_with: Where a kept token store was measured again: versions, commit and command of the run that had
            captured it; null where one run did both.
    """

    package_version: Name
    commit: Annotated[str, Meta(pattern=r"^[0-9a-f]{40,64}(?![\s\S])")] | None
    dirty: bool | None
    python: Name
    platform: Name
    packages: Annotated[Mapping[Name, Name], Meta(max_length=1000)]
    device: Name
    processor: Name | None
    image_processor: Name | None
    command: Text
    captured_with: Names | None


class Timing(Record, frozen=True):
    """When, and how long.

    Attributes:
        started_utc: Start of the run, ISO 8601 in UTC.
        seconds: Seconds per stage: load, capture, measure, total.
        peak_memory_bytes: Peak memory of the process, or null where unknown.
    """

    started_utc: Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?Z(?![\s\S])")]
    seconds: Annotated[Mapping[Name, NotNegative], Meta(max_length=100)]
    peak_memory_bytes: Count | None


class Accuracy(Record, frozen=True):
    """Share of examples answered rightly, from the same forward passes.

    Attributes:
        value: The share, or null with a reason.
        stderr: Its standard error, or null.
        n: Examples scored, or that would have been.
        reason: Why there is no value; null where there is one.
    """

    value: Share | None
    stderr: NotNegative | None
    n: Count
    reason: Text | None
