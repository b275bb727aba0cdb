"""The figures beside the targets they were measured for: the first table of docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

MOMENTS = "linearity and anisotropy"
LINEAGE, LOOP = "llm-microscope", "llm-microscope (extrapolated)"
OURS_ALL = "microscope_bench, all estimators and errors"
LIBRARIES = ("scikit-dimension", "DADApy", "scikit-learn (search only)")
NOISE = 0.02
"""By how much the same command differs from itself."""

FLAT = 1.1
"""How much more the largest run may take than the smallest."""


@dataclass(frozen=True)
class Target:
    """One row.

    Attributes:
        what: was measured.
        target: as it is put to the reader.
        measured: likewise.
        reached: whether.
    """

    what: str
    target: str
    measured: str
    reached: bool


def target_table(found: dict[str, Any]) -> str:
    """A markdown table; ``found`` holds each script's figures under its name."""
    rows = [(t.what, t.target, t.measured, "yes" if t.reached else "**no**") for t in targets(found)]
    return tabulate(rows, ["", "target", "measured", "reached"], tablefmt="github", disable_numparse=True)


def targets(found: dict[str, Any]) -> Iterator[Target]:
    """All rows."""
    yield from _metrics(found["metrics"]["rows"])
    ratio = found["capture"]["ratios"]["capture"]["ratio"]
    yield Target("capture against the bare forward pass, CPU", "at most 1.02 ×", f"{ratio:.3f} ×", ratio <= 1.02)
    for name, model, most in (("zoo_stages", "zoo-llava-next", 0.5), ("real_stages", "a LLaVA around SmolLM2", 0.7)):
        run = found[name]["runs"][0]
        what, ratio = f"measure against capture, {model}, {run['examples']:,} questions", run["measure_to_capture"]
        yield Target(what, f"at most {most} ×", f"{ratio:.2f} ×", ratio <= most)
    wide = found["wide"]
    what = (
        f"scores of one boundary against one fit by llm-microscope, d = {wide['width']:,}, {wide['tokens']:,} tokens "
    )
    ratio = wide["seconds"] / wide["lineage_seconds"]
    yield Target(what + "a modality", "at most 1 ×", f"{ratio:.2f} ×", ratio <= 1)
    for name, stages in found["processes"]["models"].items():
        shares = {stage: stages[stage]["ratio"] for stage in ("capture", "measure", "command")}
        said = ", ".join(f"{stage} {value:.2f}" for stage, value in shares.items())
        what = f"two processes against one with both cores, {name}"
        yield Target(what, "at most 1 ×, give or take 2 %", f"{said} ×", shares["command"] <= 1 + NOISE)
    yield from _scaling(found["scaling"]["examples"])
    kills = found["kills"]
    yield Target(
        "runs killed and resumed", "50 kills, equal scores, no partial file", _kills(kills), bool(kills["good"])
    )
    started = found["startup"]["startup"]
    ls = max(each["wall"] for name, each in started.items() if name.startswith("ls "))
    yield Target("`microscope-bench --help`", "at most 0.3 s", f"{(s := started['--help']['wall']):.2f} s", s <= 0.3)
    yield Target("`microscope-bench ls`", "at most 1 s", f"{ls:.2f} s", ls <= 1)
    begun = started["run, up to the first forward pass"]["wall"]
    yield Target("`run` up to the first forward pass of a zoo model", "at most 4 s", f"{begun:.1f} s", begun <= 4)
    table = found["results_tree"]["forms"]["markdown"]["seconds"]
    yield Target("leaderboard of 1,000 result files", "at most 5 s", f"{table:.1f} s", table <= 5)
    ratio = found["lm_eval_overhead"]["ratio"]
    what = "lm-eval with geometry against without, 200 questions to zoo-llava-next"
    yield Target(what, "at most 1.8 ×", f"{ratio:.2f} ×", ratio <= 1.8)


def _metrics(rows: list[dict[str, Any]]) -> Iterator[Target]:
    times = {(row["task"], row["contender"], row["n"], row["d"]): row["times_ours"] for row in rows}
    for (n, d), least in (((4096, 1024), 7), ((4096, 4096), 10)):
        value = times[MOMENTS, LINEAGE, n, d]
        what = f"linearity of both streams + anisotropy against llm-microscope at ({n}, {d})"
        yield Target(what, f"{least} × faster", f"{value:.1f} ×", value >= least)
    seconds = {(row["contender"], row["n"], row["d"]): row["seconds"] for row in rows if row["task"] == MOMENTS}
    value = seconds[LINEAGE, 4096, 1024] / seconds[OURS_ALL, 4096, 1024]
    what = "the same with all estimators and errors against its values at (4096, 1024)"
    yield Target(what, "2 × faster", f"{value:.2f} ×", value >= 2)
    loop = {(n, d): value for (task, who, n, d), value in times.items() if task == "TwoNN" and who == LOOP}
    said = ", ".join(f"{value:.0f}" for value in loop.values())
    shapes = ", ".join(map(str, loop))
    yield Target(
        f"TwoNN against llm-microscope's loop at {shapes}", "300 × faster", f"{said} ×", min(loop.values()) >= 300
    )
    for who in LIBRARIES:
        values = [value for (task, name, *_), value in times.items() if task == "TwoNN" and name == who]
        if values:
            said = ", ".join(f"{value:.2f}" for value in values)
            yield Target(f"TwoNN against {who} at the same", "not slower", f"{said} ×", min(values) >= 1)
    both = [value for (task, name, n, d), value in times.items() if name in LIBRARIES and (n, d) == (4096, 4096)]
    yield Target(
        "TwoNN at (4096, 4096) against the fastest of these", "1.5 × faster", f"{min(both):.2f} ×", min(both) >= 1.5
    )


def _scaling(rows: list[dict[str, Any]]) -> Iterator[Target]:
    for stage in ("run", "capture", "measure"):
        of_stage = [row for row in rows if row["stage"] == stage]
        peaks = [row["peak_mib"] for row in of_stage]
        counts = " / ".join(f"{row['examples']:,}" for row in of_stage)
        said = " / ".join(f"{peak:.0f}" for peak in peaks)
        yield Target(
            f"peak memory of {stage} at {counts} examples",
            "flat within 10 %",
            f"{said} MiB",
            max(peaks) <= FLAT * min(peaks),
        )
        marginal = [row["marginal_ms"] for row in of_stage if "marginal_ms" in row]
        said = " / ".join(f"{value:.1f}" for value in marginal)
        yield Target(
            f"time that one example more takes, {stage}, up to "
            + " / ".join(f"{r['examples']:,}" for r in of_stage[1:]),
            "grows by no more than 10 %",
            f"{said} ms",
            marginal[-1] <= FLAT * marginal[0],
        )


def _kills(kills: dict[str, Any]) -> str:
    equal = sum(row["equal"] for row in kills["trials"])
    watched = kills["watched"]
    read = f"{len(watched['broken'])} partial files in {watched['files']:,} readings"
    return f"{kills['kills']} kills, {equal} of {len(kills['trials'])} runs equal, {read}"
