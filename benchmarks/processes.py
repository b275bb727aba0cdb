"""Two processes against one that is given all their cores: the same run, in turns; prints the ratios.

    python benchmarks/processes.py                    # two models, three rounds, some minutes
    python benchmarks/processes.py --processes 4      # four processes of one thread against one of four
    python benchmarks/processes.py --quick            # one small model, one round, under a minute

The command is what a user gives: ``microscope-bench run``, or the same under ``torchrun``, from the start of the
interpreter to the end. Of each of its stages the seconds are those that the result tells, which for several processes
are those of the first; what is left is the start of the processes and their end. Figures are the minimum of the rounds.

Target: two processes on two cores are no slower than one process with both, ratio at most 1. ``torchrun`` itself takes
a few seconds to start, which a run of a few seconds does not win back: a run of minutes is what it is for.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from tabulate import tabulate

from benchmarks.speed_parts.random_llava import text_shape, write_checkpoint
from benchmarks.timing import interleaved, write_json

STAGES = ("load", "capture", "measure")
BLOCKS, WIDTH = 12, 512
PICTURE, PATCH = 112, 14


def runner(
    options: list[str], processes: int, threads: int, directory: Path, stages: list[dict[str, float]]
) -> Callable[[], None]:
    """A function that gives the command once and notes what its stages took."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "microscope_bench", "run", *options, "--output_path", str(directory)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}

    def run() -> None:
        shutil.rmtree(directory, ignore_errors=True)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(done.stderr)
        (file,) = (file for file in directory.rglob("*.json") if not file.parent.name.startswith("."))
        stages.append(json.loads(file.read_text())["timing"]["seconds"])

    return run


def compare(options: list[str], processes: int, rounds: int, directory: Path) -> dict[str, Any]:
    """Seconds of one process and of several, and their ratio, stage by stage."""
    stages: dict[str, list[dict[str, float]]] = {"one": [], "several": []}
    seconds = interleaved(
        {
            "one": runner(options, 1, processes, directory / "one", stages["one"]),
            "several": runner(options, processes, 1, directory / "several", stages["several"]),
        },
        rounds,
    )
    found = {}
    for stage in (*STAGES, "command"):
        both = {
            name: min(seconds[name] if stage == "command" else [each[stage] for each in stages[name]])
            for name in stages
        }
        found[stage] = both | {"ratio": both["several"] / both["one"]}
    return found


def main(argv: list[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--questions", type=int, default=128)
    parser.add_argument("--only", choices=("zoo", "random"), help="one of the two models")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args(argv)
    questions, rounds = (16, 1) if args.quick else (args.questions, args.rounds)
    common = ["--tasks", "shapesqa", "--limit", str(questions), "--batch_size", "8", "--quiet"]
    if args.quick:
        common += ["--metrics", "anisotropy"]
    measured = {}
    with tempfile.TemporaryDirectory() as temporary:
        models = {} if args.only == "random" else {"zoo-llava-next": ["--model", "zoo-llava-next"]}
        if args.only != "zoo" and not args.quick:
            checkpoint = write_checkpoint(
                Path(temporary) / "checkpoint", text=text_shape(WIDTH, BLOCKS), tower={}, picture=PICTURE, patch=PATCH
            )
            models[f"random, {BLOCKS} blocks of {WIDTH}"] = [
                "--model",
                "hf",
                "--model_args",
                f"pretrained={checkpoint}",
            ]
        for name, options in models.items():
            print(f"{name} ...", file=sys.stderr)
            measured[name] = compare([*options, *common], args.processes, rounds, Path(temporary))
    rows = [
        (name, stage, f"{each['one']:.1f}", f"{each['several']:.1f}", f"{each['ratio']:.2f}")
        for name, stages in measured.items()
        for stage, each in stages.items()
    ]
    n = args.processes
    print(tabulate(rows, ["model", "stage", f"one process, {n} threads: s", f"{n} processes: s", "ratio"]))
    if args.json:
        write_json(args.json, {"processes": n, "questions": questions, "rounds": rounds, "models": measured})


if __name__ == "__main__":
    main()
