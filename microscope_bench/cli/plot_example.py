"""``microscope-bench plot-example STORE``: what no linear map explains of each token of one example."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from microscope_bench.cli.options import add_config_options, names, picture
from microscope_bench.config import RunConfig
from microscope_bench.errors import MicroscopeError, StoreError
from microscope_bench.system.key_values import whole

if TYPE_CHECKING:
    from microscope_bench.adapters.base import Adapter
    from microscope_bench.figures.open_store import OpenStore
    from microscope_bench.tasks import Task

FROM_RUN = ("model_args", "task_args", "include_path", "device")
"""Fields of a run's config that may be given in place of the run's."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describes the verb and its options."""
    parser.description = (
        "Draws, over the words and the picture of one example, what the linear map from a layer to the "
        "next leaves of each token. The map is fitted on all tokens of a kept store (--keep_store); the model runs "
        "once more, on the one example. Model, task and their arguments are those of the run, where "
        "none are given here."
    )
    parser.add_argument("kept", metavar="STORE", help="token store's directory")
    parser.add_argument("--example", metavar="ID", help="default: the first that was measured")
    into = "pdf, svg or png (%(default)s)"
    parser.add_argument("-o", "--output", type=picture, default=Path("example.pdf"), metavar="FILE", help=into)
    parser.add_argument(
        "--layers", type=names, metavar="L,...", help="a row each, l means l to l + 1 (default: first, middle, last)"
    )
    parser.add_argument("--stream", choices=("hidden", "update"), default="hidden", help="%(default)s")
    parser.add_argument("--absolute", action="store_true", help="the norm itself, not its share of the token's norm")
    parser.add_argument("--model", metavar="NAME", help="default: that of the run")
    parser.add_argument("--task", metavar="NAME", help="default: that of the run; a name, or the path of a task YAML")
    add_config_options(parser, FROM_RUN)


def run(args: argparse.Namespace) -> int:
    """Draws and says what was drawn."""
    from microscope_bench.figures.example_pictures import draw_example
    from microscope_bench.figures.example_rerun import run_again
    from microscope_bench.figures.open_store import OpenStore

    opened = OpenStore.at(args.kept)
    if opened.n_layers == 0:
        raise MicroscopeError(f"{opened.model} is one boundary, and a map leads from one to the next")
    last = opened.n_layers - 1
    wanted = (0, round(last / 2), last) if args.layers is None else [whole("--layers", text) for text in args.layers]
    drawn = sorted(set(wanted))
    for layer in drawn:
        if not 0 <= layer <= last:
            raise StoreError(f"{opened.model} has layers 0 to {last} to draw here, not {layer}")
    adapter, task = _loaded(opened, args)
    example = args.example or next(record.id for record in opened.store.records if record.skipped is None)
    boundaries = {boundary for layer in drawn for boundary in (layer, layer + 1)}
    rerun = run_again(opened, adapter, task, example, boundaries)
    try:
        draw_example(opened, rerun, args.output, layers=drawn, stream=args.stream, relative=not args.absolute)
    except OSError as error:
        raise MicroscopeError(f"{args.output} cannot be written ({error.strerror or error})") from error
    print(f"{opened.model}, example {example}: {len(rerun.labels)} positions")
    print(f"wrote {args.output}")
    return 0


def _loaded(opened: OpenStore, args: argparse.Namespace) -> tuple[Adapter, Task]:
    """The model and the task of a store, as its run names them and as the options here do."""
    from microscope_bench.run.resolve import load_adapter_for, load_task_for

    about = opened.store.manifest["about"]
    model, task = args.model or about["model"], args.task or opened.identity.task.name
    if model is None:
        raise MicroscopeError(
            f"{args.kept} was made of a model that was loaded already, so that its place is not known: name it with "
            f"--model and --model_args"
        )
    given = {name: value for name, value in vars(args).items() if name in FROM_RUN}
    config = replace(RunConfig(**about["config"]), **given)
    return load_adapter_for(model, config), load_task_for(task, config)
