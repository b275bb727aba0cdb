"""``microscope-lm-eval``: lm-eval's own command line with the model ``microscope`` and the tasks of this package."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Sequence

from microscope_bench.errors import MicroscopeError
from microscope_bench.system.safe_output import safe_output
from microscope_bench.tasks import builtin_task_dir


def main(argv: Sequence[str] | None = None) -> int:
    """Runs lm-eval's command line; what lm-eval prints is made printable too, and never ends a run."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    with safe_output():
        _show_what_is_measured()
        try:
            import microscope_bench.lm_eval_plugin.backend  # noqa: F401  registers the model
            from microscope_bench.lm_eval_plugin.internals import cli_evaluate

            before, sys.argv = sys.argv, ["lm_eval", *with_our_tasks(arguments)]
            try:
                cli_evaluate()
            finally:
                sys.argv = before
        except MicroscopeError as error:
            print(f"microscope-lm-eval: {error}", file=sys.stderr)
            return 2
        except Exception:  # here, where what is printed is made printable
            traceback.print_exc()
            return 1
        return 0


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
