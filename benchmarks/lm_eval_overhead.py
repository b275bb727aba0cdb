"""What geometry adds to an lm-eval run: the same evaluation with and without it, in turns; prints the ratio.

    python benchmarks/lm_eval_overhead.py [--model zoo-llava-next] [--task shapesqa] [--limit 200] [--rounds 3]

The time is the processor's, in ``simple_evaluate`` on a loaded model: building requests, forward passes, lm-eval's
metrics, and with geometry the capture and the measuring of the states.
"""

from __future__ import annotations

import argparse
import statistics
import time

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from microscope_bench.lm_eval_plugin.backend import Microscope
from microscope_bench.tasks import builtin_task_dir


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="zoo-llava-next")
    parser.add_argument("--task", default="shapesqa")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--metrics", default="linearity+intrinsic_dimension+anisotropy")
    args = parser.parse_args()
    tasks = TaskManager(include_path=str(builtin_task_dir()), include_defaults=False)

    def seconds(geometry: bool) -> float:
        given = {"pretrained": args.model, "geometry": geometry, "metrics": args.metrics}
        model = Microscope.create_from_arg_obj({**given, "batch_size": args.batch_size, "device": "cpu"})
        begin = time.process_time()
        simple_evaluate(
            model=model,
            tasks=[args.task],
            task_manager=tasks,
            limit=args.limit,
            apply_chat_template=True,
            bootstrap_iters=0,
        )
        return time.process_time() - begin

    plain, measured = [], []
    for number in range(args.rounds):
        plain.append(seconds(False))
        measured.append(seconds(True))
        print(f"round {number + 1}: {plain[-1]:.1f} s without, {measured[-1]:.1f} s with geometry (CPU time)")
    print(f"ratio of the medians: {statistics.median(measured) / statistics.median(plain):.2f}")


if __name__ == "__main__":
    main()
