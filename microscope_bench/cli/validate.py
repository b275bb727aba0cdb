"""``microscope-bench validate FILE...``: whether result files are whole, valid, unedited and plausible."""

from __future__ import annotations

import argparse

from microscope_bench.cli.options import files_of

_SHOWN = 10


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describes the verb and its options."""
    parser.description = (
        "Checks each file against the format, the rules between fields, its signature and its checksum, "
        "against the JSON Schema by another library, and its numbers against what a run can write: ranges, counts, "
        "layers. Prints one line a file, and one for each rule that is broken. Exit status 1 if one is not valid."
    )
    parser.add_argument("files", metavar="FILE", nargs="+", help="result files, or directories of them")


def run(args: argparse.Namespace) -> int:
    """Prints one line per file."""
    from microscope_bench.errors import ResultError
    from microscope_bench.results.json_schema import violations
    from microscope_bench.results.plausibility import implausible
    from microscope_bench.results.result import COMPLETE, load_result, read_bytes
    from microscope_bench.system.printable import printable

    bad = 0
    for name, paths in [(name, files_of(name)) for name in args.files]:
        if not paths:
            bad += 1
            print(f"BAD  {printable(name)}: holds no result files")
        for path in paths:
            try:
                result = load_result(path)
            except ResultError as error:
                bad += 1
                print(f"BAD  {printable(error)}")
                continue
            broken = violations(read_bytes(path))
            if broken:
                bad += 1
                print(f"BAD  {printable(path)}: does not follow the JSON Schema: {printable('; '.join(broken))}")
                continue
            problems = implausible(result)
            if problems:
                bad += 1
                why = "no run of this package writes this; repeat the run, or report a wrong rule"
                print(f"BAD  {printable(path)}: {why}")
                print("\n".join(f"     {printable(problem)}" for problem in problems[:_SHOWN]))
                if len(problems) > _SHOWN:
                    print(f"     and {len(problems) - _SHOWN} more")
            else:
                note = "" if result.status == COMPLETE else " (of a failed run)"
                print(f"ok   {printable(path)}: {result.short_id}{note}")
    return 1 if bad else 0
