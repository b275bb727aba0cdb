"""Checkpoints that mean harm or are broken: tiny valid ones, each changed in one way that its seed draws."""

from __future__ import annotations

import json
import os
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

FAMILIES = ("llama", "gpt2", "llava", "qwen2_vl", "gemma3", "idefics3")
NUMBERS: tuple[Any, ...] = (10**6, 10**9, 10**12, 2**63, -1, 0, -(10**9), 1e300, float("nan"))
ODD_VALUES: tuple[Any, ...] = ("1000000", "abc", None, [], {}, True, [10**9] * 3, {"a": [1]})
TEMPLATES = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}" + "{% endfor %}" * 3,
    "{% set ns = namespace(s='x' * 4096) %}{% for a in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
    "{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}",
    "{{ 'x' * 10 ** 11 }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ raise_exception('no') }}",
    "{{ messages[0].nothing.at_all }}",
    "{% for",
    "",
)

Change = Callable[[Path, random.Random], None]


def _edit(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


def _places(document: Any, kinds: tuple[type, ...]) -> list[tuple[Any, Any]]:
    """The containers and keys of all values of these types."""
    found, waiting = [], [document]
    while waiting:
        holder = waiting.pop()
        for key, value in holder.items() if isinstance(holder, dict) else enumerate(holder):
            if isinstance(value, kinds) and not isinstance(value, bool):
                found.append((holder, key))
            if isinstance(value, dict | list):
                waiting.append(value)
    return found


def _some_json(directory: Path, rng: random.Random) -> Path:
    return rng.choice(sorted(directory.glob("*.json")))


def number_of_a_config(directory: Path, rng: random.Random) -> None:
    def change(document: dict[str, Any]) -> None:
        holder, key = rng.choice(_places(document, (int, float)))
        holder[key] = rng.choice(NUMBERS)

    _edit(rng.choice([directory / "config.json", *directory.glob("*processor_config.json")]), change)


def depth_or_width(directory: Path, rng: random.Random) -> None:
    names = ("layers", "hidden", "vocab", "depth", "n_layer", "n_embd", "intermediate", "positions", "image_size")

    def change(document: dict[str, Any]) -> None:
        places = [place for place in _places(document, (int,)) if any(name in str(place[1]) for name in names)]
        holder, key = rng.choice(places)
        holder[key] = rng.choice((10**6, 10**9, 10**12, -3, 0))

    _edit(directory / "config.json", change)


def value_of_another_type(directory: Path, rng: random.Random) -> None:
    def change(document: dict[str, Any]) -> None:
        holder, key = rng.choice(_places(document, (int, float, str, list, dict)))
        holder[key] = rng.choice(ODD_VALUES)

    _edit(_some_json(directory, rng), change)


def deep_json(directory: Path, rng: random.Random) -> None:
    depth, file = rng.choice((60, 900, 10**6)), _some_json(directory, rng)
    inside = '{"a":' * depth + "1" + "}" * depth if rng.random() < 0.5 else "[" * depth + "]" * depth
    file.write_text(file.read_text().rstrip().removesuffix("}") + f', "zz": {inside}}}')


def huge_file(directory: Path, rng: random.Random) -> None:
    with rng.choice(sorted(directory.glob("*.j*"))).open("r+b") as file:
        file.truncate(2 << 30)


def special_file(directory: Path, rng: random.Random) -> None:
    file = rng.choice(sorted(directory.iterdir()))
    file.unlink()
    match rng.choice(("fifo", "zero", "random", "socket", "directory", "loop", "nothing")):
        case "fifo":
            os.mkfifo(file)
        case "zero":
            file.symlink_to("/dev/zero")
        case "random":
            file.symlink_to("/dev/urandom")
        case "socket":
            with socket.socket(socket.AF_UNIX) as made:
                here = Path.cwd()
                os.chdir(directory)  # a socket's path has at most 107 bytes
                made.bind(file.name)
                os.chdir(here)
        case "directory":
            file.mkdir()
        case "loop":
            file.symlink_to(file)
        case _:
            file.symlink_to(directory / "nowhere")


def header_of_weights(directory: Path, rng: random.Random) -> None:
    file = directory / "model.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    name, other = rng.sample([name for name in header if name != "__metadata__"], 2)
    text = None
    match rng.randrange(10):
        case 0:
            length = rng.choice((0, 1, 2**40, 2**63, 2**64 - 1))
            file.write_bytes(length.to_bytes(8, "little") + content[8:])
            return
        case 1:
            header[name]["shape"] = rng.choice(([], [10**9, 10**9], [2**63, 2], [-1], [0], "x", 3, [1] * 10**5))
        case 2:
            header[name]["dtype"] = rng.choice(("F33", "BOOL", "I64", "C64", 7, None))
        case 3:
            header[name]["data_offsets"] = rng.choice(
                ([0, 10**12], [-4, 4], [8, 4], [0], "x", header[other]["data_offsets"])
            )
        case 4:
            header |= {f"x{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(300_000)}
        case 5:
            pair = json.dumps({name: header[name]})[1:-1]
            text = json.dumps(header).removesuffix("}") + f", {pair}, {pair}}}"
        case 6:
            header[name] = {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}
            header = {name: header[name]}
        case 7:
            header["__metadata__"] = rng.choice(({"format": 3}, [], {"format": "x" * 10**6}, {"a": {"b": {}}}))
        case 8:
            text = "[" * 10**6
        case _:
            data = data[: len(data) // 2]
    head = (json.dumps(header) if text is None else text).encode()
    file.write_bytes(len(head).to_bytes(8, "little") + head + data)


def index_of_weights(directory: Path, rng: random.Random) -> None:
    if rng.random() < 0.8:
        (directory / "model.safetensors").rename(directory / "part.safetensors")
    names: tuple[Any, ...] = ("part.safetensors", "../x.safetensors", "/dev/zero", "config.json", 3, None, ["x"], "\0")
    weight_map = rng.choice(
        (["part.safetensors"], 3, "x", None, {}, {"a": {}}, *({"model.norm.weight": name} for name in names))
    )
    index = rng.choice(({"metadata": {}, "weight_map": weight_map}, {"metadata": 3}, [], weight_map))
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def tokenizer(directory: Path, rng: random.Random) -> None:
    def change(document: dict[str, Any]) -> None:
        match rng.randrange(5):
            case 0:
                holder, key = rng.choice(_places(document, (int, str, list, dict)))
                holder[key] = rng.choice((*ODD_VALUES, *NUMBERS[:-1]))
            case 1:
                document["added_tokens"].append({**document["added_tokens"][0], "id": 10**9, "content": "<zz>"})
            case 2:
                document["model"]["vocab"] = {f"t{i}": i for i in range(300_000)}
            case 3:
                document["normalizer"] = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "a" * 10**6}
            case _:
                document[rng.choice(list(document))] = rng.choice(ODD_VALUES)

    _edit(directory / "tokenizer.json", change)


def processor(directory: Path, rng: random.Random) -> None:
    def change(document: dict[str, Any]) -> None:
        holder, key = rng.choice(_places(document, (int, float, list, dict, str)))
        holder[key] = rng.choice((*NUMBERS, *ODD_VALUES))

    _edit(rng.choice(sorted(directory.glob("*processor_config.json")) or [directory / "tokenizer_config.json"]), change)


def template(directory: Path, rng: random.Random) -> None:
    (directory / "chat_template.jinja").write_text(rng.choice(TEMPLATES))


def damaged_bytes(directory: Path, rng: random.Random) -> None:
    file = rng.choice(sorted(directory.iterdir()))
    content = bytearray(file.read_bytes())
    for _ in range(rng.choice((1, 20))):
        content[rng.randrange(min(len(content), 4000))] = rng.randrange(256)
    file.write_bytes(content[: rng.choice((len(content), len(content) // 2, 1, 0))])


def code_of_its_own(directory: Path, rng: random.Random) -> None:
    ran = directory / "RAN"
    for stem in ("code", "modeling_foreign"):
        (directory / f"{stem}.py").write_text(
            f"open({str(ran)!r}, 'w').close()\nclass Config: pass\nclass Model: pass\n"
        )
    loaders = {
        f"Auto{kind}": "code.Model" for kind in ("Config", "Model", "ModelForCausalLM", "Tokenizer", "Processor")
    }

    def change(document: dict[str, Any]) -> None:
        document["auto_map"] = loaders
        if rng.random() < 0.5:
            document["model_type"] = "foreign"

    for file in directory.glob("*config.json"):
        _edit(file, change)


CHANGES: tuple[Change, ...] = (
    number_of_a_config,
    depth_or_width,
    value_of_another_type,
    deep_json,
    huge_file,
    special_file,
    header_of_weights,
    index_of_weights,
    tokenizer,
    processor,
    template,
    damaged_bytes,
    code_of_its_own,
)
