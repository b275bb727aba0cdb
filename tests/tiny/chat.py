"""Chat templates in the ways of published checkpoints."""

from __future__ import annotations

from collections.abc import Mapping


def chat(
    media: Mapping[str, str],
    turn: str = "{{ m.role }}: ",
    after: str = "\n",
    ask: str = "assistant:",
    before: str = "",
) -> str:
    """A chat template.

    Args:
        media: kind of medium → what it writes where one belongs.
        turn: in front of every turn, a piece of a template.
        after: behind every turn, as text.
        ask: what asks for an answer, as text.
        before: in front of everything, a piece of a template.
    """
    branches = "".join(f"{{% elif part.type == {kind!r} %}}{text}" for kind, text in media.items())
    part = f"{{% if part.type == 'text' %}}{{{{ part.text }}}}{branches}{{% endif %}}"
    parts = f"{{% for part in m.content %}}{part}{{% endfor %}}"
    return (
        f"{before}{{% for m in messages %}}{turn}{parts}{{{{ {after!r} }}}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ {ask!r} }}}}{{% endif %}}"
    )


def chatml(media: Mapping[str, str], before: str = "") -> str:
    """The turns of Qwen and its kin, after a text."""
    start = "{{ '<|im_start|>' + m.role + '\\n' }}"
    return chat(media, start, "<|im_end|>\n", "<|im_start|>assistant\n", f"{{{{ {before!r} }}}}" if before else "")
