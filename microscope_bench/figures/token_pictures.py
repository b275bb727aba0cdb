"""Pictures of projected tokens: a panel per layer, coloured by modality, by example or by model."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from microscope_bench.adapters.base import LABELS
from microscope_bench.errors import MicroscopeError, StoreError
from microscope_bench.figures.open_store import OpenStore
from microscope_bench.figures.projections import Projection, evenly, project, shares
from microscope_bench.identity import short_revision
from microscope_bench.measure.tokens import JOINT
from microscope_bench.publish.figure_file import COLOURS, drawing, save, shown
from microscope_bench.system.lazy_registry import unknown_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOUR_BY = ("modality", "example", "model")
MOST_TOKENS = 1500
N_EXAMPLES = 8
"""Examples that are shown where colours tell examples: there are eight colours."""
MARKERS = {"text": "o", "image": "^", "video": "s", "audio": "D"}
MOST_IN_A_ROW = 4
PANEL = 3.0
"""Inches."""


@dataclass(frozen=True)
class TokenChoice:
    """Which tokens to draw, and how.

    Attributes:
        method: a member of :data:`~microscope_bench.figures.projections.METHODS`.
        colour_by: a member of :data:`COLOUR_BY`; None means modality, or model where there are several stores.
        modality: the only one to show, or ``joint``.
        layers: boundaries, a panel each; None means the first, the middle and the last.
        most_tokens: how many are drawn at most, of all stores together.
        without_sinks: leave out massive-activation tokens, which may hold the widest axis alone.
        examples: ids, where colours tell examples; None means the first eight that were measured.
        seed: of t-SNE.
    """

    method: str = "svd"
    colour_by: str | None = None
    modality: str = JOINT
    layers: Sequence[int] | None = None
    most_tokens: int = MOST_TOKENS
    without_sinks: bool = False
    examples: Sequence[str] | None = None
    seed: int = 0


@dataclass(frozen=True)
class DrawnTokens:
    """The tokens of one store that are drawn, the same in every panel: ``index``, int64 (n,), into the store's tokens.

    By its group each of them is coloured, by its modality marked.
    """

    opened: OpenStore
    index: np.ndarray
    groups: np.ndarray
    modalities: np.ndarray


def draw_tokens(stores: Sequence[OpenStore], path: Path, choice: TokenChoice | None = None) -> list[int]:
    """Draws the tokens of a store, or of several, at some layers; each layer is projected by itself.

    Tokens are the first by the hash by which every sample of a run is drawn, so that fewer are a subset of more, and
    the same tokens are shown at every layer. Of each modality (of each example, of each model) there are equally many
    as far as it has them.

    Args:
        stores: finished ones; several only of states of one width. They are projected together.
        path: of the picture; its suffix says the format.
        choice: of tokens.

    Returns:
        How many tokens were drawn of each store.

    Raises:
        MicroscopeError: what was asked for is not there, or makes no picture; the message says why.
    """
    choice = choice or TokenChoice()
    choice = replace(choice, colour_by=choice.colour_by or ("model" if len(stores) > 1 else "modality"))
    _check(stores, choice)
    middle = evenly(min(opened.n_layers for opened in stores))
    layers = sorted(set(choice.layers)) if choice.layers is not None else middle
    for opened in stores:
        opened.check_layers(layers, opened.n_layers)
    drawn = [
        _drawn(opened, label, choice, choice.most_tokens // len(stores))
        for opened, label in zip(stores, _labels(stores), strict=True)
    ]
    clouds = ([d.opened.tokens.states(layer, d.index).double().numpy() for d in drawn] for layer in layers)
    panels = {
        layer: project(np.concatenate(cloud), choice.method, choice.seed)
        for layer, cloud in zip(layers, clouds, strict=True)
    }
    title = _title(stores, drawn, choice)
    with drawing() as Figure:
        save(_figure(Figure, panels, drawn, title, only_modality=choice.colour_by == "modality"), path, title)
    return [len(d.index) for d in drawn]


def _figure(
    Figure: type[Figure], panels: dict[int, Projection], drawn: Sequence[DrawnTokens], title: str, only_modality: bool
) -> Figure:
    groups, modalities = (np.concatenate([getattr(d, name) for d in drawn]) for name in ("groups", "modalities"))
    order = list(dict.fromkeys(groups))
    found = [(g, m, (groups == g) & (modalities == m)) for g in order for m in MARKERS]
    kinds = [(g, m, here) for g, m, here in found if here.any()]
    n_rows = -(-len(panels) // MOST_IN_A_ROW)
    in_a_row = -(-len(panels) // n_rows)
    width = PANEL * max(in_a_row, 1.5)
    columns = max(1, int(width * 13 / (max(len(shown(g, 40)) for g in order) + 16)))
    height = (PANEL + 0.1) * n_rows + 0.8 + 0.19 * -(-len(kinds) // columns)
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(n_rows, in_a_row, squeeze=False).flatten()
    for axes, (layer, projection) in zip(grid, panels.items(), strict=False):
        for group, modality, here in kinds:
            axes.scatter(*projection.points[here].T, **_style(order.index(group), modality))
        axes.set_title(f"layer {layer}")
        axes.set_xlabel(projection.axes[0])
        axes.set_ylabel(projection.axes[1])
        axes.set_xticks([])
        axes.set_yticks([])
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    figure.suptitle(textwrap.fill(title, int(width * 14)), fontsize="medium")
    figure.legend(
        list(grid[0].collections),
        [f"{shown(g, 40)}{'' if only_modality else f', {m}'} ({here.sum():,})" for g, m, here in kinds],
        loc="outside lower center",
        ncols=columns,
        fontsize="small",
        markerscale=2,
        frameon=False,
    )
    return figure


def _check(stores: Sequence[OpenStore], choice: TokenChoice) -> None:
    if len({opened.tokens.dim for opened in stores}) > 1:
        listed = ", ".join(f"{opened.model}: {opened.tokens.dim}" for opened in stores)
        raise StoreError(f"states of different widths lie in no common space ({listed}); draw each store by itself")
    if len(stores) > 1 and choice.colour_by == "example":
        raise MicroscopeError("examples are told by colour in one store; give one, or colour by model")
    if len(stores) > len(COLOURS):
        raise MicroscopeError(f"{len(stores)} stores: there are {len(COLOURS)} colours to tell them by")


def _labels(stores: Sequence[OpenStore]) -> list[str]:
    """A label for each store: its model, numbered where several are of one name."""
    names = [opened.model for opened in stores]
    return [
        name if names.count(name) == 1 else f"{name} ({names[: k + 1].count(name)})" for k, name in enumerate(names)
    ]


def _drawn(opened: OpenStore, label: str, choice: TokenChoice, most: int) -> DrawnTokens:
    tokens = opened.tokens
    if choice.modality != JOINT and choice.modality not in tokens.modalities:
        known = [*tokens.modalities, JOINT]
        raise unknown_name("modality", choice.modality, known, f"{opened.model} has no other.")
    pool = tokens.of(choice.modality)
    if choice.without_sinks:
        pool = pool[~opened.is_sink[pool]]
    modality_of = np.array(LABELS)[tokens.modality]
    if choice.colour_by == "example":
        order = _examples(opened, choice.examples)
        group_of = np.array([record.id for record in tokens.records])[tokens.example]
        pool = pool[np.isin(group_of[pool], order)]
    elif choice.colour_by == "modality":
        group_of, order = modality_of, [name for name in MARKERS if name in tokens.modalities]
    else:
        group_of, order = np.full(len(modality_of), label), [label]
    pool = tokens.in_random_order(pool)
    parts = [(g, m) for g in order for m in tokens.modalities]
    members = [pool[(group_of[pool] == g) & (modality_of[pool] == m)] for g, m in parts]
    counts = shares([len(part) for part in members], most)
    index = np.concatenate([part[:n] for part, n in zip(members, counts, strict=True)])
    return DrawnTokens(opened, index, group_of[index], modality_of[index])


def _examples(opened: OpenStore, wanted: Sequence[str] | None) -> list[str]:
    """The ids of the examples that colours tell."""
    if wanted is None:
        return [record.id for record in opened.store.records if record.skipped is None][:N_EXAMPLES]
    ids = [record.id for record in opened.tokens.records]
    for name in wanted:
        if name not in ids:
            raise unknown_name("example", name, ids, f"{opened.store.path} holds no other.")
    if len(wanted) > len(COLOURS):
        raise MicroscopeError(f"{len(wanted)} examples: there are {len(COLOURS)} colours to tell them by")
    return list(wanted)


def _style(group: int, modality: str) -> dict[str, Any]:
    return {
        "color": COLOURS[group],
        "marker": MARKERS[modality],
        "s": 7,
        "alpha": 0.55,
        "linewidths": 0,
        "rasterized": True,  # thousands of points make a vector file that no reader scrolls through
    }


def _title(stores: Sequence[OpenStore], drawn: Sequence[DrawnTokens], choice: TokenChoice) -> str:
    identity = stores[0].identity
    how = "SVD of each layer" if choice.method == "svd" else f"t-SNE of each layer (seed {choice.seed})"
    n, of = sum(len(d.index) for d in drawn), sum(len(opened.tokens.example) for opened in stores)
    models = ", ".join(shown(label, 40) for label in _labels(stores))
    apart = ", sinks left out" if choice.without_sinks else ""
    data = f"{shown(identity.task.name)} at {shown(short_revision(identity.dataset.revision))}"
    return f"{models}: {how}, {n:,} of {of:,} kept tokens{apart}, {data}"
