"""``microscope-bench VERB ...``: parses, calls the verb, and turns errors into one message and an exit status."""

from __future__ import annotations

import argparse
import importlib
import logging
import signal
import sys
import traceback
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from microscope_bench import __version__
from microscope_bench.errors import MicroscopeError
from microscope_bench.system import signals
from microscope_bench.system.processes import collect_rarely, launched, spin_briefly
from microscope_bench.system.safe_output import safe_output

VERBS = {
    "run": "measure models on tasks",
    "flow": "tell what flows where in models, by attention knockout",
    "measure": "measure a kept token store again, without the model",
    "ls": "list models, tasks, metrics, protocols, controls or token stores",
    "new": "write the beginning of an adapter or of a task of your own",
    "check": "prove that an adapter labels and captures a model correctly",
    "validate": "check result files against the schema, their checksum, and what a run can write",
    "leaderboard": "make leaderboard.md, or .html, .tex, .csv, .json, from a directory of results",
    "compare": "hold results against baselines: drift in either direction",
    "difference": "test whether two models differ on the same examples: paired p-values",
    "report": "one HTML page of results: curves over depth, tables, warnings, where the numbers come from",
    "plot": "draw metrics over depth, for a look or for a paper",
    "plot-example": "draw the non-linearity of each token of one example, over its words and its picture",
    "cite": "how to cite results: a sentence, BibTeX, a LaTeX table",
}
"""Verb → one line of help. Each has a module here, of which only that of the verb in use is imported."""

EXIT_STATUS = """\
exit status: 0 done; 1 the answer is no (a check failed, a file is invalid, a leaderboard is stale, a result drifted,
hidden states are not finite);
2 it could not be done (wrong arguments, bad input, no space; of several runs: one failed, and the others are done);
130 interrupted (SIGINT), 143 terminated (SIGTERM): what was captured is kept, give the command again to resume"""


UNRECOGNIZED = "unrecognized arguments:"
CAPTURING = ("run", "measure")
"""Verbs that leave a token store, from which the same command goes on."""


class _Parser(argparse.ArgumentParser):
    """Names, with every mistake, the options that it does not have and what may be meant."""

    _given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._given = list(args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        # what follows a verb is for the parser of the verb to know
        own = () if self._subparsers else self._given
        given = [argument.partition("=")[0] for argument in own if argument.startswith("--")]
        known = self._option_string_actions
        strange = [name for name in given if not any(option.startswith(name) for option in known)]
        if strange and not message.startswith(UNRECOGNIZED):
            message += f"; {UNRECOGNIZED} {' '.join(strange)}"
        super().error(message + _meant(strange, known))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += _meant([str(value)], action.choices or ())
            raise


def _meant(strange: Iterable[str], known: Iterable[str]) -> str:
    near = [name for given in strange for name in get_close_matches(given, list(known), n=1)]
    return f". Did you mean {' and '.join(near)}?" if near else ""


def build_parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser with all verbs, and the options of the one that the arguments name."""
    parser = _Parser(
        prog="microscope-bench",
        description="Measures the geometry inside multimodal LLMs, per decoder layer and per modality.",
        epilog=EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"microscope-bench {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    named = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, what_it_does in VERBS.items():
        verb = verbs.add_parser(name, help=what_it_does)
        if name == named:
            module = importlib.import_module(f"microscope_bench.cli.{name.replace('-', '_')}")
            module.add_options(verb)
            verb.set_defaults(func=module.run, parser=verb)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; see ``microscope-bench --help``.

    Returns:
        0 done; 1 the answer is no; 2 it could not be done; 130 or 143: a signal ended it, 128 + its number.
    """
    spin_briefly()
    collect_rarely()
    with safe_output() as out:
        arguments = list(sys.argv[1:] if argv is None else argv)
        parser = build_parser(arguments)
        if any("\0" in argument for argument in arguments):  # of a program's call; no shell can give one
            parser.error("an argument holds a NUL character, which no path and no name has")
        args, unknown = parser.parse_known_args(arguments)
        if unknown:
            args.parser.error(f"{UNRECOGNIZED} {' '.join(unknown)}")
        status = _run(args)
        out.flush()
        if out.lost and status == 0 and _answer_is_printed(args):
            print(f"microscope-bench: standard output did not take all of it ({out.lost})", file=sys.stderr)
            return 2
        return status


def _answer_is_printed(args: argparse.Namespace) -> bool:
    """Whether what a verb gives is the text that it prints, and neither a file nor the exit status."""
    spread = getattr(args, "spread", False)
    return (args.verb in ("ls", "cite", "difference") or spread) and getattr(args, "output", None) is None


def _run(args: argparse.Namespace) -> int:
    try:
        processes = launched()
    except MicroscopeError as error:
        print(f"microscope-bench: {error}", file=sys.stderr)
        return 2
    # of several processes that do the same, one tells what they do; each tells what goes wrong
    quiet = not getattr(args, "progress", True)
    tells = processes.is_first and not quiet
    logging.basicConfig(level=logging.ERROR if quiet else logging.WARNING, format="%(message)s", stream=sys.stderr)
    log = logging.getLogger("microscope_bench")
    level = log.level
    log.setLevel(logging.INFO if tells else logging.ERROR)
    name = f"microscope-bench{processes.label}"
    try:
        with signals.handled():
            return int(args.func(args))
    except MicroscopeError as error:
        if args.debug:
            traceback.print_exc()
        print(f"{name}:", error, *getattr(error, "__notes__", ()), file=sys.stderr)
        return 2
    except Exception:
        # a defect, of ours or of a user's adapter or task: the place matters more than manners, and the status is not 1
        traceback.print_exc()
        kept = "; what was captured is kept" if args.verb in CAPTURING else ""
        print(f"{name}: unexpected error{kept}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, signals.Stopped) else signal.SIGINT
        how = "terminated" if number == signal.SIGTERM else "interrupted"
        place = f" --output_path {args.output_path}" if getattr(args, "output_path", None) else ""
        kept = (
            f"; what was captured is kept, the same command resumes (to give it up: microscope-bench ls stores{place})"
        )
        print(f"\n{name}: {how}{kept if args.verb in CAPTURING else ''}", file=sys.stderr)
        return 128 + number
    finally:
        log.setLevel(level)  # a program that calls this goes on


if __name__ == "__main__":
    sys.exit(main())
