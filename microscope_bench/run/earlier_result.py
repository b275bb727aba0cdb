"""Whether the result of a run is there before the run begins."""

from __future__ import annotations

from pathlib import Path

from msgspec import structs

from microscope_bench.capture.failing_examples import render_example
from microscope_bench.capture.fingerprints import example_sha256
from microscope_bench.errors import ExampleError
from microscope_bench.results.result import Result
from microscope_bench.results.result_files import result_of_identity
from microscope_bench.run.pipeline import environment_of
from microscope_bench.run.resolve import Resolved
from microscope_bench.run.result_building import lines_sha256


def earlier_result(resolved: Resolved) -> tuple[Path, Result] | None:
    """The complete result below ``output_path`` of this very run, which would give the same again; else None.

    Beside the identity all must agree that a number can depend on: software and device, the examples as the task
    renders them now, what the processor makes of them. A run that skipped examples may do better now, and code that
    was edited since its commit has no name: both are measured again, and so is a run whose token store is asked for.
    Of an adapter of one's own nobody knows by what it tokenizes: it is measured again, too.
    """
    config = resolved.config
    own_code = "@" in resolved.identity.model.adapter
    if config.output_path is None or config.keep_store or config.store is not None or own_code:
        return None
    found = result_of_identity(config.output_path, resolved.identity)
    if found is None:
        return None
    there, here = found[1], environment_of(resolved.adapter, found[1].environment.command)
    same_inputs = (
        not there.inputs.skipped
        and there.inputs.media_sha256 == resolved.probed.media_sha256
        and there.inputs.chat_template_sha256 == resolved.adapter.processing.chat_template_sha256
    )
    # measured again from a store is measured all the same, but with software of two times
    same_software = not here.dirty and there.environment == structs.replace(here, captured_with=None)
    return found if same_software and same_inputs and there.inputs.examples_sha256 == _examples(resolved) else None


def _examples(resolved: Resolved) -> str | None:
    """What a result calls ``examples_sha256``, of the examples as they are now; None where one does not render."""
    source = resolved.source
    rows = sorted(range(resolved.n_examples), key=lambda row: source.ids[row])
    try:
        return lines_sha256(example_sha256(render_example(source, row)) for row in rows)
    except ExampleError:
        return None
