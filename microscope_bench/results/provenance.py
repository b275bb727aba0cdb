"""Where a number comes from: software, hardware, command. Never a directory or a user's name."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import tempfile
from contextlib import suppress
from functools import cache
from importlib import metadata
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
    "torchao",
    "peft",
    "huggingface_hub",
    "datasets",
    "lm_eval",
    "numpy",
    "scipy",
    "scikit-learn",
    "pillow",
)
"""The packages whose version can change a number; those that are not installed are left out."""

version = cache(metadata.version)  # a loop that measures at every step asks often

# a URL, a drive, a home directory or a root; not the operator //
_START = r"""(?:[A-Za-z][\w+.-]*://|[A-Za-z]:[\\/]|~[\w.-]*[\\/]|[\\/](?=[^,;"'\s]*\w))"""
# between quotes a path may hold blanks
_ABSOLUTE_PATH = re.compile(rf"""(?<=(["'`])){_START}.*?(?=\1(?!\w))|(?<![\w./~\\-]){_START}[^,;"'`\s]*""")


def without_directories(text: str) -> str:
    """A message with every absolute or home-relative path in it cut down to its last part.

    >>> without_directories("cannot open '/home/me/my data/7/image.png': truncated")
    "cannot open 'image.png': truncated"
    """
    own = {os.path.expanduser("~")}  # noqa: PTH111 - Path.home() raises where there is none
    for find in (os.getcwd, tempfile.gettempdir):
        with suppress(OSError):  # deleted meanwhile, or none to write to
            own.add(find())
    for directory in sorted(own | set(map(os.path.realpath, own)), key=len, reverse=True):
        if len(Path(directory).parts) > 1:  # such directories may hold blanks without quotes
            text = re.sub(rf"(?<![\w.-]){re.escape(directory)}(?![\w-]|\.\w)", "~", text)
    return _ABSOLUTE_PATH.sub(lambda match: last_part(match.group()), text)


def last_part(path: str) -> str:
    """The name of a file or directory, without where it lies; ``~`` for a home, whose name is its user's."""
    path = path.rstrip("\\/ ")
    *above, name = re.split(r"[\\/]", path)
    if above[-1:] in (["home"], ["Users"]) or path == os.path.expanduser("~"):  # noqa: PTH111
        return "~" + re.sub(r".*?([:.)\]]*)$", r"\1", name)
    return re.sub(r"^~[\w.-]+", "~", name)


def failure(error: BaseException, where: str) -> Failure:
    """What a failed result says of the error that ended it, and of the stage in which it rose."""
    message = " ".join([str(error), *getattr(error, "__notes__", ())])
    return Failure(type=type(error).__name__, message=shortened(without_directories(message)), where=where)


def environment(
    *,
    device: str,
    processor: str | None,
    image_processor: str | None,
    command: str,
    captured: Environment | None = None,
) -> Environment:
    """Describes this process; ``captured`` is that of the run that captured the states, if it was not this one."""
    packages = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            packages[name] = version(name)
    commit, dirty = _checkout(Path(microscope_bench.__file__).resolve().parent)
    return Environment(
        package_version=microscope_bench.__version__,
        commit=commit,
        dirty=dirty,
        python=platform.python_version(),
        platform=f"{platform.system()}-{platform.machine()}",
        packages=packages,
        device=device,
        processor=processor,
        image_processor=image_processor,
        command=command,
        captured_with=None if captured is None else _in_short(captured),
    )


def _in_short(environment: Environment) -> dict[str, str]:
    named = {"microscope_bench": environment.package_version, "command": environment.command}
    if environment.commit is not None:
        named["commit"] = environment.commit + (" (dirty)" if environment.dirty else "")
    return {**named, **{k: v for k, v in environment.packages.items() if k in ("torch", "transformers")}}


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
