from __future__ import annotations

import pytest

from microscope_bench.errors import MicroscopeError
from microscope_bench.system.key_values import key_values


def test_pairs_become_a_dict():
    assert key_values("--model_args", "pretrained=org/name, dtype=float32,url=a=b") == {
        "pretrained": "org/name",
        "dtype": "float32",
        "url": "a=b",
    }
    assert key_values("--x", "") == key_values("--x", None) == {}
    assert key_values("--x", {"max_length": 9}) == {"max_length": "9"}


@pytest.mark.parametrize(
    ("text", "message"), [("pretrained", "is not key=value"), ("=x", "is not key=value"), ("a=1,a=2", "given twice")]
)
def test_what_is_no_pair_is_refused_with_the_option(text, message):
    with pytest.raises(MicroscopeError, match=f"--task_args: .*{message}"):
        key_values("--task_args", text)
