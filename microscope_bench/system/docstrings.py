"""What a class's docstring says of its fields, which help texts and the JSON Schema repeat."""

from __future__ import annotations

import inspect
import re


def described_attributes(documented: type) -> dict[str, str]:
    """Name → text, on one line, of each field in a docstring's section "Attributes"."""
    _, _, section = inspect.cleandoc(documented.__doc__ or "").partition("Attributes:\n")
    section, _, _ = section.partition("\n\n")
    found = re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}
