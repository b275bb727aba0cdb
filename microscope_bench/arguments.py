"""``key=value,key=value``: how the command line hands settings to models and tasks."""

from __future__ import annotations

from collections.abc import Mapping

from microscope_bench.errors import MicroscopeError


def key_values(option: str, text: str | Mapping[str, object] | None) -> dict[str, str]:
    """``"a=b,c=d"`` as a dict; a mapping passes through with its values as strings.

    Args:
        option: what an error calls it, for instance ``--model_args``.
        text: the pairs; None is none.

    Raises:
        MicroscopeError: a piece without ``=``, without a key, or a key given twice.

    >>> key_values("--model_args", "pretrained=org/name,dtype=bfloat16")
    {'pretrained': 'org/name', 'dtype': 'bfloat16'}
    """
    if text is None:
        return {}
    if not isinstance(text, str):
        return {str(key): str(value) for key, value in text.items()}
    pairs: dict[str, str] = {}
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        key, equals, value = (side.strip() for side in piece.partition("="))
        if not equals or not key:
            raise MicroscopeError(f"{option}: {piece!r} is not key=value; write {option} key=value,key=value")
        if key in pairs:
            raise MicroscopeError(f"{option}: {key!r} is given twice, as {pairs[key]!r} and as {value!r}; keep one")
        pairs[key] = value
    return pairs
