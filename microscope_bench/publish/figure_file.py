"""How a picture becomes a file: the same content gives the same bytes, in print as on a screen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microscope_bench.errors import ResultError
from microscope_bench.system.disk import replacing
from microscope_bench.system.printable import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("svg", "png", "pdf")

COLOURS = ("#0b5fa5", "#d95f02", "#1b7837", "#762a83", "#b2182b", "#4aa3df", "#a6761d", "#636363")
"""Told apart with any colour vision; beyond eight, markers tell."""

SETTINGS: dict[Any, Any] = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titley": 1.0,  # and not above whatever ticks there are, which would measure them all
    "font.size": 9,
    "pdf.fonttype": 42,  # whole fonts, which publishers ask for; not outlines that no reader can search
    "svg.hashsalt": "microscope_bench",
    "text.parse_math": False,  # a name with dollars is a name
}


def picture_format(path: Path) -> str | None:
    """The format that a suffix asks for; None for a directory, which is there or has a name without a suffix."""
    suffix = path.suffix.lower()[1:]
    if suffix and suffix not in FORMATS and not path.is_dir():
        raise ResultError(f"{path}: pictures are drawn as {', '.join(FORMATS)}; name it {path.stem}.pdf, for instance")
    return suffix if suffix in FORMATS else None


def shown(text: object, longest: int = 60) -> str:
    """Text from a file as one line of a picture: nothing that breaks a line, turns its direction or is no character."""
    line = one_line(text)
    if len(line) > longest:
        line = f"{line[: longest // 2]}…{line[len(line) - longest // 2 + 1 :]}"
    return f" {line}" if line.startswith("_") else line  # a legend leaves out what begins with an underscore


@contextmanager
def drawing(**settings: Any) -> Iterator[type[Figure]]:
    """Gives the class of figures, under settings that no configuration file and no caller of matplotlib changes."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ResultError("pictures need matplotlib: pip install 'microscope-bench[plots]'") from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        every: dict[Any, Any] = {**SETTINGS, **settings}
        matplotlib.rcParams.update(every)
        yield Figure


def save(figure: Figure, path: Path, description: str) -> None:
    """Writes a figure inside :func:`drawing`, whole or not at all, without a time; makes the directory."""
    lines = "\n".join(shown(line, 10_000) for line in description.splitlines())
    metadata: dict[str, str | None] = {"Description": lines}
    file_format = path.suffix[1:].lower()
    if file_format == "svg":
        metadata |= {"Date": None}
    elif file_format == "pdf":
        metadata = {"Subject": lines, "CreationDate": None, "ModDate": None}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=file_format, metadata=metadata, dpi=200)
