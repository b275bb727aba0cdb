"""``microscope-lm-eval``: lm-eval's own command line with the model ``microscope`` and the tasks of this package."""

from __future__ import annotations

import logging
import sys
import traceback
from argparse import ArgumentParser
from collections.abc import Sequence
from traceback import walk_tb

from microscope_bench.errors import MicroscopeError, said
from microscope_bench.system.processes import collect_rarely, spin_briefly
from microscope_bench.system.safe_output import safe_output
from microscope_bench.tasks import builtin_task_dir
from microscope_bench.tasks.task_files import refuse_beyond_bounds


def main(argv: Sequence[str] | None = None) -> int:
    """Runs lm-eval's command line; what lm-eval prints is made printable too, and never ends a run."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    spin_briefly()
    collect_rarely()
    with safe_output():
        _show_what_is_measured()
        try:
            import microscope_bench.lm_eval_plugin.backend  # noqa: F401  registers the model
            from microscope_bench.lm_eval_plugin.internals import cli_evaluate

            options = ArgumentParser(add_help=False, allow_abbrev=False)
            options.add_argument("--include_path", action="append", default=[])
            for directory in options.parse_known_args(arguments)[0].include_path:
                refuse_beyond_bounds(directory)
            before, sys.argv = sys.argv, ["lm_eval", *with_our_tasks(arguments)]
            try:
                cli_evaluate()
            finally:
                sys.argv = before
        except MicroscopeError as error:
            print(f"microscope-lm-eval: {error}", file=sys.stderr)
            return 2
        except Exception as error:  # here, where what is printed is made printable
            if (sentence := failing_row(error)) is None:
                traceback.print_exc()
                return 1
            print(f"microscope-lm-eval: {sentence}", file=sys.stderr)
            return 2
        return 0


def failing_row(error: BaseException) -> str | None:
    """One sentence for what a task's own field raises while lm-eval renders or scores a row; None for anything else."""
    document, rendering = "", None
    for frame, _ in walk_tb(error.__traceback__):
        name, seen = frame.f_code.co_name, dict(frame.f_locals)
        if "doc_id" in seen:
            document = f", document {seen['doc_id']}"
        if (
            rendering is None
            and name.startswith(("doc_to_", "process_results"))
            and hasattr(seen.get("self"), "config")
        ):
            rendering = seen["self"].config.task, name
    if rendering is None:
        return None
    task, field = rendering
    unknown = field == "process_results" and "NoneType" in str(error)
    why = " (the row has no right answer)" if unknown else ""
    return f"{task}{document}: {field} fails{why}: {said(error)}. Mend the task, or leave the row out with --samples"


def with_our_tasks(arguments: Sequence[str]) -> list[str]:
    """The command line with ``--include_path`` of this package's tasks, where it names none.

    >>> with_our_tasks(["ls", "--help"])
    ['ls', '--help']
    """
    options = {argument.split("=")[0] for argument in arguments}
    if not options & {"--tasks", "-t"} or options & {"--include_path", "--config", "-C"}:
        return list(arguments)
    return [*arguments, "--include_path", str(builtin_task_dir())]


def _show_what_is_measured() -> None:
    """Prints what this package logs, apart from lm-eval's own log."""
    log = logging.getLogger("microscope_bench")
    if not log.handlers:
        log.addHandler(logging.StreamHandler(sys.stderr))
    log.setLevel(logging.INFO)
    log.propagate = False


if __name__ == "__main__":
    sys.exit(main())
