"""Any pattern of layers trains and decodes: all lightning, all softmax, softmax first, last or in between."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from minimax_m1.kernels.ops import Ops
from minimax_m1.model.batch import Batch
from minimax_m1.model.moe import balance_loss
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.presets import tiny

PATTERNS = list(product((0, 1), repeat=3))


def made(kinds: tuple[int, ...]) -> MiniMaxM1ForCausalLM:
    torch.manual_seed(0)
    return MiniMaxM1ForCausalLM(tiny().replace(num_hidden_layers=3, attn_type_list=kinds))


@pytest.mark.parametrize("kinds", PATTERNS)
def test_gradients_of_a_tail_equal_the_references_over_all_rows(kinds: tuple[int, ...]) -> None:
    texts, tails = [list(range(30)), [9], list(range(40, 20, -1))], [4, 1, 20]
    rows = torch.cat([torch.arange(stop - n, stop) for stop, n in zip((30, 31, 51), tails, strict=True)])
    targets, grads = torch.arange(25), []
    for ops, counts, recompute in (
        (Ops.reference(), "all", False),
        (Ops.torch(), tails, False),
        (Ops.torch(), tails, True),
    ):
        model = made(kinds).double()
        model.ops = ops
        state = model.empty_state(3)
        run = model.run(Batch.of(texts, state), state, logits=counts, head=False, recompute=recompute)  # type: ignore[arg-type]
        assert run.hidden is not None
        hidden = run.hidden[rows] if counts == "all" else run.hidden
        ops.head(hidden, model.lm_head.weight, targets).logprob.sum().backward()
        grads.append({name: p.grad for name, p in model.named_parameters()})
    for mine in grads[1:]:
        for name, theirs in grads[0].items():
            assert theirs is not None and mine[name] is not None, name
            torch.testing.assert_close(mine[name], theirs, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("kinds", PATTERNS)
def test_it_learns_a_text_and_says_it(kinds: tuple[int, ...]) -> None:
    model = made(kinds).train()
    text = torch.randperm(64, generator=torch.Generator().manual_seed(2))[:24].tolist()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(60):
        state = model.empty_state(1)
        run = model.run(Batch.of([text[:-1]], state), state, logits="all", head=False)
        assert run.hidden is not None
        loss = -model.ops.head(run.hidden, model.lm_head.weight, torch.tensor(text[1:])).logprob.mean()
        (loss + 0.001 * balance_loss(run.routing)).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.1
    for ops in (Ops.torch(), Ops.cpu()):
        model.ops = ops
        assert said(model, text[:4], 20) == text


def said(model: MiniMaxM1ForCausalLM, start: list[int], new: int) -> list[int]:
    told: Tensor = model.eval().generate(torch.tensor([start]), max_new_tokens=new)
    return list(told[0].tolist())
