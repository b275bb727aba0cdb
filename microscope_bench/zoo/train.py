"""``python -m microscope_bench.zoo.train --fusion NAME``: one model of the zoo from nothing."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from microscope_bench.adapters.presets import ZOO_PREFIX, load_model
from microscope_bench.errors import MicroscopeError
from microscope_bench.zoo import FUSIONS, SEED
from microscope_bench.zoo.cache import cache_directory
from microscope_bench.zoo.card import card
from microscope_bench.zoo.formats import find_format
from microscope_bench.zoo.fusion_training import train_fusion
from microscope_bench.zoo.scoring import score
from microscope_bench.zoo.shipped import file_hashes, record
from microscope_bench.zoo.steps import N_THREADS
from microscope_bench.zoo.vision_training import trained_tower


def train_model(
    fusion: str, output: Path, *, seed: int = SEED, work: Path | None = None, device: str = "cpu", quiet: bool = False
) -> Path:
    """Trains one model, writes its checkpoint and its card, and says on standard output how well it sees.

    Interrupted, it goes on from its last checkpoint when it is called again. On one thread of the CPU, and with the
    same versions of torch and the same kind of processor, the same seed gives the same bytes.

    Args:
        fusion: a key of :data:`microscope_bench.zoo.FUSIONS`.
        output: the checkpoint becomes ``output/zoo-<fusion>`` (with another seed
            ``zoo-<fusion>-seed<seed>``), its hashes stand in ``output/checksums.json``.
        seed: of weights and lessons.
        work: directory of checkpoints; None means this user's cache.
        device: where to train connector and language model.
        quiet: no progress bars.

    Returns:
        The checkpoint's directory.

    Raises:
        UnknownNameError: no such fusion, with the names there are.
        MicroscopeError: the directory holds something already, or a checkpoint cannot be resumed from.
    """
    known = find_format(fusion)
    name = f"{ZOO_PREFIX}{fusion}" if seed == SEED else f"{ZOO_PREFIX}{fusion}-seed{seed}"
    target = output / name
    if target.exists():
        raise MicroscopeError(f"{target} exists already; remove it, or name another place with --output")
    work = work or cache_directory() / "zoo-training"
    threads = torch.get_num_threads()
    torch.set_num_threads(N_THREADS)
    try:
        tower = None if known.tower is None else trained_tower(known.tower, seed, work, quiet=quiet)
        model = known.assemble(seed, tower)
        train_fusion(known, model, seed, work, device=torch.device(device), quiet=quiet)
    finally:
        torch.set_num_threads(threads)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=f".{name}.") as temporary:
        fresh = Path(temporary) / name
        fresh.mkdir()
        known.write(model.to("cpu"), fresh, trained=True)
        adapter = load_model(FUSIONS[fusion][0], {"pretrained": str(fresh), "dtype": "float32"}, device="cpu")
        info = adapter.info
        text = card(fusion, seed, info.revision, info.n_parameters, score(adapter), torch.__version__)
        (fresh / "README.md").write_text(text, encoding="utf-8")
        fresh.rename(target)
    record(output, **{target.name: target})
    return target


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m microscope_bench.zoo.train", description=train_model.__doc__)
    parser.description = "Trains one model of the zoo from nothing; given again after an interruption, it goes on."
    parser.add_argument("--fusion", required=True, metavar="NAME", help=", ".join(FUSIONS))
    parser.add_argument("--seed", type=int, default=SEED, help=f"of weights and lessons (default {SEED})")
    parser.add_argument("--output", type=Path, default=Path("zoo"), metavar="DIR", help="default: zoo")
    parser.add_argument("--work", type=Path, metavar="DIR", help="checkpoints (default: this user's cache)")
    parser.add_argument("--device", default="cpu", help="of the second stage (default cpu: reproducible)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args(argv)
    try:
        target = train_model(
            args.fusion, args.output, seed=args.seed, work=args.work, device=args.device, quiet=args.quiet
        )
    except MicroscopeError as error:
        print(f"zoo.train: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nzoo.train: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    print((target / "README.md").read_text(encoding="utf-8"))
    for file, digest in file_hashes(target).items():
        if not file.endswith((".json", ".md", ".jinja")):
            print(f"sha256 {digest}  {target / file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
