from __future__ import annotations

import pytest

from microscope_bench.errors import MicroscopeError, UnknownNameError
from microscope_bench.system.lazy_registry import Registry


def things():
    return Registry("thing", {"path": "pathlib:Path", "lost": "no_such_module:x"}, hint="List them.")


def test_a_name_is_imported_when_it_is_asked_for():
    from pathlib import Path

    assert things().get("path") is Path


def test_listing_imports_nothing():
    assert list(things()) == ["lost", "path"]


def test_an_unknown_name_gets_the_nearest_and_the_hint():
    with pytest.raises(UnknownNameError, match=r"unknown thing 'pth'\. Did you mean path\? List them\."):
        things().get("pth")


def test_a_name_whose_module_is_gone_says_where_it_points():
    with pytest.raises(MicroscopeError, match="no_such_module:x, which does not import"):
        things().get("lost")
