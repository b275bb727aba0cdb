"""Several processes of one run on the toy model, as a launcher would start them; also their command line."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables by which a launcher says who is who, and where the first one is."""


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def environments(n: int) -> list[dict[str, str]]:
    """What a launcher tells each of n processes."""
    alone = {name: value for name, value in os.environ.items() if name not in VARIABLES} | {"OMP_NUM_THREADS": "1"}
    if n == 1:
        return [alone]
    common = alone | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(n)}
    return [common | {"RANK": str(k), "LOCAL_RANK": str(k), "LOCAL_WORLD_SIZE": str(n)} for k in range(n)]


def start(n: int, code: str, *arguments: str) -> list[subprocess.Popen[str]]:
    """n processes that run the same code."""
    command = [sys.executable, "-c", code, *arguments]
    return [
        subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for env in environments(n)
    ]


def outcomes(processes: list[subprocess.Popen[str]], seconds: float = 120) -> list[tuple[int, str, str]]:
    """Status, output and complaints of each."""
    found = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=seconds)
            found.append((process.returncode, out, err))
    finally:
        for process in processes:
            process.kill()
    return found
