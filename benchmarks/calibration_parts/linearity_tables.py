"""Tables and verdicts about linearity: estimates against the value of the population."""

from __future__ import annotations

from typing import Any

from benchmarks.calibration_parts.cells import in_bar, number, percent
from benchmarks.calibration_parts.clustered import SETTINGS
from benchmarks.calibration_parts.coverage import FRESH, STREAMS, TRUE
from microscope_bench.metrics.linearity_metric import FEW_EXAMPLES
from microscope_bench.publish.escape import table

JUDGED = ["cross_fitted", "held_out", "adjusted"]
"""What stands in the tables: the headline and its bracket."""

BIAS_BAR, COVERED_BAR = 0.015, 0.92

ByExamples = dict[str, dict[str, dict[str, list[float]]]]
"""Kind → examples for a dimension → estimator → mean less truth, spread, reported by true spread, coverage."""


def by_examples_table(found: ByExamples, data_sets: dict[str, int], width: int) -> str:
    """What examples for a dimension do to each estimate, by kind."""
    headers = ["kind", "data sets", "examples / d", "examples", "`cross_fitted`", "spread", "stderr / spread"]
    headers += ["hold the truth, %", "`held_out`", "`adjusted`"]
    rows = []
    for kind, of_kind in found.items():
        for ratio, by_estimator in of_kind.items():
            bias, spread, reported, covered = by_estimator["cross_fitted"]
            others = [signed(by_estimator[name][0]) for name in ("held_out", "adjusted")]
            share = percent(covered) if in_bar(covered) else f"**{percent(covered)}**"
            size = [kind, str(data_sets[kind]), ratio, str(int(float(ratio) * width))]
            rows.append([*size, signed(bias), number(spread), number(reported, 2), share, *others])
    return table(headers, rows)


def by_setting_table(coverage: dict[str, dict[str, Any]]) -> str:
    """The headline, its bracket, and what ``held_out`` estimates, beside the value of the population."""
    headers = ["setting", "stream", "population", "`cross_fitted`", "`held_out`", "`adjusted`", "map of 90 %, fresh"]
    headers += ["spread", "stderr / spread", "hold the population's, %"]
    rows = []
    for setting in SETTINGS:
        found = coverage.get(setting.name)
        for stream in STREAMS if found else ():
            assert found is not None
            ours = found[f"cross_fitted, {stream}"]
            means = [found[f"{name}, {stream}"]["mean"] for name in JUDGED]
            fresh = found.get(FRESH.format(stream), {}).get("mean")
            values = map(number, [found[TRUE.format(stream)]["mean"], *means, fresh])
            share = percent(ours["covered"])
            share = share if in_bar(ours["covered"]) else f"**{share}**"
            errors = [number(ours["sd"], 4), number(ours["stderr"] / ours["sd"], 2)]
            rows.append([setting.name, stream, *values, *errors, share])
    return table(headers, rows)


def signed(value: float) -> str:
    """A difference of a table."""
    return number(value) if value < 0 else f"+{number(value)}"


def _of_others(found: ByExamples, width: int) -> str:
    """The worst of the kinds whose examples differ, with few examples and with enough of them; nothing of none."""
    said = []
    for few, where in ((True, "where the flag `few_examples` stands"), (False, "where it does not")):
        rows = [
            of_size["cross_fitted"]
            for kind, of_kind in found.items()
            for ratio, of_size in of_kind.items()
            if kind != "plain" and few == (float(ratio) * width < max(FEW_EXAMPLES, width))
        ]
        if rows:
            worst = max(abs(one[0]) for one in rows)
            said.append(f"by up to {number(worst)} {where} (coverage from {percent(min(one[3] for one in rows))} %)")
    return f" Where examples differ in kind it is off {', and '.join(said)}." if said else ""


def verdicts(found: ByExamples, coverage: dict[str, dict[str, Any]], width: int) -> list[str]:
    """What became of the headline and of its bracket."""
    of_plain = [by_estimator["cross_fitted"] for by_estimator in found["plain"].values()]
    bias, least = max(abs(one[0]) for one in of_plain), min(one[3] for one in of_plain)
    met = "met" if bias <= BIAS_BAR and least >= COVERED_BAR else "**missed**"
    ratios = list(found["plain"])
    rows = [of_size for of_kind in found.values() for of_size in of_kind.values()]
    held = sum(one["held_out"][0] < 0 < one["adjusted"][0] for one in rows)
    pairs = [(of, stream) for of in coverage.values() for stream in STREAMS]
    held += sum(
        of[f"held_out, {s}"]["mean"] < of[TRUE.format(s)]["mean"] < of[f"adjusted, {s}"]["mean"] for of, s in pairs
    )
    return [
        f"`cross_fitted` is within {number(bias)} of the population's linearity in the mean, and its 95 % intervals "
        f"hold that value in at least {percent(least)} % of the data sets, where every example has the same map (kind "
        f"*plain*, {ratios[0]} to {ratios[-1]} examples for a dimension; bar: {BIAS_BAR} and {percent(COVERED_BAR)} %)"
        f": {met}.{_of_others(found, width)}",
        f"The means of `held_out` and `adjusted` enclose the population's linearity in {held} of "
        f"{len(rows) + len(pairs)} rows of the two tables of linearity.",
    ]
