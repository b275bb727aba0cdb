"""The non-linearity of every token of one example, over its words and over its picture's patches."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from microscope_bench.adapters.base import AUDIO, LABELS, TEXT, VIDEO
from microscope_bench.errors import StoreError
from microscope_bench.figures.example_rerun import Rerun
from microscope_bench.figures.nonlinearity import TokenMap
from microscope_bench.figures.open_store import OpenStore
from microscope_bench.figures.patches import View, views
from microscope_bench.figures.words import words_of
from microscope_bench.publish.figure_file import drawing, save, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, MARGIN, GAP, SQUARE, STRIP, LINE = 7.2, 0.15, 0.15, 1.35, 0.22, 0.17
"""Inches: of the page, around it, between parts, of a picture, of a strip, of a line of words."""
TITLE = 0.24
FONT = 7
CHARACTER = 0.602 * FONT / 72
"""Inches that a character of DejaVu Sans Mono is wide."""
COLOURMAP = "YlOrBr"
"""Lightness alone orders it, so that it can be read with any colour vision, and without colour."""
DARKEST = 0.7
"""Of a patch's colour where the picture is darkest, so that the picture shows through."""
HIGHEST = 98
"""Percentile of the values at which the scale of colours ends."""


@dataclass(frozen=True)
class DrawnExample:
    """The text of every position, image tokens, and layer → values, NaN where not measured."""

    words: list[str]
    views: list[View]
    values: dict[int, np.ndarray]


def draw_example(
    opened: OpenStore,
    rerun: Rerun,
    path: Path,
    *,
    layers: Sequence[int],
    stream: str = "hidden",
    relative: bool = True,
) -> dict[int, np.ndarray]:
    """Draws one example, a row per layer l: what the map from l to l + 1, fitted on the store, leaves of each token.

    ``rerun`` holds the states at ``layers`` and one further. Returns layer → float64 (S,), the values drawn; NaN at
    positions that are not measured (marks, newlines). Raises StoreError where a map cannot be fitted, or the words are
    not known.
    """
    values, fitted = {}, None
    for layer in layers:
        fitted = TokenMap.fitted(opened, layer)
        found = fitted.unexplained(rerun.states[layer], rerun.states[layer + 1], stream, relative=relative).numpy()
        values[layer] = np.where((rerun.labels >= TEXT) & (rerun.labels < len(LABELS)), found, np.nan)
    if fitted is None:
        raise StoreError("no layer to draw")
    processor = getattr(rerun.adapter, "processor", None)
    scale = getattr(rerun.adapter, "image_processor", None) or getattr(processor, "image_processor", None)
    what = DrawnExample(words_of(rerun), _views(rerun, scale), values)
    about = _about(opened, rerun, fitted, stream, relative)
    with drawing() as Figure:
        save(_page(Figure, what, about), path, "\n".join(about))
    return values


def _views(rerun: Rerun, scale: Any) -> list[View]:
    found = views(rerun.adapter.info.architecture, rerun.labels, rerun.batch.inputs, rerun.example.images, scale)
    for label in (VIDEO, AUDIO):
        if len(positions := np.flatnonzero(rerun.labels == label)):
            found.append(View(f"{len(positions)} {LABELS[label]} tokens in sequence", positions))
    return found


def _about(opened: OpenStore, rerun: Rerun, fitted: TokenMap, stream: str, relative: bool) -> list[str]:
    target = "h[l+1]" if stream == "hidden" else "h[l+1] − h[l]"
    task = opened.identity.task
    answered = {True: ", answered rightly", False: ", answered wrongly", None: ""}[rerun.record.right]
    size = fitted.n_tokens / fitted.dim
    return [
        f"{shown(opened.model)}, {shown(task.name)}, example {shown(rerun.example.id)}{answered}",
        f"Colour: what the linear map from h[l] to {target} leaves of a token, "
        + (f"as a share of the norm of {target}." if relative else "as a norm."),
        f"Map fitted on {fitted.n_tokens:,} tokens of {len(opened.tokens.records):,} examples, all modalities, this "
        f"example's among them (d = {fitted.dim}, N/d = {size:.3g}).",
        "Grey: marks that are not measured.",
    ]


def _page(Figure: type[Figure], what: DrawnExample, about: list[str]) -> Figure:
    import matplotlib
    from matplotlib.colors import Normalize

    placed = [view for view in what.views if view.grid is not None]
    strips = [view for view in what.views if view.grid is None]
    left = sum(SQUARE + GAP for _ in placed)
    lines = laid_out(what.words, int((WIDTH - 2 * MARGIN - left) / CHARACTER))
    n_lines = max((line for line, _, _ in lines.values()), default=-1) + 1
    row = TITLE + max(SQUARE if placed else 0.0, len(strips) * (STRIP + TITLE) + n_lines * LINE) + GAP
    about = [piece for line in about for piece in textwrap.wrap(line, int((WIDTH - 2 * MARGIN - left) / 0.065))]
    head = max(0.17 * len(about) + 0.55, SQUARE + TITLE if placed else 0.0) + GAP
    height = head + row * len(what.values) + MARGIN
    figure = Figure(figsize=(WIDTH, height))
    every = np.concatenate([v[np.isfinite(v)] for v in what.values.values()])
    norm = Normalize(0.0, float(np.percentile(every, HIGHEST)) or 1.0)
    colours = matplotlib.colormaps[COLOURMAP]

    def box(x: float, y: float, w: float, h: float) -> Axes:
        axes = figure.add_axes((x / WIDTH, 1 - (y + h) / height, w / WIDTH, h / height))
        axes.set_axis_off()
        return axes

    for k, view in enumerate(placed):
        axes = box(MARGIN + k * (SQUARE + GAP), TITLE, SQUARE, SQUARE)
        _picture(axes, view, None, colours, norm)
        axes.set_title("the picture" if view.picture is not None else "", fontsize=FONT)
    text = box(MARGIN + left, 0.08, WIDTH - 2 * MARGIN - left, head)
    text.text(0, 1, "\n".join(about), va="top", fontsize=8, transform=text.transAxes, linespacing=1.35)
    bar = figure.add_axes(((MARGIN + left) / WIDTH, 1 - (head - GAP - 0.12) / height, 2.2 / WIDTH, 0.1 / height))
    figure.colorbar(
        matplotlib.cm.ScalarMappable(norm, colours), cax=bar, orientation="horizontal", extend="max"
    ).ax.tick_params(labelsize=FONT)
    for k, (layer, values) in enumerate(what.values.items()):
        top = head + k * row
        for j, view in enumerate(placed):
            axes = box(MARGIN + j * (SQUARE + GAP), top + TITLE, SQUARE, SQUARE)
            axes.set_title(view.title, fontsize=FONT)
            _picture(axes, view, values, colours, norm)
        x, y = MARGIN + left, top + TITLE
        box(x, top, 3, TITLE).text(0, 0.3, f"layer {layer} → {layer + 1}", fontsize=9, fontweight="bold")
        for view in strips:
            axes = box(x, y + TITLE, WIDTH - 2 * MARGIN - left, STRIP)
            axes.set_title(view.title, fontsize=FONT, loc="left")
            axes.imshow(values[view.positions][None], cmap=colours, norm=norm, aspect="auto", interpolation="none")
            y += STRIP + TITLE
        axes = box(x, y, WIDTH - 2 * MARGIN - left, max(n_lines, 1) * LINE)
        axes.set_xlim(0, WIDTH - 2 * MARGIN - left)
        axes.set_ylim(max(n_lines, 1) * LINE, 0)
        _words(axes, lines, values, colours, norm)
    return figure


def _picture(axes: Axes, view: View, values: np.ndarray | None, colours: Any, norm: Any) -> None:
    assert view.grid is not None
    rows, columns = view.grid
    extent = (0.0, float(columns), float(rows), 0.0)
    if values is not None:
        axes.imshow(coloured(view, colours(norm(values[view.positions]))[:, :3]), extent=extent, interpolation="none")
    elif view.picture is not None:
        axes.imshow(view.picture, extent=extent)
        axes.hlines(range(1, rows), 0, columns, colors="white", linewidths=0.4)
        axes.vlines(range(1, columns), 0, rows, colors="white", linewidths=0.4)
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    height, width = (rows, columns) if view.picture is None else view.picture.shape[:2]
    axes.set_aspect((height / rows) / (width / columns))


def coloured(view: View, colours: np.ndarray) -> np.ndarray:
    """The colour of every pixel: that of its patch, exactly so where the picture is lightest, darker elsewhere.

    ``colours``, float (n, 3), are those of the patches of a view with a grid; the result is float (h, w, 3), of the
    picture's size, or (rows, columns, 3) where there is no picture.
    """
    assert view.grid is not None
    patches = colours.reshape(*view.grid, 3)
    if view.picture is None:
        return patches
    (height, width), (rows, columns) = view.picture.shape[:2], view.grid
    # at least one pixel for each patch, and whole ones, so that borders lie where they are
    down, across = -(-height // rows), -(-width // columns)
    y = np.arange(rows * down) * height // (rows * down)
    x = np.arange(columns * across) * width // (columns * across)
    grey = (view.picture @ np.array([0.299, 0.587, 0.114]))[np.ix_(y, x)]
    spread = float(np.ptp(grey))
    shade = DARKEST + (1 - DARKEST) * (grey - grey.min()) / spread if spread > 0 else np.ones_like(grey)
    pixels = patches.repeat(down, axis=0).repeat(across, axis=1)
    return np.asarray(pixels * np.asarray(shade)[..., None])


def laid_out(words: Sequence[str], columns: int) -> dict[int, tuple[int, int, str]]:
    r"""Position → (line, column, text) of every word that has text, in lines of so many characters.

    >>> laid_out(["Which", " of", "", " these\n", "A"], 9)
    {0: (0, 0, 'Which'), 1: (0, 5, ' of'), 3: (1, 0, ' these↵'), 4: (2, 0, 'A')}
    """
    out, line, column = {}, 0, 0
    for place, word in enumerate(words):
        if not word:
            continue
        text = "".join("↵" if c == "\n" else c if c.isprintable() else "·" for c in word)
        while wide(text) > columns:
            text = text[: max(len(text) // 2, 1) - 1] + "…" if len(text) > 2 else "…"
        if column + wide(text) > columns:
            line, column = line + 1, 0
        out[place] = (line, column, text)
        column += wide(text)
        if word.endswith("\n"):
            line, column = line + 1, 0
    return out


def wide(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _words(axes: Axes, lines: dict[int, tuple[int, int, str]], values: np.ndarray, colours: Any, norm: Any) -> None:
    from matplotlib.patches import Rectangle

    for place, (line, column, text) in lines.items():
        x, y = column * CHARACTER, (line + 0.5) * LINE
        ink = "#8c8c8c"
        if np.isfinite(values[place]):
            colour = colours(norm(values[place]))
            ink = "white" if np.dot(colour[:3], (0.299, 0.587, 0.114)) < 0.5 else "black"
            axes.add_patch(
                Rectangle(
                    (x, line * LINE), wide(text) * CHARACTER, LINE * 0.96, facecolor=colour, edgecolor="white", lw=0.4
                )
            )
        axes.text(x, y, text, fontsize=FONT, family="monospace", color=ink, va="center_baseline")
