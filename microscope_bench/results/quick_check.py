"""A JSON Schema as one Python function: whether a document follows it, but not why it does not.

jsonschema takes a quarter of a millisecond a score, which is minutes for a thousand files. So a document is first
looked at in this way, and only what is turned down goes to jsonschema, which has the last word and says what is wrong.
What is let through here must follow the schema: a test holds the two against each other. Only the keywords that the
result schemas use are known; a schema with another one is refused when the function is built.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Check = Callable[[Any], bool]

_SURROGATE = re.compile("[\ud800-\udfff]")


def is_integer(value: object) -> bool:
    """An integer as it stands in a file: neither 3.0 nor true."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """A finite number; true is none."""
    if type(value) is float:
        return math.isfinite(value)
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_string(value: object) -> bool:
    """Text that can be written as UTF-8: no half of a surrogate pair."""
    return isinstance(value, str) and (value.isascii() or _SURROGATE.search(value) is None)


_TYPES: dict[str, Check] = {
    "integer": is_integer,
    "number": is_number,
    "string": is_string,
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}
_NO_RULE = {"description", "title", "$schema", "$id", "$defs"}


def quick_check(rule: Mapping[str, Any], definitions: Mapping[str, Any]) -> Check:
    """A function that says whether a JSON value follows a schema.

    Args:
        rule: the schema.
        definitions: what ``#/$defs/...`` refers to.

    Raises:
        ValueError: the schema uses a keyword, or a keyword in a way, that is not known here.
    """
    rest = {key: value for key, value in rule.items() if key not in _NO_RULE}
    checks: list[Check] = []
    if "$ref" in rest:
        checks.append(quick_check(definitions[rest.pop("$ref").removeprefix("#/$defs/")], definitions))
    if "const" in rest:
        constant = rest.pop("const")
        checks.append(lambda value: type(value) is type(constant) and value == constant)
    if "enum" in rest:
        checks.append(_one_of(rest.pop("enum")))
    if "type" in rest:
        checks.append(_typed(rest.pop("type")))
    if "properties" in rest:
        checks.append(_record(_fields(rest, definitions)))
    if "additionalProperties" in rest:
        checks.append(_mapping(rest, definitions))
    if "items" in rest:
        checks.append(_list(rest.pop("items"), definitions))
    if "pattern" in rest:
        search = re.compile(rest.pop("pattern")).search
        checks.append(lambda value: not isinstance(value, str) or search(value) is not None)
    shortest, longest = rest.pop("minLength", 0), rest.pop("maxLength", math.inf)
    if shortest or longest < math.inf:
        checks.append(lambda value: not isinstance(value, str) or shortest <= len(value) <= longest)
    low, high = rest.pop("minimum", -math.inf), rest.pop("maximum", math.inf)
    if low > -math.inf or high < math.inf:
        checks.append(lambda value: not is_number(value) or low <= value <= high)
    if rest:
        raise ValueError(f"the quick check knows no {', '.join(rest)}")
    return _all(checks)


def _all(checks: list[Check]) -> Check:
    if len(checks) == 1:
        return checks[0]
    if len(checks) == 2:
        first, second = checks
        return lambda value: first(value) and second(value)
    return lambda value: all(check(value) for check in checks)


def _one_of(allowed: list[Any]) -> Check:
    if not all(entry is None or isinstance(entry, str) for entry in allowed):
        raise ValueError("the quick check knows enumerations of strings and null only")  # 1, 1.0 and true are equal
    known = frozenset(allowed)
    return lambda value: (value is None or isinstance(value, str)) and value in known


def _typed(names: str | list[str]) -> Check:
    kinds = [_TYPES[name] for name in ([names] if isinstance(names, str) else names)]
    if len(kinds) == 1:
        return kinds[0]
    first, second = kinds
    return lambda value: first(value) or second(value)


def _fields(rest: dict[str, Any], definitions: Mapping[str, Any]) -> dict[str, Check]:
    """The checks of an object's properties; takes the keywords that describe them out of ``rest``."""
    properties = rest.pop("properties")
    if rest.pop("additionalProperties", True) is not False or set(rest.pop("required", ())) != set(properties):
        raise ValueError("the quick check knows objects with all of their properties and no others")
    return {name: quick_check(rule, definitions) for name, rule in properties.items()}


def _record(fields: Mapping[str, Check]) -> Check:
    def check(value: Any) -> bool:
        if not isinstance(value, dict):
            return True
        return value.keys() == fields.keys() and all(follows(value[name]) for name, follows in fields.items())

    return check


def _mapping(rest: dict[str, Any], definitions: Mapping[str, Any]) -> Check:
    values = quick_check(rest.pop("additionalProperties"), definitions)
    names = quick_check(rest.pop("propertyNames"), definitions)
    fewest = rest.pop("minProperties", 0)

    def check(value: Any) -> bool:
        if not isinstance(value, dict):
            return True
        return len(value) >= fewest and all(map(names, value)) and all(map(values, value.values()))

    return check


def _list(item: Mapping[str, Any], definitions: Mapping[str, Any]) -> Check:
    target = definitions[item["$ref"].removeprefix("#/$defs/")] if "$ref" in item else item
    if target.get("type") == "object" and "properties" in target:
        return _table(target, definitions)
    follows = quick_check(item, definitions)
    return lambda value: not isinstance(value, list) or all(map(follows, value))


def _table(rule: Mapping[str, Any], definitions: Mapping[str, Any]) -> Check:
    """Of a list of objects with the same fields: column by column, equal values of a field once.

    What a field may hold does not depend on the others, so this is the same as row by row.
    """
    rest = {key: value for key, value in rule.items() if key not in _NO_RULE and key != "type"}
    fields = _fields(rest, definitions)
    if rest:
        raise ValueError(f"the quick check knows no {', '.join(rest)} of an entry")

    def check(rows: Any) -> bool:
        if not isinstance(rows, list):
            return True
        if not all(isinstance(row, dict) and row.keys() == fields.keys() for row in rows):
            return False
        return all(all(map(follows, _distinct([row[name] for row in rows]))) for name, follows in fields.items())

    return check


def _distinct(values: list[Any]) -> Iterable[Any]:
    """Each value once, where equal means equal and of one type: 1, 1.0 and true are three. Lists are not compared."""
    try:
        return [value for _, value in set(zip(map(type, values), values, strict=True))]
    except TypeError:
        return values
