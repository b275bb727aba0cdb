"""A training as lines: the mean over the layers of each step's result, over the step."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from microscope_bench.errors import ResultError
from microscope_bench.metrics.record import Headline
from microscope_bench.publish.depth_lines import DepthPanel, PlottedLine, limits_of, panels_figure, styles_of
from microscope_bench.publish.figure_file import drawing, save, shown
from microscope_bench.publish.plots import NOTHING, comparable
from microscope_bench.publish.summary import Summary, summarise
from microscope_bench.results.result import Result
from microscope_bench.results.result_files import safe_name

_STEP = re.compile(r"(.*?)\W*\b(?:step|checkpoint)[ -](\d+)")


def run_and_step(result: Result) -> tuple[str, int] | None:
    """The name of a training, and how far it was, from the model's name; None where that does not end in a step.

    ``mine step 500`` and the ``checkpoint-500`` of transformers' Trainer do.
    """
    found = _STEP.fullmatch(result.identity.model.name)
    return None if found is None else (found[1] or "training", int(found[2]))


def draw_over_steps(
    results: Iterable[Result],
    headlines: Sequence[Headline],
    place: Path,
    *,
    modalities: Sequence[str],
    tokens: str = "all",
    file_format: str = "svg",
) -> list[Path]:
    """Draws a picture per task that compares: a row per metric, a column per modality, a line per training.

    ``place`` is one picture, or a directory for ``<task>.steps.<format>``. Raises a ResultError where nothing has a
    step, one picture is asked for and there are several, or two results are of one step of a training.
    """
    groups = comparable(r for r in results if run_and_step(r) and r.identity.model.control is None)
    if not groups:
        raise ResultError(
            "no complete result is of a step: the model's name must end in `step N` or `checkpoint-N`, as the "
            "callback names it; elsewhere, --model_args name='mine step 500'"
        )
    one = bool(place.suffix) and not place.is_dir()
    if one and len(groups) > 1:
        raise ResultError(f"these results are of {len(groups)} kinds that do not compare; draw into a directory")
    paths = [place] if one else [place / f"{safe_name(g[0].identity.task.name)}.steps.{file_format}" for g in groups]
    if len(set(paths)) < len(paths):
        paths = [p.with_stem(f"{p.stem}.{group[0].short_id}") for p, group in zip(paths, groups, strict=True)]
    for path, group in zip(paths, groups, strict=True):
        runs: dict[str, dict[int, Result]] = defaultdict(dict)
        for result in group:
            run, step = run_and_step(result) or ("", 0)
            there = runs[shown(run)].setdefault(step, result)
            if there.identity != result.identity:
                raise ResultError(
                    f"two results are of step {step} of {shown(run)}: {there.signature} and {result.signature}. Draw "
                    f"one training alone, or measure each under a name= of its own"
                )
        _draw(dict(sorted(runs.items())), headlines, path, modalities, tokens)
    return paths


def _draw(
    runs: Mapping[str, Mapping[int, Result]],
    headlines: Sequence[Headline],
    path: Path,
    modalities: Sequence[str],
    tokens: str,
) -> None:
    lines = {
        (headline, modality): [line for run in runs if (line := _line(run, runs[run], headline, modality, tokens))]
        for headline in headlines
        for modality in modalities
    }
    rows = [headline for headline in headlines if any(lines[headline, modality] for modality in modalities)]
    columns = [modality for modality in modalities if any(lines[headline, modality] for headline in rows)]
    if not rows:
        raise ResultError(NOTHING)
    panels = [
        [DepthPanel(m, h.title, lines[h, m], limits_of(lines[h, m]) if lines[h, m] else None, "step") for m in columns]
        for h in rows
    ]
    drawn = {line.label for row in panels for panel in row for line in panel.lines}
    firsts = [(run, by_step[min(by_step)]) for run, by_step in runs.items() if run in drawn]
    with drawing() as Figure:
        figure = panels_figure(Figure, panels, styles_of(firsts), {run: run for run, _ in firsts})
        task = shown(firsts[0][1].identity.task.name)
        figure.suptitle(f"mean over the layers ± one standard error: {task}", fontsize="medium")
        save(figure, path, "\n".join(one.signature for by_step in runs.values() for one in by_step.values()))


def _line(
    run: str, by_step: Mapping[int, Result], headline: Headline, modality: str, tokens: str
) -> PlottedLine | None:
    means = {float(step): summarise(by_step[step], headline, modality, tokens) for step in sorted(by_step)}
    found = {step: mean for step, mean in means.items() if isinstance(mean, Summary)}
    if not found:
        return None
    return PlottedLine(run, list(found), [m.mean for m in found.values()], [m.mean_stderr for m in found.values()])
