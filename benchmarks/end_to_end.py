"""What a whole run costs beside the bare forward pass over the same task, and which stage takes what share of it.

    python benchmarks/end_to_end.py                                   # shapesqa: two models of the zoo, a random one
    python benchmarks/end_to_end.py --task scienceqa_img --data_dir DIR --model random --limit 64
    python benchmarks/end_to_end.py --quick                           # 32 questions, one model of the zoo
    python benchmarks/end_to_end.py --json FILE

``bare`` renders and encodes each batch of the task's examples and runs the model over it, with logits where the task
has choices: what anybody pays who only wants the answers. ``run`` is ``evaluate`` with the default metrics, on the same
loaded model and task: capture, token store, measuring, result file. In turns; the ratio is that of the medians, the
shares are those of the stages in the results' own timing. ``random`` is a LLaVA of d = 512 with 12 blocks and 256
tokens a picture; the zoo's models are tiny (d = 128, 6 blocks), and measuring is nearly all of a run of theirs.

Target: the whole run at most 1.25 times ``bare`` where a GPU runs a large model over the full ScienceQA image split
(``gpu.py`` extrapolates it). On a CPU there is none: this says what it is.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.speed_parts.passes import bare_pass
from benchmarks.speed_parts.random_llava import text_shape, tower_shape, write_checkpoint
from benchmarks.timing import interleaved, write_json
from microscope_bench import evaluate
from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.adapters.presets import load_model
from microscope_bench.results.result import Result
from microscope_bench.tasks import load_task

STAGES = ("capture", "measure")


def bare(adapter: Any, task: Any, limit: int, batch_size: int) -> None:
    """The model's answers alone: examples rendered, encoded and passed through it."""
    for start in range(0, limit, batch_size):
        examples = [task.example(index) for index in range(start, min(start + batch_size, limit))]
        scored = any(example.has_short_choices for example in examples)
        logits = bare_pass(adapter, adapter.encode(examples), logits=scored)
        if logits is not None:
            logits.argmax(dim=-1).tolist()


def measured(adapter: Any, task: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of both, their ratio, and the stages' shares of the run."""
    limit = min(args.limit, len(task))
    results: list[Result] = []

    def whole() -> None:
        with tempfile.TemporaryDirectory() as directory:
            results.append(
                evaluate(
                    adapter,
                    task,
                    limit=limit,
                    batch_size=args.batch_size,
                    device=args.device,
                    output_path=directory,
                    progress=False,
                )
            )

    ways = {"bare": lambda: bare(adapter, task, limit, args.batch_size), "run": whole}
    bare(adapter, task, min(limit, args.batch_size), args.batch_size)  # first passes make what later ones find
    seconds = interleaved(ways, args.rounds)
    stages = {name: statistics.median(result.timing.seconds[name] for result in results) for name in STAGES}
    median = {name: statistics.median(times) for name, times in seconds.items()}
    rounds = [a / b for a, b in zip(seconds["run"], seconds["bare"], strict=True)]
    return {
        "model": adapter.info.name,
        "examples": limit,
        "seconds": seconds,
        "ratio": median["run"] / median["bare"],
        "least": min(rounds),
        "greatest": max(rounds),
        "capture_to_bare": stages["capture"] / median["bare"],
        "measure_to_capture": stages["measure"] / stages["capture"],
        "stage_seconds": {**stages, "rest": median["run"] - sum(stages.values())},
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="comma-separated: names, directories, or random")
    parser.add_argument("--task", default="shapesqa")
    parser.add_argument("--data_dir", help="where the task's data lie, if it is read from a directory")
    parser.add_argument("--limit", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="32 questions, zoo-llava, one round")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.limit, args.rounds = min(args.limit, 32), 1
    names = (args.model or ("zoo-llava" if args.quick else "zoo-llava,zoo-llava-next,random")).split(",")
    task_args = {"data_dir": args.data_dir} if args.data_dir else {}
    if args.task == "shapesqa":  # which makes as many questions as it is asked for
        task_args["n"] = str(args.limit)
    task = load_task(args.task, task_args=task_args)
    found = []
    with tempfile.TemporaryDirectory() as directory:
        for name in names:
            if name == "random":
                checkpoint = write_checkpoint(
                    Path(directory) / "random",
                    text=text_shape(512, 12),
                    tower=tower_shape(256, 4),
                    picture=224,
                    patch=14,
                )
                adapter: Any = HFAdapter.load({"pretrained": str(checkpoint)}, device=args.device)
            elif Path(name).is_dir():
                adapter = HFAdapter.load({"pretrained": name}, device=args.device)
            else:
                adapter = load_model(name, {}, args.device)
            found.append(measured(adapter, task, args))
            print(f"{name}: run {found[-1]['ratio']:.2f} times bare", flush=True)
    rows = []
    for row in found:
        total = sum(row["stage_seconds"].values())
        shares = [f"{row['stage_seconds'][name] / total:.0%}" for name in (*STAGES, "rest")]
        ratio = (f"{row['ratio']:.2f}", f"{row['least']:.2f} to {row['greatest']:.2f}", f"{row['capture_to_bare']:.2f}")
        of_capture = f"{row['measure_to_capture']:.2f}"
        rows.append(
            (
                row["model"],
                row["examples"],
                f"{statistics.median(row['seconds']['bare']):.1f}",
                *ratio,
                of_capture,
                *shares,
            )
        )
    heads = (
        "model",
        "examples",
        "bare, s",
        "run / bare",
        "rounds",
        "capture / bare",
        "measure / capture",
        *STAGES,
        "rest",
    )
    print(tabulate(rows, heads, disable_numparse=True))
    print(f"{args.task}, batches of {args.batch_size}, {args.device}; {torch.get_num_threads()} threads")
    if args.json:
        write_json(
            args.json, {"benchmark": "end_to_end", "task": args.task, "batch_size": args.batch_size, "runs": found}
        )


if __name__ == "__main__":
    main()
