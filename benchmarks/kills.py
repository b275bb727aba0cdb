"""Kills a real run again and again, at random moments and at every step of its writing, and resumes it.

    python benchmarks/kills.py [--quick] [--json FILE]

Each trial is one output directory. The same ``run`` command is given in it again and again; each time SIGKILL ends its
process, at a random moment of the capture or of the measuring (drawn from the time line of an undisturbed run), or
exactly at a step of writing: half of a file written, before it is renamed, after that, before its record is there, in
the middle of the clearing away. After each kill one of the parts that are stored is damaged, gives way to another part
or to one of another store, or has its record edited and signed again. In the end the run is left alone. Another process
reads every JSON file of all output directories all the time.

Targets: every trial ends with the scores and the signature of the undisturbed run, bit for bit; no file was ever
readable that was not whole; nothing is left over but the result.

The processes are forked from one that has imported everything, so that a kill costs seconds and not a minute.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: threads do not survive a fork
os.environ["HF_HUB_OFFLINE"] = "1"

import argparse
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.kills_parts.damage import damage
from benchmarks.kills_parts.victim import Kill, Life, run
from benchmarks.kills_parts.watcher import watching
from benchmarks.timing import write_json
from microscope_bench import evaluate, load_result
from microscope_bench.results.result import Result
from microscope_bench.results.result_files import find_results

WHILE_CAPTURING = [
    "half of tensors",
    "before sync of tensors",
    "before rename of tensors",
    "after rename of tensors",
    "half of record",
    "before rename of record",
    "after rename of record",
]
AT_THE_END = [
    "half of manifest",
    "before rename of manifest",
    "after rename of manifest",
    "half of result",
    "before sync of result",
    "before rename of result",
    "after rename of result",
    "after delete of tensors",
    "before delete of manifest",
    "before delete of lock",
]
TRIALS, CAPTURES, MEASURES = 5, 18, 15
"""Trials, and kills at random moments; with one at each step above they are 50."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three kills of a short run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write what was measured")
    return parser.parse_args()


def plan(quick: bool) -> list[list[str]]:
    """Per trial the kills: an event, or a phase for a random moment of it."""
    if quick:
        return [["capture", "before rename of record", "before rename of result"]]
    trials: list[list[str]] = [[] for _ in range(TRIALS)]
    for kills in (["capture"] * CAPTURES, WHILE_CAPTURING, ["measure"] * MEASURES, AT_THE_END):
        for number, kill in enumerate(kills):
            trials[number % TRIALS].append(kill)
    return trials


def trial(command: list[str], root: Path, kills: list[str], undisturbed: Life, rng: random.Random) -> dict[str, Any]:
    """Kills a run as planned, each time damaged and resumed, and then lets it end."""
    lives: list[Life] = []
    damaged: list[str | None] = []
    n = undisturbed.captured

    def live(kill: Kill | None) -> Life:
        lives.append(run([*command, "--output_path", str(root)], kill))
        if not lives[-1].killed and lives[-1].status:
            raise RuntimeError(f"a run ended with status {lives[-1].status}; repeat it without --quiet: {command}")
        return lives[-1]

    for kill in kills:
        share = rng.random()
        while not live(_moment(kill, share, lives, undisturbed)).killed:
            share /= 2  # the machine has become faster since the undisturbed run: earlier, in a run from the beginning
        damaged.append(damage(root, root.parent.parent / "foreign/parts", rng))
    live(None)
    left = [path for path in root.rglob("*") if path.is_file() and path.suffix != ".json"] + list(root.glob(".stores"))
    return {
        "planned": kills,
        "killed": [life.place() for life in lives if life.killed],
        "damaged": damaged,
        "examples_redone": sum(life.captured for life in lives) - n * sum(life.status == 0 for life in lives),
        "left_over": [path.name for path in left],
    }


def _moment(kill: str, share: float, lives: list[Life], undisturbed: Life) -> Kill:
    """A planned kill as a moment: exactly at a step, or some share of a phase after its beginning."""
    if kill == "measure":
        return Kill(kill, share * undisturbed.seconds("measure", "end of measure"))
    if kill == "capture":
        # of what is still to be captured, so that the run is killed before that is done
        since = next((k for k in range(len(lives), 0, -1) if lives[k - 1].status == 0), 0)
        missing = 1 - sum(life.captured for life in lives[since:]) / undisturbed.captured
        return Kill(kill, share * undisturbed.seconds("capture", "measure") * max(0.0, missing))
    return Kill(kill)


def result_of(root: Path) -> Result | None:
    """The one result of an output directory."""
    files = find_results(root)
    return load_result(files[0]) if len(files) == 1 else None


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All trials."""
    rng = random.Random(options.seed)
    command = ["run", "--model", "zoo-llava-untrained", "--tasks", "shapesqa", "--batch_size", "4", "--quiet"]
    command += ["--limit", "32", "--metrics", "anisotropy"] if options.quick else ["--limit", "64"]
    with tempfile.TemporaryDirectory(prefix="microscope-bench-kills-") as name:
        directory = Path(name)
        root = directory / "outputs"
        root.mkdir()
        evaluate("zoo-llava-untrained", "shapesqa", limit=8, batch_size=4, progress=False)  # all imports
        undisturbed = run([*command, "--output_path", str(directory / "undisturbed")])
        reference = result_of(directory / "undisturbed")
        if undisturbed.status or reference is None:
            raise RuntimeError(f"the undisturbed run ended with status {undisturbed.status}")
        other = ["--tokens_per_example", "31", "--store", str(directory / "foreign"), "--keep_store"]
        run([*command, *other, "--output_path", str(directory / "other")])
        rows = []
        with watching(root, directory / "watcher.json") as watched:
            for number, kills in enumerate(plan(options.quick)):
                row = trial(command, root / str(number), kills, undisturbed, rng)
                result = result_of(root / str(number))
                row["equal"] = result is not None and (result.scores, result.signature, result.accuracy) == (
                    reference.scores,
                    reference.signature,
                    reference.accuracy,
                )
                rows.append(row)
                print(f"trial {number}: {len(row['killed'])} kills, equal: {row['equal']}", file=sys.stderr)
    return {
        "seed": options.seed,
        "examples": undisturbed.captured,
        "seconds_capture": undisturbed.seconds("capture", "measure"),
        "seconds_measure": undisturbed.seconds("measure", "end of measure"),
        "trials": rows,
        "kills": sum(len(row["killed"]) for row in rows),
        "watched": watched,
        "good": all(row["equal"] and not row["left_over"] for row in rows) and not watched["broken"],
    }


def table(measured: dict[str, Any]) -> str:
    """The trials as a table, and what the watcher saw."""
    lines = [
        "| trial | killed in | then damaged | examples done again | equal | left over |",
        "|---|---|---|---|---|---|",
    ]
    for number, row in enumerate(measured["trials"]):
        damaged = "; ".join(how or "nothing" for how in row["damaged"])
        cells = ["; ".join(row["killed"]), damaged, row["examples_redone"], "yes" if row["equal"] else "NO"]
        lines.append(f"| {number} | {' | '.join(map(str, cells))} | {', '.join(row['left_over']) or 'nothing'} |")
    watched = measured["watched"]
    lines += [
        "",
        f"{measured['kills']} kills of a run of {measured['examples']} examples (capture "
        f"{measured['seconds_capture']:.1f} s, measure {measured['seconds_measure']:.1f} s)",
        f"watcher: {watched['looks']:,} looks, {watched['files']:,} readings of JSON files, {watched['results']:,} of "
        f"results, {len(watched['broken'])} not whole",
        *watched["broken"][:5],
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    asked = arguments()
    figures = measure(asked)
    print(table(figures))
    if asked.json:
        write_json(asked.json, figures)
    sys.exit(0 if figures["good"] else 1)
