"""How long measuring a token store takes, metric by metric: seconds and shares of one run.

    python benchmarks/measure_time.py                         # 33 boundaries, text, image and joint, N = 5,000, d = 512
    python benchmarks/measure_time.py --boundaries 3 --sinks  # a quick look, with both token sets
    python benchmarks/measure_time.py --boundaries 2 --width 4096 --tokens 16384 --metrics default --lineage

With ``--lineage`` llm-microscope 0.0.7 then makes one in-sample fit of the first boundary's rows of both modalities to
the next ones, without an error, by an SVD in float32: what the scores of that boundary are held against.

The states are synthetic: a random walk of clustered tokens, whose blocks bend and mix. Absolute seconds depend on the
machine and on what else runs on it; the shares tell where the time goes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from tabulate import tabulate
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import write_json
from microscope_bench.adapters.base import LABELS
from microscope_bench.capture.example_record import ExampleRecord
from microscope_bench.capture.store import TokenStore
from microscope_bench.config import RunConfig
from microscope_bench.measure.scores import measure_tokens
from microscope_bench.metrics.core.cloud import Cloud
from microscope_bench.metrics.record import EstimatorScore, Metric
from microscope_bench.metrics.registry import METRICS
from microscope_bench.protocol import named_protocol
from tests.metrics.oracles import reference

PER_EXAMPLE = 32


def synthetic_layers(n: int, d: int, n_boundaries: int, seed: int) -> Iterator[Tensor]:
    """float32 (n, d) per boundary: examples share an offset, each block adds a bent linear map of the stream."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    offsets = normal(-(-n // PER_EXAMPLE), d).repeat_interleave(PER_EXAMPLE, 0)[:n]
    x = (0.7 * offsets + 0.7 * normal(n, d)) @ (normal(d, d) / d**0.5)
    for _ in range(n_boundaries):
        yield x
        x = x + 0.3 * torch.tanh(x @ (normal(d, d) / d**0.5)) + 0.05 * normal(n, d)


def write_store(path: Path, n: int, d: int, n_boundaries: int, sinks: bool) -> TokenStore:
    """A store of one part, with n tokens of text and n of image."""
    n_examples = -(-n // PER_EXAMPLE)
    store = TokenStore.open_or_create(path, {}, n_examples=n_examples, part_examples=n_examples)
    tensors = {}
    for layer, pair in enumerate(zip(*(synthetic_layers(n, d, n_boundaries, seed) for seed in (1, 2)), strict=True)):
        states = torch.cat(pair)
        if sinks:
            states[n : n + 8, 3] += 3000.0
        tensors[f"boundary.{layer}"] = states
    token = torch.arange(n).repeat(2)
    codes = torch.tensor([LABELS.index("text"), LABELS.index("image")])
    tensors["modality"] = codes.repeat_interleave(n).to(torch.int8)
    tensors["example"], tensors["position"] = token // PER_EXAMPLE, token % PER_EXAMPLE
    tensors["number"] = PER_EXAMPLE - 1 - tensors["position"]
    tensors["origin"], tensors["prefix"] = torch.arange(2 * n), torch.arange(2 * n)
    store.write_part(0, tensors, [ExampleRecord(id=f"q{k}") for k in range(n_examples)])
    return store


def timed(metric: Metric, seconds: dict[str, float]) -> Metric:
    """The metric, which adds what it takes to its entry. What a cloud keeps counts for whoever asked first."""

    def scores(cloud: Cloud) -> Iterable[EstimatorScore]:
        begin = time.perf_counter()
        found = list(metric.scores(cloud))
        seconds[metric.name] += time.perf_counter() - begin
        return found

    return replace(metric, name=f"timed {metric.name}", scores=scores)


def seconds_of_lineage(store: TokenStore) -> float:
    """What one in-sample fit of the states of the first two boundaries takes llm-microscope."""
    states = load_file(store.tensor_file(0))
    x, y = states["boundary.0"], states["boundary.1"]
    begin = time.perf_counter()
    reference().procrustes_similarity(x, y)
    return time.perf_counter() - begin


def main() -> None:
    """Measures once and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boundaries", type=int, default=33)
    parser.add_argument("--tokens", type=int, default=5000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--sinks", action="store_true", help="eight sinks, so that both token sets are measured")
    parser.add_argument("--metrics", default=",".join(METRICS.names()), help="comma-separated; default: those of a run")
    parser.add_argument("--lineage", action="store_true", help="one fit by llm-microscope beside it")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    seconds: dict[str, float] = defaultdict(float)
    names = list(RunConfig().metrics) if args.metrics == "default" else args.metrics.split(",")
    for name in names:
        METRICS._objects[f"timed {name}"] = timed(METRICS.get(name), seconds)
    with tempfile.TemporaryDirectory() as directory:
        store = write_store(Path(directory) / "store", args.tokens, args.width, args.boundaries, args.sinks)
        begin = time.perf_counter()
        n_layers, wanted = args.boundaries - 1, [f"timed {name}" for name in names]
        asked = RunConfig(metrics=tuple(wanted), device="cpu")
        found = measure_tokens(store, named_protocol("geometry/1"), asked, n_layers=n_layers)
        total = time.perf_counter() - begin
        fit = seconds_of_lineage(store) if args.lineage else None
    seconds["survey, reading and the rest"] = total - sum(seconds.values())
    rows = [(name, f"{s:.1f}", f"{s / total:.0%}") for name, s in sorted(seconds.items(), key=lambda item: -item[1])]
    print(tabulate([*rows, ("total", f"{total:.1f}", "100%")], ["metric", "seconds", "share"]))
    missing = sum(score.value is None for score in found.scores)
    print(f"{len(found.scores):,} scores, {missing:,} without a value; {torch.get_num_threads()} threads")
    if fit is not None:
        print(f"one fit by llm-microscope: {fit:.1f} s; measuring took {total / fit:.2f} times as long")
    if args.json:
        write_json(args.json, {"width": args.width, "tokens": args.tokens, "seconds": total, "lineage_seconds": fit})


if __name__ == "__main__":
    main()
