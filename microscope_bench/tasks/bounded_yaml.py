"""YAML of which reading, and whatever prints what was read, takes bounded time and memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from microscope_bench.system.disk import read_regular

LARGEST_FILE = 1 << 20
"""Bytes; the largest task file of lm-eval has 63,000."""
DEEPEST = 50
MOST_CHARACTERS = 10 * LARGEST_FILE
"""Of the values, every alias written out: ten anchors that each name the one before ten times are 10^10 values."""


class BeyondBounds(yaml.MarkedYAMLError):
    """A YAML text that is nested too deeply, or too long once its aliases are written out."""


class RepeatedKey(yaml.YAMLError):
    """A mapping that has a key twice, of which YAML readers take the last."""


class BoundedLoader(yaml.SafeLoader):
    """Safe YAML whose nodes are at most :data:`DEEPEST` deep, and whose mappings have each key once."""

    keys_repeat = False  # whether a key may stand twice

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """The next node; a BeyondBounds where it lies too deep."""
        if self._depth == DEEPEST:
            raise BeyondBounds(problem=f"nested more than {DEEPEST} deep", problem_mark=self.get_mark())
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """The next mapping; a RepeatedKey where it has a key of its own twice."""
        node = super().compose_mapping_node(anchor)
        lines: dict[Any, int] = {}
        for key, _ in () if self.keys_repeat else node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            line, name = key.start_mark.line + 1, self.construct_object(key)
            if name in lines:
                raise RepeatedKey(
                    f"line {line}: key {key.value!r} stands on line {lines[name]} already; keep one of the two"
                )
            lines[name] = line
        return node


def read_text(path: Path) -> str:
    """The text of a regular file; an OSError or a UnicodeError where it has none, or too much."""
    return read_regular(path, LARGEST_FILE).decode("utf-8")


def load_bounded(text: str, loader_type: type[BoundedLoader]) -> Any:
    """The value of a YAML text; a YAMLError, or whatever a constructor raises, where there is none.

    Aliases are counted before anything is made of the nodes: merging mappings (``<<``) writes them out, and so does
    ``str`` of a value.
    """
    loader = loader_type(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_size(node: yaml.Node, sizes: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Characters and depth of a node, every alias written out."""
    known = sizes.get(id(node), (0, 0))
    if known is None:
        raise BeyondBounds(problem="a value holds itself", problem_mark=node.start_mark)
    if known[0]:
        return known
    sizes[id(node)] = None
    if isinstance(node, yaml.ScalarNode):
        size, depth = len(node.value) + 1, 1
    else:
        pairs = node.value if isinstance(node, yaml.MappingNode) else [(each,) for each in node.value]
        below = [_check_size(each, sizes) for pair in pairs for each in pair]
        size = 1 + sum(characters for characters, _ in below)
        depth = 1 + max((deep for _, deep in below), default=0)
    if size > MOST_CHARACTERS or depth > DEEPEST:
        raise BeyondBounds(
            problem=f"with its aliases written out, a value has more than {MOST_CHARACTERS:,} characters, or is "
            f"nested more than {DEEPEST} deep",
            problem_mark=node.start_mark,
        )
    sizes[id(node)] = size, depth
    return size, depth
