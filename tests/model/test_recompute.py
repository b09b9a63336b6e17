"""Training's two ways to save memory: states before the head instead of logits, layers that run again backwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from minimax_m1.kernels.ops import Ops
from minimax_m1.model.batch import Batch
from minimax_m1.model.moe import balance_loss
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM, Run
from minimax_m1.presets import tiny

TEXTS = [torch.arange(40).tolist(), [3], torch.arange(9, 26).tolist()]


def run(
    model: MiniMaxM1ForCausalLM, rows: Literal["last", "all", "none"] | Sequence[int], *, head: bool, recompute: bool
) -> Run:
    state = model.empty_state(len(TEXTS))
    return model.run(Batch.of(TEXTS, state), state, logits=rows, head=head, recompute=recompute)


def gradients(model: MiniMaxM1ForCausalLM) -> dict[str, Tensor]:
    told = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return told


@pytest.mark.parametrize("rows", ["last", "all", [7, 0, 3]])
def test_the_head_on_hidden_states_equals_logits(model: MiniMaxM1ForCausalLM, rows: Literal["all"]) -> None:
    model.double()
    whole, part = (run(model, rows, head=head, recompute=False) for head in (True, False))
    assert whole.hidden is None and part.logits is None and whole.logits is not None and part.hidden is not None
    targets = torch.arange(len(whole.logits)) % model.config.vocab_size
    logs = whole.logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    scores = model.ops.head(part.hidden, model.lm_head.weight, targets)
    torch.testing.assert_close(scores.logprob, logs, rtol=1e-12, atol=1e-12)
    assert torch.equal(scores.right, whole.logits.argmax(-1) == targets)
    logs.sum().backward()
    expected = gradients(model)
    scores.logprob.sum().backward()
    found = gradients(model)
    assert found.keys() == expected.keys() and "model.embed_tokens.weight" in found
    for name, mine in found.items():
        torch.testing.assert_close(mine, expected[name], rtol=1e-10, atol=1e-12)


def test_no_rows_asked_for_give_no_hidden_states(tiny_model: MiniMaxM1ForCausalLM) -> None:
    told = run(tiny_model, "none", head=False, recompute=False)
    assert told.hidden is None and told.logits is None


@pytest.mark.parametrize("rows", ["all", [7, 1, 3]])
def test_recomputed_layers_give_the_same_to_the_bit(model: MiniMaxM1ForCausalLM, rows: Literal["all"]) -> None:
    told = []
    for recompute in (False, True):
        done = run(model, rows, head=False, recompute=recompute)
        assert done.hidden is not None
        ends = [*done.state.lightning, *(key for kv in done.state.softmax for key in kv.keys)]
        loss = done.hidden.square().sum() + done.routing.logits.square().sum() + sum(end.sum() for end in ends)
        loss.backward()
        told.append((done, ends, gradients(model)))
    (plain, states, grads), (again, states_again, grads_again) = told
    assert plain.hidden is not None and again.hidden is not None and torch.equal(plain.hidden, again.hidden)
    assert torch.equal(plain.routing.experts, again.routing.experts) and plain.state.lengths == again.state.lengths
    assert all(map(torch.equal, states, states_again))
    assert grads.keys() == grads_again.keys() and all(torch.equal(grads[name], grads_again[name]) for name in grads)


def test_jitter_is_drawn_once() -> None:
    torch.manual_seed(0)
    model = MiniMaxM1ForCausalLM(tiny().replace(router_jitter_noise=0.1)).train()
    grads: list[dict[str, Tensor]] = []
    for recompute in (False, True, True):
        torch.manual_seed(len(grads) // 2)  # the third draws other noise
        done = run(model, "all", head=True, recompute=recompute)
        assert done.logits is not None
        (done.logits.log_softmax(-1)[:, 5].sum() + balance_loss(done.routing)).backward()
        grads.append(gradients(model))
    assert all(torch.equal(grads[0][name], grads[1][name]) for name in grads[0])
    assert any(not torch.equal(grads[0][name], grads[2][name]) for name in grads[0])


def test_it_recomputes_from_a_carried_state_and_under_autocast(tiny_model: MiniMaxM1ForCausalLM) -> None:
    told = []
    for recompute in (False, True):
        with torch.autocast("cpu", torch.bfloat16):
            first = run(tiny_model, "none", head=True, recompute=recompute)
            after = tiny_model.run(Batch.of(TEXTS, first.state), first.state, logits="all", recompute=recompute)
        assert after.logits is not None
        after.logits.log_softmax(-1)[:, 2].sum().backward()
        told.append(gradients(tiny_model))
    assert all(torch.equal(told[0][name], told[1][name]) for name in told[0])


def test_without_gradients_nothing_changes(tiny_model: MiniMaxM1ForCausalLM) -> None:
    with torch.no_grad():
        plain, again = (run(tiny_model, "all", head=True, recompute=recompute) for recompute in (False, True))
    assert plain.logits is not None and again.logits is not None and torch.equal(plain.logits, again.logits)


class Alive(TorchDispatchMode):
    """Knows what operators made and how much of it is still held by anyone, which saved tensors are."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else (out,):
            if isinstance(each, Tensor):
                storage = each.untyped_storage()
                self.made[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return out

    @property
    def bytes(self) -> int:
        return sum(size for held, size in self.made.values() if not held.expired())


@pytest.mark.parametrize("ops", [Ops.reference(), Ops.torch()], ids=["reference", "torch"])
def test_recomputing_holds_a_fraction_of_the_memory(ops: Ops) -> None:
    torch.manual_seed(0)
    model = MiniMaxM1ForCausalLM(tiny(), ops=ops).train()
    held = []
    for recompute in (False, True):
        state = model.empty_state(2)
        batch = Batch.of([torch.arange(60).tolist() * 3, torch.arange(50).tolist()], state)
        with Alive() as seen:
            done = model.run(batch, state, logits="last", head=False, recompute=recompute)
            assert done.hidden is not None
            held.append(seen.bytes)
    layers, row = model.config.num_hidden_layers, model.config.hidden_size * 4
    assert held[1] >= layers * batch.segments.total * row  # what goes into each layer is kept
    assert held[1] < held[0] / 4
