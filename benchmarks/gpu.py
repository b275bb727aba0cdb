"""The full shape of LLaVA-NeXT-7B on a GPU: what the capture and the measuring add to the forward pass.

    python benchmarks/gpu.py                          # one call of under ten minutes, weights included
    python benchmarks/gpu.py --json FILE --budget 420 --batch_size 4
    python benchmarks/gpu.py --device cpu --tiny      # the same code on the smallest shapes, in seconds

Needs torch, transformers, numpy and scikit-learn alone: no data, no network, no checkpoint. The model is CLIP
ViT-L/14-336, a projector and Llama 7B with seeded random weights in bfloat16, made on the device; a picture is 2,880
image tokens and 48 newlines, a question as long as ScienceQA's. In turns, on batches encoded beforehand:

- ``bare``: the forward pass, ended after the last block, as the capture ends it.
- ``capture``: ``Capture.fill``: hooks, selection, copies, records, hashes, and the store's parts on disk, flushed.
- ``all states``: ``output_hidden_states=True``, all states copied to the host, on one batch beside ``bare`` of it.

Then the default metrics on a store of 2,017 examples (the questions of ScienceQA's test split that have a picture),
at a few boundaries: the captured states, repeated with noise. The whole run is extrapolated: forward and capture by
the example, measuring by the block. Encoding is in none of the figures. Ratios are of medians.

Targets: ``capture`` at most 1.05 times ``bare``, the whole run at most 1.25 times. What the time budget does not allow
is left out, and said.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.speed_parts.given import Encoded, Rendered
from benchmarks.speed_parts.grown_store import grown_store
from benchmarks.speed_parts.llava_next import FULL, TINY, LlavaNextByTensors
from benchmarks.speed_parts.passes import all_states_to_host, bare_pass
from benchmarks.speed_parts.questions import Questions, bare_picture
from benchmarks.timing import interleaved, write_json
from microscope_bench.capture.loop import Capture
from microscope_bench.capture.store import TokenStore
from microscope_bench.config import RunConfig
from microscope_bench.measure.scores import measure_tokens
from microscope_bench.protocol import named_protocol
from microscope_bench.system.devices import measuring_device

SCIENCEQA_EXAMPLES = 2017
PART_EXAMPLES = 16
PROTOCOL = named_protocol("geometry/1")


class Budget:
    """Seconds there are for everything; what is begun is not stopped."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds."""
        return self._end - time.monotonic()


class Peaks:
    """Peak memory of each stage, in bytes: on the device of the stage alone, on the host of the process so far."""

    def __init__(self, device: torch.device) -> None:
        self._device, self.found = device, {}

    def note(self, stage: str) -> None:
        """Ends a stage."""
        peak = {"host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
        if self._device.type == "cuda":
            peak["device_bytes"] = torch.cuda.max_memory_allocated(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
        self.found[stage] = peak
        shown = ", ".join(f"{value / 1e9:.2f} GB {name.split('_')[0]}" for name, value in peak.items())
        print(f"{stage}: peak {shown}", flush=True)


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what it returns."""
    begin = time.perf_counter()
    found = run()
    return time.perf_counter() - begin, found


def capture_speed(adapter: Any, task: Any, batch_size: int, rounds: int, budget: Budget, path: Path) -> dict[str, Any]:
    """Seconds of ``bare``, ``capture`` and ``all states``, and bytes of the store, which stays at ``path``."""
    indices = range(len(task))
    chunks = [[task.example(i) for i in indices[k : k + batch_size]] for k in range(0, len(indices), batch_size)]
    batches = [adapter.encode(chunk) for chunk in chunks]
    print(f"{len(task)} examples in {len(batches)} batches of {tuple(batches[0].labels.shape)} positions", flush=True)
    given = Encoded(adapter, batches)

    def fill() -> None:
        store = TokenStore.open_or_create(path, {}, n_examples=len(task), part_examples=PART_EXAMPLES)
        for part in range(store.n_parts):
            store.drop_part(part)
        Capture(given, task, PROTOCOL, batch_size).fill(store, range(store.n_parts), lambda done: None)

    def bare() -> None:
        for batch in batches:
            bare_pass(adapter, batch)

    ways = {"bare": bare, "capture": fill}
    a_round, _ = timed(lambda: interleaved(ways, 1))  # the first passes make what later ones find
    print(f"a first round took {a_round:.1f} s; {budget.left:.0f} s are left", flush=True)
    seconds = interleaved(ways, max(1, min(rounds, int(0.4 * budget.left / a_round))))
    beside = {
        "bare": lambda: bare_pass(adapter, batches[0]),
        "all states": lambda: all_states_to_host(adapter, batches[0]),
    }
    a_pass, _ = timed(lambda: interleaved(beside, 1))
    states = interleaved(beside, max(1, min(rounds, int(0.1 * budget.left / a_pass))))
    stored = sum(file.stat().st_size for file in (path / "parts").iterdir())
    return {"seconds": seconds, "seconds_of_a_batch": states, "store_bytes_per_example": stored / len(task)}


def measuring_speed(
    captured: Path, n_layers: int, n_examples: int, device: torch.device, budget: Budget, directory: Path
) -> dict[str, Any] | None:
    """Seconds of the default metrics on a grown store, by the block; None where the budget is too small."""
    found = None
    for n_blocks in (1, 3):
        if budget.left < (60 if found is None else 4 * found["seconds"]):
            break
        store = grown_store(TokenStore(captured), directory / f"grown{n_blocks}", n_blocks + 1, n_examples, device)
        seconds, measurement = timed(
            lambda store=store, n_blocks=n_blocks: measure_tokens(
                store, PROTOCOL, RunConfig(device=str(device), progress=False), n_layers=n_blocks
            )
        )
        found = {
            "device": str(measuring_device(str(device))),  # the CPU where it is faster in float64
            "blocks": n_blocks,
            "seconds": seconds,
            "seconds_per_block": seconds / n_blocks,
            "scores": len(measurement.scores),
            "without_value": sum(score.value is None for score in measurement.scores),
        }
        print(f"measured {json.dumps(found)}; {budget.left:.0f} s are left", flush=True)
    return found and {**found, "whole_model_seconds": found["seconds_per_block"] * n_layers}


def summary(captured: dict[str, Any], n_examples: int, measured: dict[str, Any] | None, wanted: int) -> dict[str, Any]:
    """The ratios, and the whole run over ``wanted`` examples."""
    median = {name: statistics.median(times) for name, times in captured["seconds"].items()}
    of_batch = {name: statistics.median(times) for name, times in captured["seconds_of_a_batch"].items()}
    forward, capture = (median[name] / n_examples * wanted for name in ("bare", "capture"))
    ratios = {
        "capture": median["capture"] / median["bare"],
        "all states": of_batch["all states"] / of_batch["bare"],
        "whole run": None,
    }
    whole = {"forward_seconds": forward, "capture_seconds": capture, "measure_seconds": None}
    if measured is not None:
        whole["measure_seconds"] = measured["whole_model_seconds"]
        ratios["whole run"] = (capture + measured["whole_model_seconds"]) / forward
    return {"ratios_to_bare": ratios, "examples": wanted, "whole_run": whole}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--examples", type=int, default=64, help="that are captured")
    parser.add_argument("--rounds", type=int, default=7, help="at most")
    parser.add_argument("--budget", type=float, default=480, help="seconds for everything")
    parser.add_argument("--directory", help="where the stores go: about 5 GB; default: a temporary directory")
    parser.add_argument("--tiny", "--quick", action="store_true", help="the smallest shapes")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    budget, device = Budget(args.budget), torch.device(args.device)
    if args.tiny:
        args.examples, args.rounds = min(args.examples, 2 * args.batch_size), min(args.rounds, 2)
    wanted = 3 * args.examples if args.tiny else SCIENCEQA_EXAMPLES
    peaks = Peaks(device)
    seconds, adapter = timed(lambda: LlavaNextByTensors(TINY if args.tiny else FULL, device))
    print(f"{adapter.info.n_parameters / 1e9:.2f} billion parameters, made in {seconds:.1f} s", flush=True)
    peaks.note("weights")
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        path = Path(directory)
        task = Rendered(Questions(args.examples, count=None, make_picture=bare_picture))
        captured = capture_speed(adapter, task, args.batch_size, args.rounds, budget, path / "store")
        peaks.note("capture")
        n_layers = adapter.info.n_layers
        del adapter  # as a second process would measure; its memory is not what measuring needs
        if device.type == "cuda":
            torch.cuda.empty_cache()
        measured = measuring_speed(path / "store", n_layers, wanted, device, budget, path)
        peaks.note("measure")
    found = {"benchmark": "gpu", "tiny": args.tiny, "batch_size": args.batch_size, "captured_examples": args.examples}
    found |= summary(captured, args.examples, measured, wanted)
    found |= {"capture": captured, "measure": measured, "peaks": peaks.found, "weights_seconds": seconds}
    print(json.dumps({key: found[key] for key in ("ratios_to_bare", "examples", "whole_run")}, indent=1))
    if measured is None:
        print("the time budget left nothing for measuring: give --budget more seconds, or --examples fewer")
    if args.json:
        write_json(args.json, found)


if __name__ == "__main__":
    main()
