"""A leaderboard of a thousand results: how long it takes and how much memory.

Writes a tree of result files in the size that `run` writes them (the metrics of a default run, all modalities, every
token set) into a temporary directory and makes each form of the leaderboard from it, each in a process of its own.

    python benchmarks/results_tree.py [--results 1000] [--layers 6]

Prints seconds of wall time, of processor time in all processes, and the peak of resident memory of the largest one.
The two targets are for 1,000 files as small as those of the zoo (6 layers): 5 s and 500 MB.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from msgspec.structs import replace

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import write_json
from microscope_bench.results.records import Score
from microscope_bench.results.result import Result, load_result
from microscope_bench.results.result_files import result_path

REPOSITORY = Path(__file__).resolve().parent.parent
TEMPLATE = REPOSITORY / "results/zoo-llava/sha256-9fd3683a3ee8ad34/shapesqa.json"
FORMS = ("markdown", "html", "csv")

_MEASURED = """\
import json, resource, sys, time
started = time.perf_counter()
from microscope_bench.cli.main import main
status = main(sys.argv[1:])
wall = time.perf_counter() - started
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
cpu = sum(usage.ru_utime + usage.ru_stime for usage in used)
print(json.dumps([status, wall, cpu, max(usage.ru_maxrss for usage in used) / 1024]))
"""


def write_tree(root: Path, n_results: int, n_layers: int) -> int:
    """Writes result files, no two alike; returns the rows of one."""
    template = load_result(TEMPLATE)
    draw = random.Random(0)
    for number in range(n_results):
        result = _variant(template, number, n_layers, draw)
        result.save(result_path(root, result))
    return len(result.scores)


def _variant(template: Result, number: int, n_layers: int, draw: random.Random) -> Result:
    """The template as another model of another depth: every layer beyond the template's repeats one of its own."""
    own = template.identity.model.n_layers
    name = f"model-{number:04d}"
    model = replace(template.identity.model, name=name, repo=f"org/{name}", n_layers=n_layers)
    by_layer: dict[int, list[Score]] = {}
    for score in template.scores:
        by_layer.setdefault(score.layer, []).append(score)
    scores = [
        replace(score, layer=layer, value=None if score.value is None else score.value * draw.uniform(0.9, 1))
        for layer in range(n_layers + 1)
        for score in by_layer[own if layer == n_layers else layer % own]
    ]
    return replace(template, identity=replace(template.identity, model=model), scores=tuple(scores)).signed()


def measure(root: Path, form: str) -> tuple[float, float, float]:
    """Seconds of wall time and of processor time, and peak MiB, of one `leaderboard` in a process of its own."""
    page = root.parent / f"page.{form}"
    command = [sys.executable, "-c", _MEASURED, "leaderboard", str(root), "-o", str(page), "--format", form]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    status, wall, cpu, memory = json.loads(done.stdout.splitlines()[-1])
    if status != 0:
        raise SystemExit(f"{form}: exit status {status}\n{done.stderr}")
    return wall, cpu, memory


def main() -> None:
    """Writes the tree, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=int, default=1000)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--json", metavar="FILE", help="write what was measured")
    args = parser.parse_args()
    forms = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "results"
        started = time.perf_counter()
        rows = write_tree(root, args.results, args.layers)
        size = sum(path.stat().st_size for path in root.rglob("*.json")) / 1e6
        written = time.perf_counter() - started
        print(f"{args.results} files of {rows} scores, {size:.0f} MB, written in {written:.0f} s")
        for form in FORMS:
            wall, cpu, memory = measure(root, form)
            forms[form] = {"seconds": wall, "processor_seconds": cpu, "peak_mib": memory}
            print(f"{form:9s} {wall:6.1f} s  {cpu:6.1f} s of processor time  {memory:6.0f} MiB")
    if args.json:
        write_json(args.json, {"results": args.results, "layers": args.layers, "forms": forms})


if __name__ == "__main__":
    main()
