"""docs/interpreting.md from its prose and the committed results of the zoo.

    python benchmarks/interpreting.py --write docs/interpreting.md

The prose stands in interpreting_parts/page.md, every number of a result comes from results/. With ``--check`` nothing
is written; exit status 1 if the page is not what results and prose make it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from string import Template

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.interpreting_parts.numbers import render_values

ROOT = Path(__file__).resolve().parents[1]
PROSE = Path(__file__).parent / "interpreting_parts" / "page.md"


def render(results: Path) -> str:
    """The page as markdown."""
    return Template(PROSE.read_text(encoding="utf-8")).substitute(render_values(results))


def main() -> int:
    """Writes, prints or checks the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=ROOT / "results", metavar="DIR", help="default: results/")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="the page")
    parser.add_argument("--check", action="store_true", help="compare the page with what it should be")
    arguments = parser.parse_args()
    if arguments.check and arguments.write is None:
        parser.error("--check needs --write PAGE, the page to compare")
    text = render(arguments.results)
    if arguments.check:
        fresh = arguments.write.is_file() and arguments.write.read_text(encoding="utf-8") == text
        print(f"{arguments.write} is {'up to date' if fresh else 'stale'}")
        return 0 if fresh else 1
    if arguments.write is None:
        print(text)
    else:
        arguments.write.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
