"""Where a number comes from: software, hardware, command. Never a directory or a user's name."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import microscope_bench
from microscope_bench.results.records import Environment, Failure

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
    (?: (?<![\w./~\\-]) | (?<=^-[A-Za-z]) )          # not inside a word or another path; -o/path counts as a start
    (?: [a-zA-Z][a-zA-Z0-9+.-]*://                   # a URL
      | [A-Za-z]:[\\/]                               # a drive letter
      | ~[\w.-]*(?=[\\/,;:\s"']|$)                   # ~, ~user
      | \$\{?HOME\}?(?=[\\/]|$)                      # $HOME where no shell replaced it
      | [\\/]                                        # a root, a Windows share
      | (?:[\w.-]+[\\/])*\.\.(?=[\\/]|$)             # a relative path that climbs
    )
"""
_PATH_IN_ARGUMENT = re.compile(_PATH_START + r"""[^,;"'\n]*""", re.VERBOSE)
_PATH_IN_PROSE = re.compile(_PATH_START + r"""[^,;"'\s]*""", re.VERBOSE)
_HOME_ITSELF = re.compile(r"(?:/home|/Users|[A-Za-z]:[\\/](?:Users|home))[\\/][^\\/]+|/root|~[\w.-]*|\$\{?HOME\}?")


def sanitised_command(argv: Sequence[str]) -> str:
    """A command line as one string, with every absolute or home-relative path cut down to its last part.

    Paths are found inside ``key=value`` and comma lists too; ``dir/file.py:name`` keeps ``file.py:name``. A home
    directory itself becomes ``~``. Hub ids and plain relative paths stay.

    >>> sanitised_command(["/opt/x/bin/mb", "run", "--model_args", "pretrained=/home/me/llava,dtype=float32"])
    'mb run --model_args pretrained=llava,dtype=float32'
    """
    return shlex.join(_PATH_IN_ARGUMENT.sub(_last_part, argument) for argument in argv)


def without_directories(text: str) -> str:
    """A message with every absolute or home-relative path in it cut down to its last part.

    >>> without_directories("cannot open '/home/me/data/7/image.png': truncated")
    "cannot open 'image.png': truncated"
    """
    return _PATH_IN_PROSE.sub(_last_part, text)


def failure(error: BaseException, where: str) -> Failure:
    """What a failed result says of the error that ended it.

    Args:
        error: the error.
        where: the stage in which it rose: "capture", "measure", ...
    """
    return Failure(type=type(error).__name__, message=without_directories(str(error)), where=where)


def environment(
    *,
    device: str,
    processor: str,
    image_processor: str | None,
    command: Sequence[str],
    packages: Iterable[str] = PACKAGES,
    captured: Environment | None = None,
) -> Environment:
    """Describes this process.

    Args:
        device: device of the forward passes, for instance ``cpu`` or ``cuda (NVIDIA H200)``.
        processor: class name of the processor or tokenizer.
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


def _last_part(match: re.Match[str]) -> str:
    path = match.group()
    trimmed = path.rstrip("\\/ ")
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises where there is none
    if trimmed == home or _HOME_ITSELF.fullmatch(trimmed):
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
