"""What geometry adds to an lm-eval run: the same evaluation with and without it, in turns; the ratio and its parts.

    python benchmarks/lm_eval_overhead.py                   # 243 million parameters, 576 tokens a picture
    python benchmarks/lm_eval_overhead.py --model zoo-llava-next --limit 200  # 1.6 million

The time is that of ``simple_evaluate`` on a loaded model: building requests, forward passes, lm-eval's metrics, and
with geometry the capture and the measuring of the states. Nearly all of what geometry adds is measuring: it goes by
the boundaries, the width and the kept tokens (at most 8,192 in the search for neighbours), not by what a pass costs.

The parts are in processor time, each without those inside it, so that their sum is what geometry adds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.speed_parts.random_llava import write_checkpoint
from benchmarks.timing import write_json
from microscope_bench.adapters.encoding import Encoder
from microscope_bench.capture.states import BatchStates
from microscope_bench.lm_eval_plugin import recorder
from microscope_bench.lm_eval_plugin.backend import Microscope
from microscope_bench.lm_eval_plugin.documents import Documents
from microscope_bench.lm_eval_plugin.geometry import Geometry
from microscope_bench.tasks import builtin_task_dir

TEXT = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 12, "head_dim": 64}
TEXT |= {"num_attention_heads": 16, "num_key_value_heads": 16, "initializer_range": 0.02}
TOWER = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
PICTURE, PATCH = 336, 14

PARTS: dict[str, tuple[Any, str]] = {
    "the run's identity": (Geometry, "begin"),
    "documents rendered as examples": (Documents, "example"),
    "the template's words told apart": (Encoder, "_tell_template"),
    "states read in the pass": (BatchStates, "keep_boundary"),
    "states stored": (recorder.TaskRecorder, "take"),
    "measured": (recorder, "measure"),
    "written": (recorder, "write"),
    "the rest of the result": (Geometry, "finish"),
}
"""Part → where the function is that does it."""


class ProcessorTime(ExitStack):
    """Inside, the seconds of processor time in functions, each without those in the others that it calls."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._within: list[float] = []
        for part, (owner, name) in PARTS.items():
            self.enter_context(patch.object(owner, name, self._timed(part, getattr(owner, name))))

    def _timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def timed(*args: Any, **options: Any) -> Any:
            begin = time.process_time()
            self._within.append(0.0)
            try:
                return function(*args, **options)
            finally:
                spent = time.process_time() - begin
                self.seconds[part] += spent - self._within.pop()
                if self._within:
                    self._within[-1] += spent

        return timed


def evaluate(pretrained: str, args: argparse.Namespace, *, geometry: bool) -> tuple[float, float]:
    """Seconds of wall time and of processor time that lm-eval takes."""
    tasks = TaskManager(include_path=str(builtin_task_dir()), include_defaults=False)
    given = {"pretrained": pretrained, "geometry": geometry, "metrics": args.metrics}
    model = Microscope.create_from_arg_obj({**given, "batch_size": args.batch_size, "device": "cpu"})
    begin, begin_processor = time.perf_counter(), time.process_time()
    simple_evaluate(
        model=model,
        tasks=[args.task],
        task_manager=tasks,
        limit=args.limit,
        apply_chat_template=True,
        bootstrap_iters=0,
    )
    return time.perf_counter() - begin, time.process_time() - begin_processor


def main() -> None:
    """Measures, prints, and writes JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a named model or a directory (default: one built for this)")
    parser.add_argument("--task", default="shapesqa")
    parser.add_argument("--limit", type=int, default=48)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--metrics", default="linearity+intrinsic_dimension+anisotropy")
    parser.add_argument("--json", metavar="FILE", help="write what was measured")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, ProcessorTime() as of_parts:
        pretrained = args.model or str(
            write_checkpoint(Path(directory), text=TEXT, tower=TOWER, picture=PICTURE, patch=PATCH)
        )
        plain, measured = [], []
        for number in range(args.rounds):
            plain.append(evaluate(pretrained, args, geometry=False))
            measured.append(evaluate(pretrained, args, geometry=True))
            print(
                f"round {number + 1}: {plain[-1][0]:.1f} s without, {measured[-1][0]:.1f} s with geometry; "
                f"{plain[-1][1]:.1f} and {measured[-1][1]:.1f} s of processor time",
                flush=True,
            )
    bare, bare_processor = (statistics.median(column) for column in zip(*plain, strict=True))
    whole, whole_processor = (statistics.median(column) for column in zip(*measured, strict=True))
    parts = {part: spent / args.rounds for part, spent in of_parts.seconds.items()}
    rows = [(part, f"{spent:.2f}", f"{spent / bare_processor:.3f}") for part, spent in parts.items()]
    print(tabulate(rows, headers=["what geometry adds", "processor s", "of the run without"]))
    print(f"ratio of the medians: {whole / bare:.3f}, of processor time {whole_processor / bare_processor:.3f}")
    if args.json:
        given = {"model": args.model, "task": args.task, "limit": args.limit, "batch_size": args.batch_size}
        found = {"ratio": whole / bare, "processor_ratio": whole_processor / bare_processor, "processor_seconds": parts}
        wall = {"plain": [w for w, _ in plain], "with geometry": [w for w, _ in measured]}
        write_json(args.json, {**given, **found, "seconds": wall})


if __name__ == "__main__":
    main()
