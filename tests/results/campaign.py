"""What every reader of result files makes of mutated ones, within a bound of memory.

    python -m tests.results.campaign 3000

writes into the current directory, prints the longest that each reader took (in processor time, so that a busy machine
does not count), and fails where one took too long or fell over.
"""

from __future__ import annotations

import io
import json
import resource
import sys
import time
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from microscope_bench.cli.main import main
from microscope_bench.system.safe_output import safe_output
from tests.publish.small import SMALL
from tests.results.mutations import damages, mutations
from tests.results.sample import forge

MEMORY = 4_000_000 * 1024
SECONDS = 5.0
READERS = {
    "validate": ["validate", "r/x.json"],
    "leaderboard": ["leaderboard", "r"],
    "compare": ["compare", "whole.json", "r/x.json"],
    "difference": ["difference", "r/x.json", "whole.json", "--layers", "--all"],
    "report": ["report", "r/x.json"],
    "plot": ["plot", "r/x.json", "--metric", "anisotropy"],
    "cite": ["cite", "r/x.json"],
}
CONTENT = json.dumps(SMALL.to_dict()).encode()
DOCUMENT: dict[str, Any] = json.loads(CONTENT)


def forged(document: dict[str, Any]) -> dict[str, Any]:
    try:
        return forge(document)
    except (KeyError, TypeError, AttributeError, ValueError):
        return document  # no signature or no identity left to make fit


FILES = st.one_of(
    damages(CONTENT), *[mutations(DOCUMENT).map(lambda document: json.dumps(forged(document)).encode())] * 4
)


def campaign(n_files: int) -> tuple[dict[str, float], list[str], Counter[str]]:
    """The longest that each reader took, what went wrong, and how often each status came out."""
    slowest, wrong, statuses = dict.fromkeys(READERS, 0.0), list[str](), Counter[str]()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    @settings(
        max_examples=n_files,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(content=FILES)
    def read(content: bytes) -> None:
        Path("r/x.json").write_bytes(content)
        for reader, argv in READERS.items():
            begin, said = time.process_time(), io.StringIO()
            with redirect_stdout(said), redirect_stderr(said):
                try:
                    status: object = main(argv)
                except BaseException as error:
                    status = type(error).__name__
            taken = time.process_time() - begin
            slowest[reader] = max(slowest[reader], taken)
            statuses[f"{reader} {status}"] += 1
            if taken > SECONDS or "Traceback" in said.getvalue() or status not in (0, 1, 2):
                kept = Path(f"wrong-{len(wrong)}.json")
                kept.write_bytes(content)
                wrong.append(f"{reader}: {status} in {taken:.1f} s, {kept}: {said.getvalue()[-500:]}")

    Path("r").mkdir(exist_ok=True)
    Path("whole.json").write_bytes(CONTENT)
    read()
    return slowest, wrong, statuses


if __name__ == "__main__":
    slowest, wrong, statuses = campaign(int(sys.argv[1]))
    with safe_output():
        print(dict(sorted(statuses.items())))
        print({reader: f"{seconds:.2f} s" for reader, seconds in slowest.items()}, *wrong[:20], sep="\n")
    sys.exit(bool(wrong))
