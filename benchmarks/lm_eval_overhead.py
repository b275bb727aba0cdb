"""What geometry adds to an lm-eval run: the same evaluation with and without it, in turns; prints the ratio.

    python benchmarks/lm_eval_overhead.py                   # 243 million parameters, 576 tokens a picture
    python benchmarks/lm_eval_overhead.py --model zoo-llava-next --limit 200  # 1.6 million

The time is that of ``simple_evaluate`` on a loaded model: building requests, forward passes, lm-eval's metrics, and
with geometry the capture and the measuring of the states. Nearly all of what geometry adds is measuring: it goes by
the boundaries, the width and the kept tokens (at most 8,192 in the search for neighbours), not by what a pass costs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.speed_parts.random_llava import write_checkpoint
from benchmarks.timing import write_json
from microscope_bench.lm_eval_plugin.backend import Microscope
from microscope_bench.tasks import builtin_task_dir

TEXT = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 12, "head_dim": 64}
TEXT |= {"num_attention_heads": 16, "num_key_value_heads": 16, "initializer_range": 0.02}
TOWER = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
PICTURE, PATCH = 336, 14


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a named model or a directory (default: one built for this)")
    parser.add_argument("--task", default="shapesqa")
    parser.add_argument("--limit", type=int, default=48)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--metrics", default="linearity+intrinsic_dimension+anisotropy")
    parser.add_argument("--json", metavar="FILE", help="write what was measured")
    args = parser.parse_args()
    tasks = TaskManager(include_path=str(builtin_task_dir()), include_defaults=False)

    def seconds(pretrained: str, geometry: bool) -> float:
        given = {"pretrained": pretrained, "geometry": geometry, "metrics": args.metrics}
        model = Microscope.create_from_arg_obj({**given, "batch_size": args.batch_size, "device": "cpu"})
        begin = time.perf_counter()
        simple_evaluate(
            model=model,
            tasks=[args.task],
            task_manager=tasks,
            limit=args.limit,
            apply_chat_template=True,
            bootstrap_iters=0,
        )
        return time.perf_counter() - begin

    with tempfile.TemporaryDirectory() as directory:
        pretrained = args.model or str(
            write_checkpoint(Path(directory), text=TEXT, tower=TOWER, picture=PICTURE, patch=PATCH)
        )
        plain, measured = [], []
        for number in range(args.rounds):
            plain.append(seconds(pretrained, False))
            measured.append(seconds(pretrained, True))
            print(f"round {number + 1}: {plain[-1]:.1f} s without, {measured[-1]:.1f} s with geometry", flush=True)
    ratio = statistics.median(measured) / statistics.median(plain)
    print(f"ratio of the medians: {ratio:.3f}")
    if args.json:
        given = {"model": args.model, "task": args.task, "limit": args.limit, "batch_size": args.batch_size}
        write_json(args.json, {**given, "ratio": ratio, "seconds": {"plain": plain, "with geometry": measured}})


if __name__ == "__main__":
    main()
