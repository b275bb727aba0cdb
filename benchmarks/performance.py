"""docs/performance.md from what the speed scripts printed and measured.

    python benchmarks/performance.py --run                     # all of them, one after the other: about an hour
    python benchmarks/performance.py --run capture startup     # these again
    python benchmarks/performance.py --write docs/performance.md [--check]

``--run`` keeps each script's output and figures in benchmarks/figures/NAME.json, with the machine they were measured
on. The page shows the output as it was printed; its prose stands in performance_parts/page.md, and its first table
holds the figures against the targets. With ``--check`` nothing is written; exit status 1 if the page is not what the
figures make it.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.performance_parts.targets import target_table
from benchmarks.timing import write_json

ROOT = Path(__file__).resolve().parents[1]
FIGURES = Path(__file__).parent / "figures"
PROSE = Path(__file__).parent / "performance_parts" / "page.md"

SCRIPTS = {
    "startup": "startup.py",
    "kills": "kills.py",
    "metrics": "metrics.py --shapes 4096x1024,4096x4096 --repeats 1",
    "capture": "capture.py",
    "processes": "processes.py --only zoo --questions 256 --rounds 2",
    "end_to_end": "end_to_end.py --model zoo-llava,zoo-llava-next --rounds 2",
    "zoo_stages": "end_to_end.py --model zoo-llava-next --limit 1008 --rounds 1",
    "real_stages": "end_to_end.py --model build/real/smollm2-llava --task scienceqa_img "
    "--data_dir ../shared/data/scienceqa --limit 167 --rounds 1",
    "wide": "measure_time.py --boundaries 2 --width 4096 --tokens 16384 --metrics default --lineage",
    "lm_eval_overhead": "lm_eval_overhead.py --model zoo-llava-next --limit 200",
    "results_tree": "results_tree.py",
    "scaling": "scaling.py",
}
"""Name of the figures → the script and its arguments."""

ONE_THREAD = {"capture", "end_to_end", "scaling", "kills", "lm_eval_overhead"}
"""Scripts whose processes get one thread each; the others say themselves how many they use."""


def run(name: str) -> None:
    """Runs one script and keeps what it printed and measured."""
    command = f"python benchmarks/{SCRIPTS[name]}"
    print(f"$ {command}", flush=True)
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    environment |= {"OMP_NUM_THREADS": "1"} if name in ONE_THREAD else {}
    with tempfile.TemporaryDirectory() as directory:
        figures = Path(directory) / "figures.json"
        done = subprocess.run(
            [sys.executable, *shlex.split(command)[1:], "--json", str(figures)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        measured = json.loads(figures.read_text())
    print(done.stdout, flush=True)
    FIGURES.mkdir(exist_ok=True)
    write_json(FIGURES / f"{name}.json", {**measured, "command": command, "output": done.stdout.splitlines()})


def render() -> str:
    """The page as markdown."""
    found = {name: json.loads((FIGURES / f"{name}.json").read_text()) for name in SCRIPTS}

    def printed(name: str) -> str:
        """What a script was called with, and what it said."""
        return "\n".join(["```", f"$ {found[name]['command']}", *found[name]["output"], "```"])

    page = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)  # markdown
    return page.from_string(PROSE.read_text(encoding="utf-8")).render(
        printed=printed, machines=machines(found), targets=target_table(found), **found
    )


def machines(found: dict[str, Any]) -> str:
    """Where and when it was measured."""
    processors = sorted({each["machine"]["processor"] for each in found.values()})
    dates = sorted({each["machine"]["date"] for each in found.values()})
    days = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    packages = found["capture"]["machine"]["packages"]
    versions = ", ".join(f"{name} {packages[name]}" for name in ("torch", "transformers", "numpy") if name in packages)
    return f"{' and '.join(processors)}, two cores of a shared machine, no GPU; {versions}; {days}"


def main() -> int:
    """Runs scripts, or writes or checks the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs="*", choices=SCRIPTS, metavar="NAME", help=", ".join(SCRIPTS))
    parser.add_argument("--write", type=Path, metavar="PAGE", help="the page")
    parser.add_argument("--check", action="store_true", help="compare the page with what it should be")
    arguments = parser.parse_args()
    if arguments.check and arguments.write is None:
        parser.error("--check needs --write PAGE, the page to compare")
    if arguments.run is not None:
        for name in arguments.run or SCRIPTS:
            run(name)
    if arguments.write is not None:
        text = render()
        if arguments.check:
            fresh = arguments.write.is_file() and arguments.write.read_text(encoding="utf-8") == text
            print(f"{arguments.write} is {'up to date' if fresh else 'stale'}")
            return 0 if fresh else 1
        arguments.write.write_text(text, encoding="utf-8")
        print(f"wrote {arguments.write}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
