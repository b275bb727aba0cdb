"""``microscope-bench VERB ...``: parses, calls the verb, and turns errors into one message and an exit status."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence

from microscope_bench import __version__
from microscope_bench.cli import (
    check,
    cite,
    compare,
    leaderboard,
    ls,
    measure,
    plot,
    plot_example,
    plot_tokens,
    report,
    run,
    validate,
)
from microscope_bench.errors import MicroscopeError
from microscope_bench.publish.escape import printable_lines
from microscope_bench.system import signals
from microscope_bench.system.processes import launched

VERBS = (run, measure, ls, check, validate, leaderboard, compare, report, plot, plot_tokens, plot_example, cite)

EXIT_STATUS = """\
exit status: 0 done; 1 the answer is no (a check failed, a file is invalid, a leaderboard is stale, a result drifted);
2 it could not be done (wrong arguments, bad input, no space; of several runs: one failed, and the others are done);
130 interrupted (SIGINT), 143 terminated (SIGTERM): what was captured is kept, give the command again to resume"""


def build_parser() -> argparse.ArgumentParser:
    """The parser with all verbs."""
    parser = argparse.ArgumentParser(
        prog="microscope-bench",
        description="Measures the geometry inside multimodal LLMs, per decoder layer and per modality.",
        epilog=EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"microscope-bench {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in VERBS:
        verb.add_parser(verbs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; see ``microscope-bench --help``.

    Returns:
        0 done; 1 the answer is no; 2 it could not be done; 130 or 143: a signal ended it, 128 + its number.
    """
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        processes = launched()
    except MicroscopeError as error:
        print(f"microscope-bench: {printable_lines(error)}", file=sys.stderr)
        return 2
    args.command = processes.command(sys.argv[1:] if argv is None else argv)
    # of several processes that do the same, one tells what they do; each tells what goes wrong
    logging.getLogger("microscope_bench").setLevel(logging.INFO if processes.is_first else logging.ERROR)
    name = f"microscope-bench{processes.label}"
    try:
        with signals.handled():
            status = int(args.func(args))
            sys.stdout.flush()  # here, where a reader that has gone away is expected
            return status
    except MicroscopeError as error:
        if args.debug:
            raise
        print(f"{name}:", *map(printable_lines, (error, *getattr(error, "__notes__", ()))), file=sys.stderr)
        return 2
    except BrokenPipeError:
        # the reader of our output (head, less) has gone; there is nobody left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        # a defect, of ours or of a user's adapter or task: the place matters more than manners, and the status is not 1
        traceback.print_exc()
        print(f"{name}: unexpected error; what was captured is kept", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, signals.Stopped) else signal.SIGINT
        how = "terminated" if number == signal.SIGTERM else "interrupted"
        place = f" --output_path {args.output_path}" if getattr(args, "output_path", None) else ""
        print(
            f"\n{name}: {how}; what was captured is kept, the same command resumes (to give it up: "
            f"microscope-bench ls stores{place})",
            file=sys.stderr,
        )
        return 128 + number


if __name__ == "__main__":
    sys.exit(main())
