"""``microscope-bench ls models|tasks|metrics|protocols|controls|stores``: what there is. Imports no torch."""

from __future__ import annotations

import argparse
import os

from microscope_bench.errors import MicroscopeError, unknown_name


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describes the verb and its options."""
    parser.add_argument("what", choices=list(LISTS))
    parser.add_argument("--include_path", metavar="DIR", help="directory with further task YAMLs (for tasks)")
    parser.add_argument("--fusion", metavar="CLASS", help="only models that meet media in this way (for models)")
    parser.add_argument(
        "--output_path", default="results", metavar="DIR", help="results directory (for stores; %(default)s)"
    )
    parser.add_argument("--all", action="store_true", help="list lm-eval's own tasks too (takes seconds)")


def run(args: argparse.Namespace) -> int:
    """Prints the list."""
    if args.fusion is not None and args.what != "models":
        raise MicroscopeError(f"--fusion chooses among models; `ls {args.what}` has none")
    from tabulate import tabulate

    from microscope_bench.system.printable import printable

    rows, headers = LISTS[args.what](args)
    print(tabulate([list(map(printable, row)) for row in rows], headers=headers, tablefmt="simple"))
    if args.what == "stores":
        hint = "The command of a run goes on with its store. To give one up: rm -r STORE"
        print(f"\n{hint}" if rows else f"no token stores in {args.output_path}; name another --output_path")
    return 0


Listing = tuple[list[list[str]], list[str]]


def _models(args: argparse.Namespace) -> Listing:
    from microscope_bench.adapters.overrides import FUSIONS
    from microscope_bench.adapters.presets import ADAPTERS, MODELS

    if args.fusion is not None and args.fusion not in FUSIONS:
        raise unknown_name("fusion", args.fusion, list(FUSIONS))
    presets = [preset for preset in MODELS.values() if args.fusion in (None, preset.fusion)]
    rows = []
    for preset in presets:
        known = preset.published
        facts = ["", "", "", "", ""]
        if known is not None:
            facts = [
                known.base,
                f"{known.parameters:g} B",
                known.licence,
                known.dtype,
                "gated" if known.gated else "open",
            ]
        rows.append([preset.name, preset.fusion, *facts, preset.description])
    if args.fusion is None:
        what = "an adapter: say which checkpoint with --model_args pretrained=..."
        rows += [[name, "", "", "", "", "", "", what] for name in ADAPTERS if name not in MODELS]
    headers = ["model", "fusion", "base language model", "size", "licence", "stored in", "access", "what it is"]
    return rows, headers


def _tasks(args: argparse.Namespace) -> Listing:
    from microscope_bench.tasks import list_groups, list_tasks

    listings = list_tasks(args.include_path, everything=args.all)
    listings += list_groups(args.include_path, everything=args.all)
    rows = [[task.name, f"BROKEN: {task.error}" if task.error else task.description] for task in listings]
    return rows, ["task", "what it asks"]


def _metrics(args: argparse.Namespace) -> Listing:
    from microscope_bench.metrics.registry import METRICS

    metrics = [METRICS.get(name) for name in METRICS]
    rows = [[m.name, str(m.version), ", ".join(m.estimators), m.unit, m.explanation] for m in metrics]
    return rows, ["metric", "version", "estimators", "unit", "what it says"]


def _protocols(args: argparse.Namespace) -> Listing:
    from microscope_bench.protocol import PROTOCOLS

    rows = [
        [p.name, ", ".join(f"{key}={value}" for key, value in p.as_dict().items() if key != "name")]
        for p in PROTOCOLS.values()
    ]
    return rows, ["protocol", "choices"]


def _controls(args: argparse.Namespace) -> Listing:
    from microscope_bench.controls import CONTROLS

    return [[control.name, control.description] for control in CONTROLS.values()], ["control", "what is measured"]


def _stores(args: argparse.Namespace) -> Listing:
    from microscope_bench.capture.listing import StoreListing, list_stores

    if not os.path.isdir(args.output_path):
        raise MicroscopeError(f"{args.output_path} is no directory; --output_path names that of the results")

    def note(store: StoreListing) -> str:
        if store.in_use:
            return "in use"
        return "" if store.n_examples else "its manifest is missing or damaged: no run goes on with it"

    rows = [
        [
            str(store.path),
            store.model or "?",
            store.task or "?",
            f"{store.captured} of {store.n_examples or '?'}",
            f"{store.n_bytes / 1e6:,.1f} MB",
            store.written.strftime("%Y-%m-%d %H:%M UTC"),
            note(store),
        ]
        for store in list_stores(args.output_path)
    ]
    return rows, ["store", "model", "task", "examples", "size", "last written", ""]


LISTS = {
    "models": _models,
    "tasks": _tasks,
    "metrics": _metrics,
    "protocols": _protocols,
    "controls": _controls,
    "stores": _stores,
}
