"""States picked out of others: values that go on alone, and gradients that meet where one is taken twice."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from minimax_m1.model.batch import Batch
from minimax_m1.model.moe import Routing
from minimax_m1.model.state import State
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM

TEXTS = [[5, 9, 2, 40], [], [7, 7, 13, 1, 2, 3, 4, 5, 6], [60]]


def read(model: MiniMaxM1ForCausalLM, texts: list[list[int]], state: State | None = None) -> tuple[Tensor, State]:
    state = model.empty_state(len(texts)) if state is None else state
    run = model.run(Batch.of(texts, state), state, logits="all")
    assert run.logits is not None
    return run.logits, run.state


def numbers(state: State) -> list[Tensor]:
    """Everything that a state holds."""
    kept = [each for kv in state.softmax for each in (*kv.keys, *kv.values)]
    return [*state.lightning, *kept]


@pytest.mark.parametrize("indices", [[2, 0, 2, 1, 2], [3], [1, 1], [0, 1, 2, 3]])
def test_chosen_states_are_those_of_the_sequences_one_by_one(model: MiniMaxM1ForCausalLM, indices: list[int]) -> None:
    _, state = read(model.double(), TEXTS)
    chosen = state.at(indices)
    singly = State.concat([state.row(index) for index in indices])
    assert len(chosen) == len(indices) and chosen.lengths == singly.lengths == tuple(len(TEXTS[n]) for n in indices)
    assert len(numbers(chosen)) == len(numbers(singly))
    assert all(map(torch.equal, numbers(chosen), numbers(singly)))


@torch.no_grad()
def test_one_state_taken_twice_goes_on_in_two_ways_and_stays_as_it_was(model: MiniMaxM1ForCausalLM) -> None:
    _, state = read(model.double(), TEXTS)
    before = [each.clone() for each in numbers(state)]
    logits, after = read(model, [[1, 2, 3], [9], [4, 4]], state.at([2, 0, 2]))
    whole = [read(model, [[*TEXTS[n], *more]])[0][-len(more) :] for n, more in ((2, [1, 2, 3]), (0, [9]), (2, [4, 4]))]
    torch.testing.assert_close(logits, torch.cat(whole), rtol=1e-10, atol=1e-12)
    assert after.lengths == (12, 5, 11)
    assert all(map(torch.equal, numbers(state), before))
    again, _ = read(model, [[1, 2, 3], [9], [4, 4]], state.at([2, 0, 2]))
    assert torch.equal(again, logits)


def test_gradients_of_a_state_taken_twice_add_up(model: MiniMaxM1ForCausalLM) -> None:
    model.double()
    told = []
    for together in (True, False):
        model.zero_grad(set_to_none=True)
        _, state = read(model, [TEXTS[0], TEXTS[2]])
        rest = [[8, 8], [3], [4, 5, 6]]
        if together:
            read(model, rest, state.at([1, 0, 1]))[0].log_softmax(-1)[:, 3].sum().backward()
        else:
            parts = [read(model, [more], state.row(n))[0] for n, more in zip((1, 0, 1), rest, strict=True)]
            torch.cat(parts).log_softmax(-1)[:, 3].sum().backward()
        told.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert told[0].keys() == told[1].keys() and len(told[0]) > 5
    for name, grad in told[0].items():
        torch.testing.assert_close(grad, told[1][name], rtol=1e-9, atol=1e-12)


def test_routings_of_several_runs_stand_in_a_row() -> None:
    generator = torch.Generator().manual_seed(0)
    runs = [
        Routing(
            experts=torch.randint(4, (3, tokens, 2), generator=generator),
            weights=torch.rand(3, tokens, 2, generator=generator),
            logits=torch.rand(3, tokens, 4, generator=generator, requires_grad=True),
        )
        for tokens in (5, 0, 1)
    ]
    told = Routing.concat(runs)
    for name in ("experts", "weights", "logits"):
        whole = getattr(told, name)
        assert whole.shape[:2] == (3, 6)
        assert torch.equal(whole[:, :5], getattr(runs[0], name)) and torch.equal(whole[:, 5:], getattr(runs[2], name))
    told.logits.sum().backward()
    assert all(run.logits.grad is not None and run.logits.grad.eq(1).all() for run in runs)
