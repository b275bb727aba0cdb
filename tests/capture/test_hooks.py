from __future__ import annotations

import pytest
import torch

from microscope_bench.capture.hooks import boundary_hooks, run_pass
from microscope_bench.errors import CaptureError
from tests.toy import LAYERS, ToyAdapter, ToyTask


def batch_of(adapter, n=2):
    task = ToyTask(n)
    return adapter.encode([task.example(i) for i in range(n)])


def n_hooks(adapter):
    return sum(len(b._forward_hooks) + len(b._forward_pre_hooks) for b in adapter.blocks())


@pytest.mark.parametrize("logits", [True, False])
def test_boundaries_are_the_inputs_of_the_blocks_and_the_output_of_the_last(logits):
    adapter = ToyAdapter()
    batch = batch_of(adapter)
    seen = []
    result = run_pass(adapter, batch, lambda layer, hidden: seen.append((layer, hidden.clone())), logits=logits)
    assert [layer for layer, _ in seen] == list(range(LAYERS + 1))
    for layer, block in enumerate(adapter.blocks()):
        torch.testing.assert_close(block(seen[layer][1]), seen[layer + 1][1], rtol=0, atol=0)
    assert (result is not None) == logits
    assert n_hooks(adapter) == 0


def test_logits_follow_the_last_real_token_whatever_the_padding():
    adapter = ToyAdapter()
    task = ToyTask(5)
    together = run_pass(adapter, adapter.encode([task.example(i) for i in range(5)]), lambda *_: None, logits=True)
    for i in range(5):
        alone = run_pass(adapter, adapter.encode([task.example(i)]), lambda *_: None, logits=True)
        torch.testing.assert_close(together[i], alone[0], rtol=1e-4, atol=1e-5)


def test_the_pass_ends_after_the_last_block_when_no_logits_are_needed():
    adapter = ToyAdapter()
    ran, head = [], adapter.head.forward
    adapter.head.forward = lambda *args: ran.append(args) or head(*args)
    assert run_pass(adapter, batch_of(adapter), lambda *_: None, logits=False) is None
    assert not ran
    run_pass(adapter, batch_of(adapter), lambda *_: None, logits=True)
    assert len(ran) == 1


def test_hooks_are_removed_after_an_exception():
    adapter = ToyAdapter()

    def fail(layer, hidden):
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        run_pass(adapter, batch_of(adapter), fail, logits=True)
    assert n_hooks(adapter) == 0


def test_blocks_in_the_wrong_order_are_refused():
    adapter = ToyAdapter()
    adapter.blocks = lambda: list(adapter.layers)[::-1]
    with pytest.raises(CaptureError, match="boundary 2 came where boundary 0"):
        run_pass(adapter, batch_of(adapter), lambda *_: None, logits=True)


def test_a_block_that_never_runs_is_refused():
    adapter = ToyAdapter()
    adapter.blocks = lambda: [*adapter.layers, torch.nn.Linear(2, 2)]
    with pytest.raises(CaptureError, match="3 of 5 boundaries"):
        run_pass(adapter, batch_of(adapter), lambda *_: None, logits=True)


def test_a_block_without_a_hidden_state_is_named():
    block = torch.nn.Identity()
    with boundary_hooks([block], block, lambda *_: None, end_pass=False), pytest.raises(CaptureError, match="NoneType"):
        block(None)


def test_a_block_that_halves_the_sequence_is_refused():
    adapter = ToyAdapter()
    adapter.layers[0].register_forward_hook(lambda module, args, output: output[:, : output.shape[1] // 2])
    batch = batch_of(adapter)
    length = batch.labels.shape[1]
    message = rf"boundary 1 has \(2, {length // 2}\) positions and boundary 0 \(2, {length}\)"
    with pytest.raises(CaptureError, match=message):
        run_pass(adapter, batch, lambda *_: None, logits=False)
