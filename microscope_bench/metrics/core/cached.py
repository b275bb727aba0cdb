"""A property that is computed once for each object, in whichever thread asks for it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

T = TypeVar("T")


class cached_property(functools.cached_property[T]):  # it is used as the standard one is
    """The standard library's, without the one lock that Python 3.11 holds for all objects of a class.

    Under that lock the clouds of two boundaries could not compute their moments at the same time.
    """

    def __init__(self, func: Callable[[Any], T]) -> None:
        super().__init__(func)
        self.lock = nullcontext()
