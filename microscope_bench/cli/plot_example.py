"""``microscope-bench plot-example STORE``: what no linear map explains of each token of one example."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from microscope_bench.cli.options import layers, picture
from microscope_bench.errors import MicroscopeError
from microscope_bench.system.key_values import key_values

if TYPE_CHECKING:
    from microscope_bench.adapters.base import Adapter
    from microscope_bench.figures.stores import OpenStore
    from microscope_bench.tasks import Task


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = subparsers.add_parser(
        "plot-example",
        help="draw the non-linearity of each token of one example, over its words and its picture",
        description="Draws, over the words and the picture of one example, what the linear map from a layer to the "
        "next leaves of each token. The map is fitted on all tokens of a kept store (--keep_store); the model runs "
        "once more, on the one example. Model and task are those of the run's command. Directories are cut down to a "
        "name there: where the run named one, name it again.",
    )
    parser.add_argument("store", metavar="STORE", help="token store's directory")
    parser.add_argument("--example", metavar="ID", help="default: the first that was measured")
    parser.add_argument(
        "-o",
        "--output",
        type=picture,
        default=Path("example.pdf"),
        metavar="FILE",
        help="pdf, svg or png (%(default)s)",
    )
    parser.add_argument(
        "--layers", type=layers, metavar="L,...", help="a row each, l means l to l + 1 (default: first, middle, last)"
    )
    parser.add_argument("--stream", choices=("hidden", "update"), default="hidden", help="%(default)s")
    parser.add_argument("--absolute", action="store_true", help="the norm itself, not its share of the token's norm")
    parser.add_argument("--model", metavar="NAME", help="as the run had it")
    parser.add_argument("--model_args", metavar="KEY=VALUE,...", help="as the run had them")
    parser.add_argument("--task", metavar="NAME", help="as the run had it: a name, or the path of a task YAML")
    parser.add_argument("--task_args", metavar="KEY=VALUE,...", help="as the run had them")
    parser.add_argument("--include_path", metavar="DIR", help="as the run had it")
    parser.add_argument("--device", metavar="DEVICE", help="cpu, cuda, ... (default: a GPU where there is one)")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Draws and says what was drawn."""
    from microscope_bench.figures.example_pictures import draw_example
    from microscope_bench.figures.projections import evenly
    from microscope_bench.figures.second_pass import first_example, run_again
    from microscope_bench.figures.stores import OpenStore

    opened = OpenStore.at(args.store)
    if opened.n_layers == 0:
        raise MicroscopeError(f"{opened.model} is one boundary, and a map leads from one to the next")
    drawn = sorted(set(args.layers)) if args.layers is not None else evenly(opened.n_layers - 1)
    opened.check_layers(drawn, opened.n_layers - 1)
    adapter, task = _loaded(opened, args)
    example = args.example or first_example(opened)
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
    """The model and the task of a store, as its run's command names them and as the options here do."""
    from microscope_bench.run.inputs import resolve_model, resolve_task, task_settings

    name = str(opened.run["task"]["name"])
    recorded = recorded_options(str(opened.store.manifest["about"]["environment"]["command"]))
    of_run: dict[str, Any] = {} if recorded is None else vars(recorded)
    model, task = args.model or of_run.get("model"), args.task or name
    if model is None:
        raise MicroscopeError(
            f"{args.store} was not made by `microscope-bench run`, so its model's place is not known: name it with "
            f"--model and --model_args, and the task's arguments with --task_args"
        )
    given = {key: getattr(args, key) or of_run.get(key) for key in ("model_args", "task_args", "include_path")}
    settings = task_settings(*(of_run.get(key) for key in ("num_fewshot", "system_instruction", "samples", "seed")))
    loaded = resolve_task(task, given["include_path"], key_values("--task_args", given["task_args"]), settings)
    model_args = key_values("--model_args", given["model_args"])
    return resolve_model(model, model_args, args.device, of_run.get("apply_chat_template")), loaded


class _Recorded(argparse.ArgumentParser):
    """Reads a command line without ending the program over it."""

    def error(self, message: str) -> NoReturn:
        """Raises what :func:`recorded_options` catches."""
        raise ValueError(message)


def recorded_options(command: str) -> argparse.Namespace | None:
    """The options of the ``run`` that a result or a store was made by; None where it was made by something else.

    >>> recorded_options("microscope-bench run --model zoo-llava --tasks shapesqa --task_args n=126").task_args
    'n=126'
    >>> recorded_options("torchrun --nproc_per_node=2 -m microscope_bench run --model zoo-llava --tasks shapesqa").tasks
    'shapesqa'
    >>> recorded_options("evaluate")
    """
    from microscope_bench.cli import run as run_verb

    parser: argparse.ArgumentParser = _Recorded(exit_on_error=False)
    run_verb.add_parser(parser.add_subparsers(dest="verb", required=True))
    try:
        words = shlex.split(command)
        options = parser.parse_args(words[words.index(run_verb.VERB) :])
    except (ValueError, argparse.ArgumentError):
        return None
    return options if options.model is not None and options.tasks is not None else None
