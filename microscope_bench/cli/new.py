"""``microscope-bench new adapter FILE.py`` and ``new task DIR``: a commented beginning that runs as it is."""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import shlex
from pathlib import Path
from string import Template

from microscope_bench.errors import MicroscopeError

TEMPLATES = Path(__file__).parents[1] / "templates"
_COLOURS = {"red": "#d62728", "green": "#2ca02c", "blue": "#1f77b4", "yellow": "#ffd92f", "grey": "#7f7f7f"}
_PICTURES = 20


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describes the verb and its options."""
    parser.description = (
        "Writes the beginning of an adapter or of a task. It runs as it is; its comments say what to change."
    )
    parser.add_argument("what", choices=("adapter", "task"))
    parser.add_argument("path", type=Path, help="the adapter's file (my_mllm.py), or the task's directory (my_task)")


def run(args: argparse.Namespace) -> int:
    """Writes the files, none over another, and prints the commands that run them."""
    path: Path = args.path
    name = path.stem if args.what == "adapter" else path.resolve().name
    if args.what == "adapter" and path.suffix != ".py":
        raise MicroscopeError(f"{path} must be a Python file: microscope-bench new adapter {path}.py")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise MicroscopeError(f"{name!r} must begin with a letter and have letters, digits and _ alone")
    if path.exists():
        raise MicroscopeError(f"{path} is there already and is left as it is; give another name")
    template = Template((TEMPLATES / f"{args.what}.txt").read_text(encoding="utf-8"))
    names = {"name": name, "table": json.dumps(str(path / "questions.csv"))}  # YAML reads it as it is
    text = template.substitute(names, path=path.name)
    files = {path if args.what == "adapter" else path / f"{name}.yaml": text.encode()}
    files |= _questions(path) if args.what == "task" else {}
    try:
        for file, content in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("xb") as stream:
                stream.write(content)
    except OSError as error:
        raise MicroscopeError(f"{file} cannot be written: {error.strerror}") from error
    main = next(iter(files))
    print(f"wrote {main}" + (f", {len(files) - 1} files beside it" if len(files) > 1 else ""))
    told = template.substitute(names, path=shlex.quote(str(path)))
    commands = re.findall(r"^[# ]+(microscope-bench .*)$", told, re.MULTILINE)
    print("it runs at once:", *commands, sep="\n  ")
    return 0


def _questions(directory: Path) -> dict[Path, bytes]:
    """A table of questions, and the pictures that they are about."""
    from PIL import Image, ImageDraw

    files: dict[Path, bytes] = {}
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["id", "picture", "question", "a", "b", "answer"])
    for number in range(_PICTURES):
        colours = list(_COLOURS)
        right, wrong = colours[number % len(colours)], colours[(number + 1 + number // len(colours)) % len(colours)]
        picture = Image.new("RGB", (64, 64), "white")
        left, top = 4 + number * 7 % 24, 4 + number * 11 % 24
        ImageDraw.Draw(picture).ellipse((left, top, left + 30, top + 30), fill=_COLOURS[right])
        file = directory / "pictures" / f"{number:02}.png"
        content = io.BytesIO()
        picture.save(content, "PNG")
        files[file] = content.getvalue()
        options = [right, wrong] if number % 2 else [wrong, right]
        answer = "AB"[options.index(right)]
        rows.writerow([number, f"pictures/{file.name}", "Which colour has the disc?", *options, answer])
    return {directory / "questions.csv": table.getvalue().encode(), **files}
