"""Pictures of projected tokens: a panel per layer, coloured by modality, by example or by model."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from microscope_bench.adapters.base import LABELS
from microscope_bench.errors import MicroscopeError, StoreError
from microscope_bench.figures.projections import evenly, project, shares
from microscope_bench.figures.stores import OpenStore
from microscope_bench.measure.tokens import JOINT
from microscope_bench.publish.figure_file import COLOURS, drawing, save, shown
from microscope_bench.results.signature import short_revision
from microscope_bench.system.lazy_registry import unknown_name

COLOUR_BY = ("modality", "example", "model")
MOST_TOKENS = 1500
N_EXAMPLES = 8
"""Examples that are shown where colours tell examples: there are eight colours."""
MARKERS = {"text": "o", "image": "^", "video": "s", "audio": "D"}
MOST_IN_A_ROW = 4
PANEL = 3.0
"""Inches."""


@dataclass(frozen=True)
class Chosen:
    """The tokens of one store that are drawn, the same in every panel.

    Attributes:
        opened: the store.
        index: int64 (n,), into the store's tokens.
        groups: n names, by which they are coloured.
        modalities: n modalities, by which they are marked.
    """

    opened: OpenStore
    index: np.ndarray
    groups: np.ndarray
    modalities: np.ndarray


def draw_tokens(
    stores: Sequence[OpenStore],
    path: Path,
    *,
    method: str = "svd",
    colour_by: str | None = None,
    modality: str = JOINT,
    layers: Sequence[int] | None = None,
    most_tokens: int = MOST_TOKENS,
    without_sinks: bool = False,
    examples: Sequence[str] | None = None,
    seed: int = 0,
) -> list[int]:
    """Draws the tokens of a store, or of several, at some layers; each layer is projected by itself.

    Tokens are the first by the hash by which every sample of a run is drawn, so that fewer are a subset of more, and
    the same tokens are shown at every layer. Of each modality (of each example, of each model) there are equally many
    as far as it has them.

    Args:
        stores: finished ones; several only of states of one width. They are projected together.
        path: of the picture; its suffix says the format.
        method: a member of :data:`~microscope_bench.figures.projections.METHODS`.
        colour_by: a member of :data:`COLOUR_BY`; None means modality, or model where there are several.
        modality: the only one to show, or ``joint``.
        layers: boundaries, a panel each; None means the first, the middle and the last.
        most_tokens: how many are drawn at most, of all stores together.
        without_sinks: leave out massive-activation tokens, which may hold the widest axis alone.
        examples: ids, where colours tell examples; None means the first eight that were measured.
        seed: of t-SNE.

    Returns:
        How many tokens were drawn of each store.

    Raises:
        MicroscopeError: what was asked for is not there, or makes no picture; the message says why.
    """
    colour_by = colour_by or ("model" if len(stores) > 1 else "modality")
    _check(stores, colour_by)
    layers = sorted(set(layers)) if layers is not None else evenly(min(opened.n_layers for opened in stores))
    for opened in stores:
        opened.check_layers(list(layers), opened.n_layers)
    most = most_tokens // len(stores)
    chosen = [
        _chosen(opened, label, colour_by, modality, most, without_sinks, examples)
        for opened, label in zip(stores, _labels(stores), strict=True)
    ]
    panels = [
        project(np.concatenate([c.opened.tokens.states(layer, c.index).double().numpy() for c in chosen]), method, seed)
        for layer in layers
    ]
    groups, modalities = (np.concatenate([getattr(c, name) for c in chosen]) for name in ("groups", "modalities"))
    order = list(dict.fromkeys(groups))
    kinds = [(g, m) for g in order for m in MARKERS if ((groups == g) & (modalities == m)).any()]
    with drawing() as Figure:
        n_rows = -(-len(panels) // MOST_IN_A_ROW)
        in_a_row = -(-len(panels) // n_rows)
        width = PANEL * max(in_a_row, 1.5)
        columns = max(1, int(width * 13 / (max(len(shown(g, 40)) for g in order) + 16)))
        height = (PANEL + 0.1) * n_rows + 0.8 + 0.19 * -(-len(kinds) // columns)
        figure = Figure(figsize=(width, height), layout="constrained")
        grid = figure.subplots(n_rows, in_a_row, squeeze=False).flatten()
        for axes, layer, projection in zip(grid, layers, panels, strict=False):
            for group, kind in kinds:
                here = (groups == group) & (modalities == kind)
                axes.scatter(*projection.points[here].T, **_style(order.index(group), kind))
            axes.set_title(f"layer {layer}")
            axes.set_xlabel(projection.axes[0])
            axes.set_ylabel(projection.axes[1])
            axes.set_xticks([])
            axes.set_yticks([])
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        title = _title(stores, chosen, method, seed, without_sinks, len(groups))
        figure.suptitle(textwrap.fill(title, int(width * 14)), fontsize="medium")
        only_modality = colour_by == "modality"
        figure.legend(
            list(grid[0].collections),
            [
                f"{shown(g, 40)}{'' if only_modality else f', {m}'} ({((groups == g) & (modalities == m)).sum():,})"
                for g, m in kinds
            ],
            loc="outside lower center",
            ncols=columns,
            fontsize="small",
            markerscale=2,
            frameon=False,
        )
        save(figure, path, title)
    return [len(c.index) for c in chosen]


def _check(stores: Sequence[OpenStore], colour_by: str) -> None:
    if len({opened.tokens.dim for opened in stores}) > 1:
        listed = ", ".join(f"{opened.model}: {opened.tokens.dim}" for opened in stores)
        raise StoreError(f"states of different widths lie in no common space ({listed}); draw each store by itself")
    if len(stores) > 1 and colour_by == "example":
        raise MicroscopeError("examples are told by colour in one store; give one, or colour by model")
    if len(stores) > len(COLOURS):
        raise MicroscopeError(f"{len(stores)} stores: there are {len(COLOURS)} colours to tell them by")


def _labels(stores: Sequence[OpenStore]) -> list[str]:
    """A label for each store: its model, numbered where several are of one name."""
    names = [opened.model for opened in stores]
    return [
        name if names.count(name) == 1 else f"{name} ({names[: k + 1].count(name)})" for k, name in enumerate(names)
    ]


def _chosen(
    opened: OpenStore,
    label: str,
    colour_by: str,
    modality: str,
    most: int,
    without_sinks: bool,
    examples: Sequence[str] | None,
) -> Chosen:
    tokens = opened.tokens
    if modality != JOINT and modality not in tokens.modalities:
        raise unknown_name("modality", modality, [*tokens.modalities, JOINT], f"{opened.model} has no other.")
    pool = tokens.of(modality)
    if without_sinks:
        pool = pool[~opened.is_sink[pool]]
    modality_of = np.array(LABELS)[tokens.modality]
    ids = np.array([record.id for record in tokens.records])
    if colour_by == "example":
        wanted = list(examples) if examples is not None else _first_examples(opened)
        for name in wanted:
            if name not in ids:
                raise unknown_name("example", name, list(ids), f"{opened.store.path} holds no other.")
        if len(wanted) > len(COLOURS):
            raise MicroscopeError(f"{len(wanted)} examples: there are {len(COLOURS)} colours to tell them by")
        pool = pool[np.isin(ids[tokens.example[pool]], wanted)]
        group_of, order = ids[tokens.example], wanted
    elif colour_by == "modality":
        group_of, order = modality_of, [name for name in MARKERS if name in tokens.modalities]
    else:
        group_of, order = np.full(len(modality_of), label), [label]
    pool = tokens.in_random_order(pool)
    parts = [(g, m) for g in order for m in tokens.modalities]
    members = [pool[(group_of[pool] == g) & (modality_of[pool] == m)] for g, m in parts]
    counts = shares([len(part) for part in members], most)
    index = np.concatenate([part[:n] for part, n in zip(members, counts, strict=True)])
    return Chosen(opened, index, group_of[index], modality_of[index])


def _first_examples(opened: OpenStore) -> list[str]:
    return [record.id for record in opened.store.records if record.skipped is None][:N_EXAMPLES]


def _style(group: int, modality: str) -> dict[str, Any]:
    return {
        "color": COLOURS[group],
        "marker": MARKERS[modality],
        "s": 7,
        "alpha": 0.55,
        "linewidths": 0,
        "rasterized": True,  # thousands of points make a vector file that no reader scrolls through
    }


def _title(
    stores: Sequence[OpenStore], chosen: Sequence[Chosen], method: str, seed: int, without_sinks: bool, n: int
) -> str:
    run = stores[0].run
    how = "SVD of each layer" if method == "svd" else f"t-SNE of each layer (seed {seed})"
    of = sum(len(opened.tokens.example) for opened in stores)
    models = ", ".join(shown(label, 40) for label in _labels(stores))
    apart = ", sinks left out" if without_sinks else ""
    data = f"{shown(run['task']['name'])} at {shown(short_revision(run['dataset']['revision']))}"
    return f"{models}: {how}, {n:,} of {of:,} kept tokens{apart}, {data}"
