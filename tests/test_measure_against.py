"""benchmarks/measure_against.py: two commands in turns."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.measure_against import Command, in_turns

BUSY = "import time\nwhile time.process_time() < {seconds}: pass\nopen({file!r}, 'a').write({name!r})"


def command(seconds, file, name):
    return Command([sys.executable, "-c", BUSY.format(seconds=seconds, file=str(file), name=name)], {})


def test_the_one_that_needs_less_ends_first_although_it_starts_last(tmp_path):
    ended = tmp_path / "ended"
    spent = in_turns({"long": command(1.5, ended, "long "), "short": command(0.3, ended, "short ")}, 0.1)
    assert ended.read_text() == "short long "
    assert spent["long"].processor_seconds >= 1.5 and spent["short"].processor_seconds >= 0.3
    assert spent["long"].seconds > spent["short"].seconds and spent["long"].peak_bytes > 1e6


def test_one_that_fails_ends_both(tmp_path):
    fails = Command([sys.executable, "-c", "raise SystemExit(3)"], {})
    with pytest.raises(subprocess.CalledProcessError, match="status 3"):
        in_turns({"long": command(60, tmp_path / "never", ""), "fails": fails}, 0.1)
    assert not (tmp_path / "never").exists()
