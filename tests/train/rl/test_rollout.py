"""Rollouts are split for optimizer steps and passes without losing, doubling or tearing apart anything."""

from __future__ import annotations

import io
from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.train.rl.rollout import RolloutBatch


def batch_of(spec: list[tuple[int, int, int]]) -> RolloutBatch:
    """Sequences of (prompt tokens, own tokens, group); ids tell them apart."""
    total = sum(prompt + mine for prompt, mine, _ in spec)
    own = torch.tensor([said for prompt, mine, _ in spec for said in [False] * prompt + [True] * mine])
    return RolloutBatch(
        ids=torch.arange(total),
        own=own,
        logprobs=-torch.arange(total).float() * own,
        lengths=torch.tensor([prompt + mine for prompt, mine, _ in spec]),
        groups=torch.tensor([group for _, _, group in spec]),
        advantages=torch.arange(len(spec)).float(),
    )


specs = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(-2, 4)), min_size=1, max_size=20)


def told(batch: RolloutBatch) -> list[tuple[object, ...]]:
    """Each sequence with all that is said of it."""
    per_token = (batch.ids, batch.own, batch.logprobs)
    parts = zip(*(tensor.split(batch.lengths.tolist()) for tensor in per_token), strict=True)
    rest = zip(batch.lengths.tolist(), batch.groups.tolist(), batch.advantages.tolist(), strict=True)
    return [(*(tuple(part.tolist()) for part in tokens), *other) for tokens, other in zip(parts, rest, strict=True)]


@given(spec=specs, count=st.integers(1, 8))
def test_updates_hold_every_sequence_once_and_keep_groups_whole(spec: list[tuple[int, int, int]], count: int) -> None:
    batch = batch_of(spec)
    updates = batch.updates(count)
    groups = [set(each.groups.tolist()) for each in updates]
    assert len(updates) == min(count, len(set(batch.groups.tolist())))
    assert Counter(one for each in updates for one in told(each)) == Counter(told(batch))
    assert sum(map(len, groups)) == len(set.union(*groups))
    assert max(map(len, groups)) - min(map(len, groups)) <= 1


@given(spec=specs, most=st.integers(1, 40))
def test_passes_follow_each_other_and_are_as_full_as_may_be(spec: list[tuple[int, int, int]], most: int) -> None:
    batch = batch_of(spec)
    passes = list(batch.passes(most))
    assert [one for each in passes for one in told(each)] == told(batch)
    assert all(len(each.ids) <= most or len(each) == 1 for each in passes)
    for one, following in pairwise(passes):
        assert len(one.ids) + int(following.lengths[0]) > most


@given(spec=specs, data=st.data())
def test_some_sequences_come_in_the_order_asked_for(spec: list[tuple[int, int, int]], data: st.DataObject) -> None:
    batch = batch_of(spec)
    chosen = data.draw(st.lists(st.integers(0, len(spec) - 1), min_size=1, max_size=9))
    assert told(batch.at(chosen)) == [told(batch)[one] for one in chosen]


@given(spec=specs)
def test_its_tensors_make_it_again_and_prompts_are_what_comes_first(spec: list[tuple[int, int, int]]) -> None:
    batch = batch_of(spec)
    file = io.BytesIO()
    torch.save(batch.state(), file)
    file.seek(0)
    assert told(RolloutBatch(**torch.load(file, weights_only=True))) == told(batch)
    assert batch.prompts() == [prompt for prompt, _, _ in spec]


def test_a_prompt_ends_at_the_first_own_token_whatever_tools_say_later() -> None:
    batch = batch_of([(3, 5, 0)])
    batch.own[5:7] = False
    assert batch.prompts() == [3]


@pytest.mark.parametrize("flaw", ["no prompt", "nothing of its own", "a token too many", "a group too few"])
def test_what_cannot_be_rollouts_is_our_own_mistake(flaw: str) -> None:
    parts = batch_of([(2, 3, 0), (1, 2, 1)]).state()
    if flaw == "no prompt":
        parts["own"][5] = True
    elif flaw == "nothing of its own":
        parts["own"][5:] = False
    elif flaw == "a token too many":
        parts["ids"] = torch.arange(9)
    else:
        parts["groups"] = parts["groups"][:1]
    with pytest.raises(AssertionError):
        RolloutBatch(**parts)
