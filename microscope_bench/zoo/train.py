"""``python -m microscope_bench.zoo.train --fusion NAME``: one model of the zoo from nothing."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from microscope_bench.adapters.presets import ZOO_PREFIX, load_model
from microscope_bench.errors import MicroscopeError
from microscope_bench.system.devices import pick_device
from microscope_bench.system.disk import cache_directory
from microscope_bench.zoo import FUSIONS, SEED
from microscope_bench.zoo.cache import file_hashes
from microscope_bench.zoo.card import card
from microscope_bench.zoo.formats import find_format
from microscope_bench.zoo.fusion_training import train_fusion, training
from microscope_bench.zoo.seeing import how_it_sees
from microscope_bench.zoo.shipped import record
from microscope_bench.zoo.steps import CHECKPOINT_EVERY, N_THREADS
from microscope_bench.zoo.vision_training import trained_tower

DEVICES = ("cpu", "cuda", "mps", "xpu")
MAX_SEED = 2**31 - 1


def train_model(
    fusion: str, output: Path, *, seed: int = SEED, work: Path | None = None, device: str = "cpu", quiet: bool = False
) -> Path:
    """Trains one model, writes its checkpoint and its card, and returns the checkpoint's directory.

    An interrupted training continues from its last checkpoint, in ``work`` or this user's cache. A vision tower is
    trained once for all fusions that have it, on the CPU whatever the ``device``. On one CPU thread, with the same
    torch and the same kind of processor, the same seed gives the same bytes. The checkpoint becomes
    ``output/zoo-<fusion>`` (with another seed ``zoo-<fusion>-seed<seed>``), and ``output/checksums.json`` has its
    hashes.
    """
    known, target_device = find_format(fusion), pick_device(device)
    if target_device.type not in DEVICES:
        raise MicroscopeError(f"device {device} cannot train; choose one of {', '.join(DEVICES)}")
    if not 0 <= seed <= MAX_SEED:
        raise MicroscopeError(f"seed {seed} is not between 0 and {MAX_SEED:,}")
    name = f"{ZOO_PREFIX}{fusion}" if seed == SEED else f"{ZOO_PREFIX}{fusion}-seed{seed}"
    target = output / name
    if target.exists():
        raise MicroscopeError(f"{target} exists already; remove it, or name another place with --output")
    work = work or cache_directory() / "zoo-training"
    threads = torch.get_num_threads()
    torch.set_num_threads(N_THREADS)
    try:
        output.mkdir(parents=True, exist_ok=True)
        # made first, so that a place that cannot be written shows before anything is trained
        with tempfile.TemporaryDirectory(dir=output, prefix=f".{name}.") as temporary:
            tower = None if known.tower is None else trained_tower(known.tower, seed, work, quiet=quiet)
            model = known.assemble(seed, tower)
            train_fusion(known, model, seed, work, device=target_device, quiet=quiet)
            fresh = Path(temporary) / name
            fresh.mkdir()
            known.write(model.to("cpu"), fresh, trained=True)
            adapter = load_model(FUSIONS[fusion][0], {"pretrained": str(fresh), "dtype": "float32"}, device="cpu")
            text = card(fusion, seed, target_device.type, adapter.info, how_it_sees(adapter))
            (fresh / "README.md").write_text(text, encoding="utf-8")
            fresh.rename(target)
    except OSError as error:
        raise MicroscopeError(
            f"{output} cannot hold a model ({error.strerror or error}); name another directory with --output"
        ) from error
    finally:
        torch.set_num_threads(threads)
    record(target)
    training(known, seed, target_device).checkpoint(work).unlink()
    return target


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m microscope_bench.zoo.train",
        description="Trains one model of the zoo from nothing in two stages: its vision tower, then connector and "
        "language model. It takes some quarter of an hour on one CPU core; given again after an interruption, it "
        "continues from its last checkpoint. Load the result with --model hf (or omnifusion) --model_args "
        "pretrained=DIR/zoo-NAME.",
    )
    add = parser.add_argument
    add("--fusion", required=True, metavar="NAME", help=f"one of {', '.join(FUSIONS)}")
    add("--seed", type=int, default=SEED, help=f"seed of initial weights and lessons, 0 and up (default {SEED})")
    add("--output", type=Path, default=Path("zoo"), metavar="DIR", help="where the model goes (default: zoo)")
    add("--work", type=Path, metavar="DIR", help="where checkpoints go (default: the cache, $MICROSCOPE_BENCH_CACHE)")
    add("--device", default="cpu", help="device of the second stage (default cpu, which is reproducible)")
    add("--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("microscope_bench.zoo").setLevel(logging.INFO)
    try:
        asked = vars(args) | {"fusion": args.fusion.removeprefix(ZOO_PREFIX)}
        target = train_model(**asked)
    except MicroscopeError as error:
        print(f"zoo.train: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"\nzoo.train: interrupted; the same command goes on from the last checkpoint, which is written every "
            f"{CHECKPOINT_EVERY} steps",
            file=sys.stderr,
        )
        return 130
    print((target / "README.md").read_text(encoding="utf-8"))
    for file, digest in file_hashes(target).items():
        if not file.endswith((".json", ".md", ".jinja")):
            print(f"sha256 {digest}  {target / file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
