"""``python -m tests.matrix``: runs rows of the table, writes what it saw as JSON, and the page from that.

python -m tests.matrix [MODEL_TYPE ...] [--needing PACKAGE] [--json FILE]
python -m tests.matrix --page docs/models.md --from FILE FILE
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.matrix.torchvision_ops import declare_operators

declare_operators()

import torch
import transformers

from tests.matrix.page import page
from tests.matrix.row import UNSUPPORTED
from tests.matrix.table import TABLE
from tests.matrix.verify import Outcome, missing_packages, verify


def run(names: list[str]) -> tuple[list[Outcome], list[str]]:
    """Verifies rows and prints each; what was seen, and the names of those where something is not as their row says."""
    outcomes, bad = [], []
    for name in names:
        row = TABLE[name]
        if missing := missing_packages(row):
            print(f"{name:24s} not run: needs {', '.join(missing)}")
            continue
        outcome = verify(row)
        outcomes.append(outcome)
        print(
            f"{name:24s} {outcome.status if not outcome.problems else 'PROBLEM'}  {outcome.blocks} {outcome.positions}"
        )
        for problem in outcome.problems:
            print(f"    {problem}")
            bad.append(name)
    return outcomes, bad


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix")
    parser.add_argument("names", nargs="*", metavar="MODEL_TYPE")
    parser.add_argument("--needing", metavar="PACKAGE", help="only the rows that need it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was seen")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the page from earlier --json files")
    parser.add_argument("--from", dest="seen", type=Path, nargs="+", default=[], metavar="FILE")
    args = parser.parse_args()
    if args.page:
        seen = [Outcome(**fields) for file in args.seen for fields in json.loads(file.read_text())]
        lacking = sorted(outcome.model_type for outcome in seen if outcome.problems) or sorted(
            TABLE.keys() - {outcome.model_type for outcome in seen}
        )
        if lacking:
            print(f"no page: run these first, or mend what they say: {', '.join(lacking)}")
            return 1
        args.page.write_text(page(seen))
        print(f"wrote {args.page}")
        return 0
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    chosen = args.names or [name for name, row in TABLE.items() if args.needing in (None, *row.needs)]
    outcomes, bad = run(chosen)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps([vars(outcome) for outcome in outcomes], indent=1))
    measured = sum(outcome.status != UNSUPPORTED for outcome in outcomes)
    print(f"{len(outcomes)} architectures, {measured} measured, {len(set(bad))} not as their rows say")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
