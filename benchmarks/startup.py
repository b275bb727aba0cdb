"""How long it takes until something happens: the command line, the imports, a run up to its first forward pass.

    python benchmarks/startup.py                # five rounds
    python benchmarks/startup.py --quick        # one, without the run

Each row is a process of its own, all in turn; shown is the least wall time and the least processor time of the rounds.
On a machine that others use too, processor time is the one to read. Targets: ``--help`` 0.3 s, ``ls`` 1 s, and
``import microscope_bench`` without torch, which ``tests/test_startup.py`` holds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import write_json

FIRST_PASS = """\
import os, sys, tempfile
from microscope_bench.cli.main import collect_rarely, main

collect_rarely()  # as main does before torch is imported
import torch

class FirstPass(BaseException):
    pass

def stop(*_):
    raise FirstPass

torch.nn.modules.module.register_module_forward_pre_hook(stop)
with tempfile.TemporaryDirectory() as folder:
    try:
        main("run --model zoo-llava --tasks shapesqa --limit 8 --device cpu --output_path".split() + [folder])
    except FirstPass:
        print(*sys.modules, flush=True)
        os._exit(0)
sys.exit("no forward pass was made")
"""

# what any program that runs a LLaVA of transformers imports
LEAST = """from microscope_bench.cli.main import collect_rarely

collect_rarely()
import torch
from transformers import LlavaForConditionalGeneration, LlavaProcessor
"""

PROCESSES = {
    "python -c pass": ["-c", "pass"],
    "import microscope_bench": ["-c", "import microscope_bench"],
    "--help": ["-m", "microscope_bench.cli.main", "--help"],
    **{f"ls {what}": ["-m", "microscope_bench.cli.main", "ls", what] for what in ("models", "tasks", "metrics")},
    **{f"import {name}": ["-c", f"import {name}"] for name in ("numpy", "torch", "transformers", "datasets")},
    "import lm_eval.tasks": ["-c", "import lm_eval.tasks"],
    "import torch and the LLaVA class": ["-c", LEAST],
    "run, up to the first forward pass": ["-c", FIRST_PASS],
}
TARGETS = {"--help": 0.3, **dict.fromkeys(("ls models", "ls tasks", "ls metrics"), 1.0)}


def seconds(arguments: list[str]) -> tuple[float, float]:
    """Seconds of wall time and of processor time that one Python process takes.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    # an installed package has its bytecode beside it
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before, begin = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True, env=environment)
    wall, after = time.perf_counter() - begin, os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, spent


def main() -> None:
    """Measures, prints, and writes JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round, without the run")
    parser.add_argument("--json", metavar="FILE", help="write what was measured")
    args = parser.parse_args()
    chosen = [name for name in PROCESSES if not (args.quick and name.startswith("run"))]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in chosen}
    for _ in range(1 if args.quick else args.rounds):
        for name in chosen:
            found[name].append(seconds(PROCESSES[name]))
    least = {name: {"wall": min(w for w, _ in taken), "cpu": min(c for _, c in taken)} for name, taken in found.items()}
    rows = [(name, f"{s['wall']:.2f}", f"{s['cpu']:.2f}", TARGETS.get(name, "")) for name, s in least.items()]
    print(tabulate(rows, headers=["", "wall s", "processor s", "target s"]))
    if args.json:
        write_json(args.json, {"startup": least})


if __name__ == "__main__":
    main()
