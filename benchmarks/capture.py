"""What the capture adds to a forward pass, against the pass alone and against ``output_hidden_states=True``.

    python benchmarks/capture.py                  # d = 512, 12 blocks, batches of 8, 256 tokens a picture
    python benchmarks/capture.py --quick          # the same at a tenth of the size, in seconds
    python benchmarks/capture.py --json FILE

A LLaVA with random weights reads questions as long as ScienceQA's, with a picture each. In turns, on the same batches:

- ``bare``: the forward pass, ended after the last block, as the capture ends it; nothing is kept.
- ``capture``: ``Capture.fill`` on the batches encoded beforehand: hooks, selection, copies, records, hashes, and the
  parts of the token store on disk, flushed and checksummed.
- ``all states``: ``output_hidden_states=True``, every state of every position copied to the host and let go of.

The same with encoding in front: ``bare + encoding`` and ``capture + encoding``. The ratio is that of the medians;
beside it the least and the greatest of the rounds' own ratios, and the ratio of the processor seconds of the whole
process, all threads together, which what else runs on the machine hardly touches. Target: ``capture`` at most 1.05
times ``bare``.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.speed_parts.given import Encoded, Rendered
from benchmarks.speed_parts.passes import all_states_to_host, bare_pass
from benchmarks.speed_parts.questions import Questions
from benchmarks.speed_parts.random_llava import text_shape, tower_shape, write_checkpoint
from benchmarks.timing import interleaved, write_json
from microscope_bench.adapters.base import Batch
from microscope_bench.adapters.hf import HFAdapter
from microscope_bench.capture.loop import Capture
from microscope_bench.capture.store import TokenStore
from microscope_bench.protocol import named_protocol
from microscope_bench.run.pipeline import PART_EXAMPLES

TARGET = 1.05


Seconds = dict[str, list[float]]


def measured(adapter: Any, task: Any, batch_size: int, rounds: int, directory: Path) -> tuple[Seconds, Seconds]:
    """Seconds of every way, one for each round: by the clock, and of the processor."""
    indices = range(len(task.ids))
    chunks = [[task.example(i) for i in indices[k : k + batch_size]] for k in range(0, len(indices), batch_size)]
    batches = [adapter.encode(chunk) for chunk in chunks]
    shapes = {tuple(batch.labels.shape) for batch in batches}
    print(f"{len(batches)} batches of at most {batch_size} × {max(shape[1] for shape in shapes)} positions", flush=True)

    def filling(adapter: Any) -> Callable[[], None]:
        def run() -> None:
            path = directory / "store"
            store = TokenStore.open_or_create(path, {}, n_examples=len(indices), part_examples=PART_EXAMPLES)
            capture = Capture(adapter, task, named_protocol("geometry/1"), batch_size)
            capture.fill(store, range(store.n_parts), lambda done: None)
            shutil.rmtree(path)

        return run

    def each(run: Callable[[Any, Batch], None], given: Callable[[], Any]) -> Callable[[], None]:
        return lambda: [run(adapter, batch) for batch in given()] and None

    ways = {
        "bare": each(bare_pass, lambda: batches),
        "capture": filling(Encoded(adapter, batches)),
        "all states": each(all_states_to_host, lambda: batches),
        "bare + encoding": each(bare_pass, lambda: map(adapter.encode, chunks)),
        "capture + encoding": filling(adapter),
    }
    processor: Seconds = {way: [] for way in ways}

    def noted(way: str) -> Callable[[], None]:
        def run() -> None:
            begin = time.process_time()
            ways[way]()
            processor[way].append(time.process_time() - begin)

        return run

    interleaved(ways, 1)  # first passes make what later ones find
    return interleaved({way: noted(way) for way in ways}, rounds), processor


def ratio(seconds: Seconds, way: str, beside: str) -> dict[str, float]:
    """How much longer one way takes than another: of the medians, and the ends of the rounds' own ratios."""
    rounds = [a / b for a, b in zip(seconds[way], seconds[beside], strict=True)]
    return {
        "ratio": statistics.median(seconds[way]) / statistics.median(seconds[beside]),
        "least": min(rounds),
        "greatest": max(rounds),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the size, two rounds")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--examples", type=int, default=16)
    parser.add_argument("--picture", type=int, default=224, help="side in pixels, of patches of 14")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--choices", action="store_true", help="score letters too: bare and capture go on to the logits"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.width, args.blocks, args.picture, args.rounds = 128, 4, 84, min(args.rounds, 2)
    with tempfile.TemporaryDirectory() as directory:
        checkpoint = write_checkpoint(
            Path(directory) / "model",
            text=text_shape(args.width, args.blocks),
            tower=tower_shape(args.width // 2, 4),
            picture=args.picture,
            patch=14,
        )
        adapter = HFAdapter.load({"pretrained": str(checkpoint)}, device="cpu")
        task = Rendered(
            Questions(
                args.examples,
                count=lambda text: len(adapter.encoder.tokenize_plainly(text)),
                make_picture=Image.fromarray,
                choices=("A", "B", "C") if args.choices else None,
            )
        )
        seconds, processor = measured(adapter, task, args.batch_size, args.rounds, Path(directory))
    beside = {"capture": "bare", "all states": "bare", "capture + encoding": "bare + encoding"}
    ratios = {way: ratio(seconds, way, other) for way, other in beside.items()}
    for way, other in beside.items():
        ratios[way]["processor"] = ratio(processor, way, other)["ratio"]
    rows = []
    for way, times in seconds.items():
        found = ratios.get(way)
        shown = ("", "", "")
        if found:
            rounds = f"{found['least']:.3f} to {found['greatest']:.3f}"
            shown = (f"{found['ratio']:.3f}", rounds, f"{found['processor']:.3f}")
        rows.append((way, f"{statistics.median(times):.3f}", *shown, beside.get(way, "")))
    print(tabulate(rows, ["", "median seconds", "ratio", "rounds", "processor", "to"], disable_numparse=True))
    reached = ratios["capture"]["ratio"] <= TARGET
    print(f"target {TARGET} of bare: {'reached' if reached else 'missed'}; {torch.get_num_threads()} threads")
    if args.json:
        shape = {key: value for key, value in vars(args).items() if key != "json"}
        write_json(
            args.json,
            {
                "benchmark": "capture",
                "shape": shape,
                "seconds": seconds,
                "ratios": ratios,
                "processor_seconds": processor,
            },
        )


if __name__ == "__main__":
    main()
