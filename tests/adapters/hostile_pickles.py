"""Files of ``torch.save`` that mean harm: a valid projection or special embeddings, changed as a seed draws it."""

from __future__ import annotations

import io
import pickle
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

FUNCTIONS = (
    "os system",
    "posix system",
    "subprocess Popen",
    "builtins eval",
    "__builtin__ exec",
    "builtins bytearray",
    "builtins getattr",
    "torch FloatTensor",
    "torch.nn.modules.transformer TransformerEncoderLayer",
    "torch.nn.modules.linear Linear",
    "models VisualToGPTMapping",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_device_tensor_from_numpy",
    "torch._tensor _rebuild_from_type_v2",
    "torch.storage _load_from_bytes",
    "torch.hub load",
    "collections Counter",
    "numpy zeros",
)


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def _number(number: int) -> bytes:
    encoded = pickle.encode_long(number)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def _call(function: str, arguments: bytes) -> bytes:
    return b"c" + function.replace(" ", "\n").encode() + b"\n(" + arguments + b"tR"


def _program(rng: random.Random, command: str) -> bytes:
    """One program that was written by hand."""
    start, end = b"\x80\x02", b"."
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + _text("0") + _text("cpu")
    rebuild = "torch._utils _rebuild_tensor_v2"
    match rng.randrange(12):
        case 0 | 1:
            arguments = rng.choice(
                (_text(command), _number(20_000) * 2, _number(10**10), _text(f"__import__('os').system({command!r})"))
            )
            return start + _call(rng.choice(FUNCTIONS), arguments) + end
        case 2:  # a storage that the file does not hold
            return (
                start
                + _call(rebuild, storage + _number(10**12) + b"tQK\x00(" + _number(10**12) + b"t(K\x01t\x89N")
                + end
            )
        case 3:  # a view outside of its storage
            size = rng.choice((10**9, -1, 0, 2**62))
            return start + _call(rebuild, storage + b"K\x04tQK\x00(" + _number(size) + b"t(K\x00t\x89N") + end
        case 4:  # a module that holds itself
            module = (
                b"cmodels\nVisualToGPTMapping\n)\x81q\x00}q\x01("
                + _text("_modules")
                + b"}"
                + _text("transformer_layer")
            )
            return start + module + b"h\x00s" + _text("_parameters") + b"}ub" + end
        case 5:  # lists of lists of lists
            return (
                start + b"]q\x00" + b"(h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00lq\x00".replace(b"l", b"e]") * 30 + end
            )
        case 6:
            return start + b")" + b"\x85" * rng.choice((1000, 300_000)) + end
        case 7:
            return start + b"X" + struct.pack("<I", 2**32 - 1) + b"x" + end
        case 8:
            return start + b"]r" + struct.pack("<I", 2**32 - 1) + end
        case 9:
            return start + b"\x8b" + struct.pack("<i", rng.choice((2**31 - 1, -1))) + end
        case 10:
            return start + b"(" * 10**6 + b"t" * 10**6 + end
        case _:
            return pickle.dumps(Runs(command), protocol=rng.randrange(6))


class Runs:
    """Runs a command when it is unpickled without care."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, (self.command,)


def spoil(file: Path, rng: random.Random, command: str) -> None:
    """Changes a valid file in one way; ``command`` is what it would run."""
    with zipfile.ZipFile(file) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in content if name.endswith("data.pkl"))
    compression, again = zipfile.ZIP_STORED, []
    match rng.randrange(9):
        case 0 | 1 | 2:
            content[name] = _program(rng, command)
        case 3 | 4 | 5:
            damaged = bytearray(content[name])
            for _ in range(rng.choice((1, 1, 3, 30))):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            content[name] = bytes(damaged)
        case 6:  # numbers and names inside the program
            old, new = rng.choice(
                (
                    (b"num_headsq", b"num_heavyq"),
                    (b"K\x04", rng.choice((b"K\x00", b"K\xff", b"N", b"J\xff\xff\xff\xff", b"]"))),
                    (b"FloatStorage", rng.choice((b"LongStorage", b"StringStorage", b"BoolStorage"))),
                    (b"storage", b"module"),
                    (b"weight", b"w" * 6),
                    (b"K\x01", b"K\x07"),
                )
            )
            content[name] = content[name].replace(old, new, rng.choice((1, 1000)))
        case 7:
            key = rng.choice([key for key in content if "/data/" in key])
            content[key] = rng.choice((b"", content[key][:-4], content[key] + b"\0" * 4))
        case _:
            compression = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
            key = rng.choice(list(content))
            again = [(key, b"\0" * (64 << 20))] if compression == zipfile.ZIP_DEFLATED else [(key, content[key])] * 5000
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for key, value in (*content.items(), *again):
            archive.writestr(key, value)
    whole = stream.getvalue()
    if rng.random() < 0.1:
        whole = rng.choice((whole[: len(whole) // 2], content[name], b"", whole.replace(b"PK\x05\x06", b"PK\x05\x07")))
    file.write_bytes(whole)
