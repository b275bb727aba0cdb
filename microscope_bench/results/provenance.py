"""Where a number comes from: software, hardware, command. Never a directory or a user's name."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import microscope_bench
from microscope_bench.results.records import Environment, Failure
from microscope_bench.system.field_types import shortened

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "accelerate",
    "torchvision",
    "bitsandbytes",
    "huggingface_hub",
    "datasets",
    "lm_eval",
    "numpy",
    "scipy",
    "scikit-learn",
    "pillow",
)
"""The packages whose version can change a number; those that are not installed are left out."""

_PATH_START = r"""
        [a-zA-Z][a-zA-Z0-9+.-]*://                   # a URL
      | [A-Za-z]:[\\/]                               # a drive letter
      | ~[\w.-]*(?=[\\/,;:\s"']|$)                   # ~, ~user
      | \$\{?HOME\}?(?=[\\/]|$)                      # $HOME where no shell replaced it
      | [\\/](?=[^,;"'\s]*\w)                        # a root, a Windows share; not the operator //
      | (?:[\w.-]+[\\/])*\.\.(?=[\\/]|$)             # a relative path that climbs
"""
_NO_PATH_BEFORE = r"(?: (?<![\w./~\\-]) | (?<=^-[A-Za-z]) )"  # -o/path counts as a start
_HOME_ITSELF = re.compile(r"(?:/home|/Users|[A-Za-z]:[\\/](?:Users|home))[\\/][^\\/]+|/root|~[\w.-]*|\$\{?HOME\}?")
_QUOTED = re.compile(r"""(?<!\w)(b?(['"`]))(.+?)(\2)(?!\w)""")
_SEPARATOR = re.compile(r"""^-[A-Za-z]|[,;:="'\n]""")


def sanitised_command(argv: Sequence[str]) -> str:
    """A command line as one string, with every path that tells of this machine cut down to its last part.

    These are absolute and home-relative paths and relative ones that exist here. Paths are found inside ``key=value``
    and comma lists too; ``dir/file.py:name`` keeps ``file.py:name``. A home directory itself becomes ``~``. Hub ids
    stay, unless a directory of that name lies here.

    >>> sanitised_command(["/opt/x/bin/mb", "run", "--model_args", "pretrained=/home/me/llava,dtype=float32"])
    'mb run --model_args pretrained=llava,dtype=float32'
    """
    return shlex.join(_cut_argument(argument) for argument in argv)


def without_directories(text: str) -> str:
    """A message with every absolute or home-relative path in it cut down to its last part.

    A path in quotes may hold blanks; without quotes it ends at the first blank behind the home, current or temporary
    directory.

    >>> without_directories("cannot open '/home/me/my data/7/image.png': truncated")
    "cannot open 'image.png': truncated"
    """
    return _path(r"""[^,;"'\s]""").sub(_cut, _QUOTED.sub(_cut_quoted, text))


def _cut_quoted(match: re.Match[str]) -> str:
    opening, _, inside, closing = match.groups()
    whole = _path(".").fullmatch(inside)
    return opening + (_last_part(inside) if whole else _cut_argument(inside)) + closing


def _cut_argument(argument: str) -> str:
    return _path(r"""[^,;"'\n]""").sub(_cut, _cut_existing(argument))


def _cut_existing(argument: str) -> str:
    """Cuts the relative paths that exist: the argument itself, or what stands between its separators."""
    done, rest = "", argument
    while separator := None if _exists_here(rest) else _SEPARATOR.search(rest):
        head = rest[: separator.start()]
        done += (Path(head).name if _exists_here(head) else head) + separator.group()
        rest = rest[separator.end() :]
    return done + (Path(rest).name if _exists_here(rest) else rest)


def _exists_here(path: str) -> bool:
    return bool(Path(path).name) and not os.path.isabs(path) and os.path.exists(path)  # noqa: PTH110, PTH117 - no raise


def _path(following: str) -> re.Pattern[str]:
    """A pattern for paths.

    Args:
        following: matches one character behind the start. This machine's own directories match whatever they hold.
    """
    own = "|".join(map(re.escape, _own_directories())) or r"(?!)"
    return re.compile(f"{_NO_PATH_BEFORE} (?: {own} | {_PATH_START} ) (?: {own} | {following} )*", re.VERBOSE)


def _own_directories() -> list[str]:
    """The user's home, the current and the temporary directory, the longest first; never a bare root."""
    found = {os.path.expanduser("~")}  # noqa: PTH111 - Path.home() raises where there is none
    for directory in (os.getcwd, tempfile.gettempdir):
        with suppress(OSError):  # deleted meanwhile, or none to write to
            found.add(directory())
    found |= {os.path.realpath(directory) for directory in found}
    return sorted((d for d in found if len(Path(d).parts) > 1 and os.path.isabs(d)), key=len, reverse=True)  # noqa: PTH117


def failure(error: BaseException, where: str) -> Failure:
    """What a failed result says of the error that ended it.

    Args:
        error: the error.
        where: the stage in which it rose: "capture", "measure", ...
    """
    message = " ".join([str(error), *getattr(error, "__notes__", ())])
    return Failure(type=type(error).__name__, message=shortened(without_directories(message)), where=where)


def environment(
    *,
    device: str,
    processor: str | None,
    image_processor: str | None,
    command: Sequence[str],
    packages: Iterable[str] = PACKAGES,
    captured: Environment | None = None,
) -> Environment:
    """Describes this process.

    Args:
        device: device of the forward passes, for instance ``cpu`` or ``cuda (NVIDIA H200)``.
        processor: class name of the processor or tokenizer, or None.
        image_processor: class name of the image processor, or None.
        command: the arguments of the command line; paths in them are cut down.
        packages: names whose installed versions are recorded.
        captured: the environment of the run that captured the states, if it was not this one.
    """
    commit, dirty = _checkout(Path(microscope_bench.__file__).resolve().parent)
    return Environment(
        package_version=microscope_bench.__version__,
        commit=commit,
        dirty=dirty,
        python=platform.python_version(),
        platform=f"{platform.system()}-{platform.machine()}",
        packages=dict(_installed(packages)),
        device=device,
        processor=processor,
        image_processor=image_processor,
        command=sanitised_command(command),
        captured_with=None if captured is None else _in_short(captured),
    )


def _in_short(environment: Environment) -> dict[str, str]:
    named = {"microscope_bench": environment.package_version, "command": environment.command}
    if environment.commit is not None:
        named["commit"] = environment.commit + (" (dirty)" if environment.dirty else "")
    return {**named, **{k: v for k, v in environment.packages.items() if k in ("torch", "transformers")}}


def _cut(match: re.Match[str]) -> str:
    return _last_part(match.group())


def _last_part(path: str) -> str:
    trimmed = path.removeprefix("file://").rstrip("\\/ ")
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises where there is none
    if trimmed.rstrip(":.)]") == home or _HOME_ITSELF.fullmatch(trimmed):
        return "~"
    return re.split(r"[\\/]", trimmed)[-1] or path[:1]


def _installed(packages: Iterable[str]) -> Iterable[tuple[str, str]]:
    for name in packages:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def _checkout(package: Path) -> tuple[str | None, bool | None]:
    """Commit of the checkout that the package itself lies in, and whether its code differs; never that of the cwd."""
    root = package.parent
    if not (root / ".git").exists() or _git(root, "ls-files", "--error-unmatch", f"{package.name}/__init__.py") is None:
        return None, None
    commit = _git(root, "rev-parse", "HEAD")
    # only what can change a number: a new result file or a changed page does not make the code dirty
    changes = _git(root, "status", "--porcelain", "--", package.name, "tasks", "pyproject.toml")
    return (commit, bool(changes)) if commit and changes is not None else (None, None)


def _git(root: Path, *arguments: str) -> str | None:
    # a hook or an outer git command may have set GIT_DIR, which would answer for another repository
    environ = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20, env=environ, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
