"""Jinja templates of tasks and checkpoints, rendered in bounded time and memory.

A template can loop for ever, or ask for any amount of memory in one step (``'a' * 10**10``, ``|center(10**10)``). What
a C function has under way cannot be ended from within a process: a signal waits until it returns, and a limit on memory
would be one of the whole run. Templates are therefore rendered by a process of their own, which has a limit on its
memory and is killed when its time is over. It starts with the first template and ends with the process that started it.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from datetime import datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microscope_bench.errors import TaskError

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

SECONDS = 10.0
MEMORY = 1 << 30
MOST_CHARACTERS = 10_000_000
STARTING = 120.0
"""Seconds that the process may take to start, on a machine that has much else to do."""

TEMPLATES = 256  # compiled ones that are kept; a task has about five, unless those that its rows hold are templates too


class Missing(str):
    """Stands in for a value that is missing: as untrue as that, and easy to find in what is rendered."""

    def __bool__(self) -> bool:
        return False


def render(template: str, variables: Mapping[str, Any]) -> str:
    """The text of a task's template, as ``lm_eval.utils.apply_template`` gives it.

    Raises:
        TaskError: it takes more than :data:`SECONDS`, :data:`MEMORY` bytes, or :data:`MOST_CHARACTERS`.
        Exception: of the name and with the message of what the template raises.
    """
    if not {"{", "\r"} & set(template):
        return template
    draws = "random" in template or "lipsum" in template  # from the numbers that the task's seeds decide on
    used = {name: variables[name] for name in sorted(_names(template)) if name in variables}
    asked = pickle.dumps(("task", template, used, random.getstate() if draws else None))
    return (_rendered if draws else _rendered_once)(asked)


def render_chat(template: str, variables: Mapping[str, Any]) -> str:
    """The text of a chat template, as transformers gives it; raises what :func:`render` raises."""
    return _rendered(pickle.dumps(("chat", template, variables, None)))


def _rendered(asked: bytes) -> str:
    return _Renderer.of(os.getpid()).render(asked)


_rendered_once = lru_cache(64)(_rendered)  # a row is rendered as plain text and as turns of a conversation


@lru_cache(TEMPLATES)
def _names(template: str) -> frozenset[str]:
    """Every name in a template; it is parsed, and nothing of it computed, as compiling it would."""
    from jinja2 import Environment, TemplateSyntaxError, nodes

    try:
        return frozenset(node.name for node in Environment().parse(template).find_all(nodes.Name))
    except (TemplateSyntaxError, RecursionError):  # the other process says so
        return frozenset()


class _Renderer:
    """The process, and how it is asked."""

    def __init__(self, pid: int) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    @cache
    def of(pid: int) -> _Renderer:
        """The one of a process; a copy of it (``os.fork``) has another."""
        return _Renderer(pid)

    def render(self, asked: bytes) -> str:
        with self._lock:
            process = self._process or self._started()
            try:
                kind, said, state = self._answer(process, asked)
            except BaseException as error:  # an interruption, too: its answer is not to be taken for the next one
                process.kill()
                process.communicate()
                self._process = None
                if isinstance(error, TimeoutError):
                    raise TaskError(f"a template does not end within {SECONDS:g} s; loop over less") from None
                if isinstance(error, EOFError | BrokenPipeError):
                    raise TaskError("a template ends the process that renders it; it asks for too much") from None
                raise
        if state is not None:
            random.setstate((state[0], tuple(state[1]), state[2]))
        if kind == "text":
            return said
        if kind in ("MemoryError", "TooLong"):
            raise TaskError(f"a template makes more than {MOST_CHARACTERS:,} characters, or takes more than 1 GB")
        raise type(kind, (Exception,), {})(said)

    def _started(self) -> subprocess.Popen[bytes]:
        path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), *sys.path]))
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # what is pressed on a keyboard is for the run, which ends this one
        )
        _read_line(self._process, STARTING)
        return self._process

    def _answer(self, process: subprocess.Popen[bytes], asked: bytes) -> tuple[str, str, Any]:
        assert process.stdin is not None
        process.stdin.write(asked)
        process.stdin.flush()
        kind, said, state = json.loads(_read_line(process, SECONDS))
        return str(kind), str(said), state


def _read_line(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    assert process.stdout is not None
    end, line = time.monotonic() + seconds, bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            if not selector.select(max(0.0, end - time.monotonic())):
                raise TimeoutError
            piece = os.read(process.stdout.fileno(), 1 << 20)
            if not piece:
                raise EOFError
            line += piece
    return bytes(line)


def limit_memory(more_bytes: int) -> None:
    """Bounds how much memory this process takes from now on, on Linux, which keeps such a limit."""
    if sys.platform != "linux":
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    hardest = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = pages * resource.getpagesize() + more_bytes
    most = most if hardest == resource.RLIM_INFINITY else min(most, hardest)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def serve() -> None:
    """What the other process does: reads what is asked, writes a line with the text of it, or with what it raises."""
    environments = {"task": _task_environment(), "chat": _chat_environment()}
    compiled = lru_cache(TEMPLATES)(lambda kind, template: environments[kind].from_string(template))
    asked, answer = sys.stdin.buffer, sys.stdout.buffer
    limit_memory(MEMORY)
    line = b"\n"
    while True:
        try:
            answer.write(line)
            answer.flush()
            kind, template, variables, state = pickle.load(asked)
        except (EOFError, BrokenPipeError):
            return
        if state is not None:
            random.setstate(state)
        try:
            text = compiled(kind, template).render(**variables)
            said = ("text", text) if len(text) <= MOST_CHARACTERS else ("TooLong", "")
        except Exception as error:
            said = type(error).__name__, str(error)[:10_000]
        line = json.dumps((*said, None if state is None else random.getstate())).encode() + b"\n"


def _task_environment() -> SandboxedEnvironment:
    """lm-eval's, which has one filter of its own."""
    from jinja2 import BaseLoader, StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters["regex_replace"] = _regex_replace
    return environment


def _regex_replace(string: str, pattern: str, repl: str, count: int = 0) -> str:
    return re.sub(pattern, repl, string, count=count)


def _chat_environment() -> SandboxedEnvironment:
    """That of transformers, whose import would take longer than all that is rendered here."""
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The tag around an assistant's words."""

        tags = {"generation"}  # noqa: RUF012 - as its base class has it

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = lambda value, ensure_ascii=False, **options: json.dumps(
        value, ensure_ascii=ensure_ascii, **options
    )
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment
