"""Many examples, wide models, deep models: peak memory of the host and time per example of each stage of a run.

    python benchmarks/scaling.py                     # 200, 2,000 and 20,000 examples; widths 64..1024; 2..32 layers
    python benchmarks/scaling.py --only examples     # or width, or layers
    python benchmarks/scaling.py --quick             # 32 and 96 examples, two widths, two depths

The first two share a process, as in a run; the others have one each, so that their peaks are their own:

- ``capture``: a model of the LLaVA architecture with random weights on the task ``shapesqa``, into a token store;
- ``run``: the same, and then the default metrics: the peak of a whole run;
- ``check``: the checksums of the store;
- ``read``: the store's index, and every boundary read once as measuring reads it: in order, and a sample of 10,240;
- ``measure``: the default metrics on the kept store.

``peak`` is the process's highest resident memory, ``marginal`` the time that an example more takes, from the row above:
what is the same for any number of examples (imports, the model, neighbours among at most 8,192 tokens) cancels out.
Targets: peak and marginal time flat within 10 % over 200, 2,000 and 20,000 examples. Up to some 8,192 tokens of each
modality a run measures more on more tokens; from there on the work in the search for neighbours stays the same.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import write_json

STAGES = ("capture", "run", "check", "read", "measure")
EXAMPLES = (200, 2000, 20000)
WIDTHS = (64, 128, 256, 512, 1024)
DEPTHS = (2, 8, 32)
OF_SHAPES = 256
"""Examples where width or depth is varied."""


def write_checkpoint(directory: Path, width: int, n_layers: int) -> None:
    """A model of the zoo's LLaVA with a language model of another shape and random weights."""
    import torch
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    from microscope_bench.zoo.shipped import shipped_model

    zoo = shipped_model("zoo-llava")
    config = json.loads((zoo / "config.json").read_text())
    heads = max(1, width // 64)
    config["text_config"] |= {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": n_layers}
    config["text_config"] |= {"num_attention_heads": heads, "num_key_value_heads": heads, "head_dim": width // heads}
    torch.manual_seed(0)
    LlavaForConditionalGeneration(LlavaConfig(**config)).save_pretrained(directory)
    LlavaProcessor.from_pretrained(zoo).save_pretrained(directory)


def capture(checkpoint: Path, store: Path, n: int) -> float:
    """Seconds that the capture of n examples takes, without loading."""
    from microscope_bench.adapters.presets import load_model
    from microscope_bench.config import RunConfig
    from microscope_bench.run.pipeline import capture, environment_of, opened_store
    from microscope_bench.run.resolve import Stopwatch, resolve_loaded
    from microscope_bench.system.processes import ALONE
    from microscope_bench.tasks import load_task

    task = load_task("shapesqa", task_args={"n": str(n)})
    adapter = load_model("hf", {"pretrained": str(checkpoint)}, "cpu")
    begin = time.perf_counter()
    config = RunConfig(store=store, progress=False)
    run = resolve_loaded(adapter, task, config, Stopwatch())
    with opened_store(run, ALONE) as filled:
        capture(run, filled, environment_of(adapter, ["scaling.py"]))
    return time.perf_counter() - begin


def check(store: Path) -> float:
    """Seconds that the checksums take."""
    from microscope_bench.capture.store import TokenStore

    opened = TokenStore(store)
    begin = time.perf_counter()
    opened.check_complete()
    return time.perf_counter() - begin


def read(store: Path) -> float:
    """Seconds that the index takes and reading every boundary once."""
    import numpy as np
    import torch

    from microscope_bench.capture.store import TokenStore
    from microscope_bench.measure.tokens import JOINT, StoredTokens
    from microscope_bench.metrics.core.workspace import MOST_ROWS
    from microscope_bench.protocol import named_protocol

    opened = TokenStore(store)
    begin = time.perf_counter()
    tokens = StoredTokens(opened, named_protocol("geometry/1"), torch.device("cpu"))
    n = len(tokens.example)
    for layer in range(opened.manifest["run"]["identity"]["model"]["n_layers"] + 1):
        for start in range(0, n, MOST_ROWS):
            tokens.states(layer, np.arange(start, min(n, start + MOST_ROWS)))
        tokens.states(layer, tokens.sample(JOINT, 10240))
    return time.perf_counter() - begin


def measure(store: Path) -> float:
    """Seconds that the default metrics take."""
    from microscope_bench.capture.store import TokenStore
    from microscope_bench.config import RunConfig
    from microscope_bench.measure.scores import measure_tokens
    from microscope_bench.protocol import named_protocol

    opened = TokenStore(store)
    n_layers = opened.manifest["run"]["identity"]["model"]["n_layers"]
    begin = time.perf_counter()
    measure_tokens(opened, named_protocol("geometry/1"), RunConfig(device="cpu", progress=False), n_layers=n_layers)
    return time.perf_counter() - begin


def stage(name: str, checkpoint: Path, store: Path, n: int) -> None:
    """One stage, in this process, or capture and run; prints figures as JSON by stage."""
    import torch

    torch.set_num_threads(1)
    begin = time.process_time()  # that of imports and loading is in it, and cancels out in the difference of two rows
    found = {}

    def note(name: str, seconds: float) -> None:
        found[name] = {"seconds": seconds, "cpu": time.process_time() - begin, "peak_mib": peak_mib()}

    if name == "capture":
        seconds = capture(checkpoint, store, n)
        note("capture", seconds)
        note("run", seconds + measure(store))
    else:
        note(name, {"check": check, "read": read, "measure": measure}[name](store))
    print(json.dumps(found))


def peak_mib() -> float:
    """This process's highest resident memory; Linux only.

    Not ``ru_maxrss``, which begins with what the process had that started this one.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def figures(checkpoint: Path, n: int, stages: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """The stages of one run of n examples."""
    found = {}
    with tempfile.TemporaryDirectory() as directory:
        store = Path(directory) / "store"
        for name in stages:
            if name == "run":  # in the process of capture
                continue
            command = [sys.executable, __file__, "--stage", name, str(checkpoint), str(store), str(n)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"stage {name} of {n} examples failed\n{done.stderr}")
            found |= json.loads(done.stdout.splitlines()[-1])
    return {name: of_stage for name, of_stage in found.items() if name in stages}


def over_examples(counts: tuple[int, ...], stages: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows of the first table; the marginal time is against the row of fewer examples."""
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        checkpoint = Path(directory)
        write_checkpoint(checkpoint, 128, 6)
        before: dict[str, dict[str, float]] = {}
        for k, n in enumerate(counts):
            found = figures(checkpoint, n, stages)
            for name, of_stage in found.items():
                row = {"stage": name, "examples": n, **of_stage, "ms_per_example": 1e3 * of_stage["seconds"] / n}
                if k:
                    more = n - counts[k - 1]
                    row["marginal_ms"] = 1e3 * (of_stage["seconds"] - before[name]["seconds"]) / more
                    row["marginal_cpu_ms"] = 1e3 * (of_stage["cpu"] - before[name]["cpu"]) / more
                    row["peak_ratio"] = of_stage["peak_mib"] / before[name]["peak_mib"]
                rows.append(row)
            before = found
    return sorted(rows, key=lambda row: STAGES.index(row["stage"]))


def over_shapes(shapes: list[tuple[int, int]], n: int) -> list[dict[str, Any]]:
    """Rows of the second table: (width, layers) by stage."""
    rows = []
    for width, n_layers in shapes:
        with tempfile.TemporaryDirectory() as directory:
            write_checkpoint(Path(directory), width, n_layers)
            for name, found in figures(Path(directory), n, ("capture", "run", "read")).items():
                rows.append({"stage": name, "width": width, "layers": n_layers, **found})
    return sorted(rows, key=lambda row: STAGES.index(row["stage"]))


def main() -> None:
    """Measures, prints, and writes JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("examples", "width", "layers"))
    parser.add_argument("--examples", type=int, nargs="+", default=list(EXAMPLES))
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", metavar="FILE", help="write what was measured")
    parser.add_argument("--stage", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        name, checkpoint, store, n = args.stage
        stage(name, Path(checkpoint), Path(store), int(n))
        return
    measured: dict[str, Any] = {}
    if args.only in (None, "examples"):
        counts = (32, 96) if args.quick else tuple(args.examples)
        measured["examples"] = over_examples(counts, tuple(args.stages))
        print(tabulate(measured["examples"], headers="keys", floatfmt=".4g"), flush=True)
    shapes = {"width": [(width, 6) for width in WIDTHS], "layers": [(128, n_layers) for n_layers in DEPTHS]}
    for what in ("width", "layers"):
        if args.only in (None, what):
            chosen = shapes[what][:2] if args.quick else shapes[what]
            measured[what] = over_shapes(chosen, 16 if args.quick else OF_SHAPES)
            print(tabulate(measured[what], headers="keys", floatfmt=".4g"), flush=True)
    if args.json:
        write_json(args.json, measured)


if __name__ == "__main__":
    main()
