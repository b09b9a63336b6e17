"""The sampler: greedy, filtered, seeded, and never silent about logits that are no numbers."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minimax_m1.engine.request import SamplingParams
from minimax_m1.engine.sampler import generator_of, sample
from minimax_m1.errors import RequestError

PROBS = torch.tensor([0.05, 0.5, 0.15, 0.3])


def draws(count: int = 400, **params: float) -> Counter[int]:
    chosen = SamplingParams(seed=3, **params)  # type: ignore[arg-type]
    generator = generator_of(chosen)
    return Counter(sample(PROBS.log(), chosen, generator)[0] for _ in range(count))


def test_greedy_takes_the_best_and_tells_its_logprob() -> None:
    params = SamplingParams(temperature=0)
    token, logprob = sample(PROBS.log() + 7, params, generator_of(params))
    assert token == 1
    assert logprob == pytest.approx(torch.tensor(0.5).log().item())


def test_the_logprob_does_not_depend_on_temperature_or_filters() -> None:
    params = SamplingParams(temperature=0.1, top_k=1, top_p=0.1, min_p=0.5, seed=1)
    assert sample(PROBS.log(), params, generator_of(params))[1] == pytest.approx(torch.tensor(0.5).log().item())


def test_plain_draws_follow_the_probabilities() -> None:
    counts = draws(4000)
    for token, prob in enumerate(PROBS.tolist()):
        assert counts[token] / 4000 == pytest.approx(prob, abs=0.03)


@pytest.mark.parametrize(
    ("params", "allowed"),
    [
        ({"top_k": 1}, {1}),
        ({"top_k": 2}, {1, 3}),
        ({"top_k": 99}, {0, 1, 2, 3}),
        ({"top_p": 0.45}, {1}),
        ({"top_p": 0.75}, {1, 3}),
        ({"top_p": 0.9}, {1, 2, 3}),
        ({"min_p": 0.55}, {1, 3}),
        ({"min_p": 1.0}, {1}),
        ({"top_k": 3, "top_p": 0.99, "min_p": 0.5}, {1, 3}),
        ({"temperature": 1e-300}, {1}),
        ({"temperature": 100.0}, {0, 1, 2, 3}),
    ],
)
def test_filters_keep_exactly_these(params: dict[str, float], allowed: set[int]) -> None:
    assert set(draws(**params)) == allowed


def test_a_seed_repeats_and_another_differs() -> None:
    def ids(seed: int) -> list[int]:
        params = SamplingParams(seed=seed)
        generator = generator_of(params)
        return [sample(PROBS.log(), params, generator)[0] for _ in range(50)]

    assert ids(1) == ids(1)
    assert ids(1) != ids(2)


def test_no_seed_means_fresh_numbers() -> None:
    first, second = generator_of(SamplingParams()), generator_of(SamplingParams())
    assert torch.rand(4, generator=first).tolist() != torch.rand(4, generator=second).tolist()


def test_one_number_a_token_whatever_the_filters() -> None:
    plain, filtered = SamplingParams(seed=5), SamplingParams(seed=5, top_k=2, top_p=0.9, min_p=0.1)
    one, other = generator_of(plain), generator_of(filtered)
    sample(PROBS.log(), plain, one)
    sample(PROBS.log(), filtered, other)
    assert torch.equal(one.get_state(), other.get_state())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_banned_ids_do_not_come(temperature: float) -> None:
    params = SamplingParams(temperature=temperature, seed=0)
    generator = generator_of(params)
    assert {sample(PROBS.log(), params, generator, {1, 3})[0] for _ in range(100)} <= {0, 2}


def test_a_ban_does_not_change_the_logprob_of_others() -> None:
    params = SamplingParams(temperature=0)
    token, logprob = sample(PROBS.log(), params, generator_of(params), {1})
    assert (token, logprob) == (3, pytest.approx(torch.tensor(0.3).log().item()))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_no_numbers_are_an_error(bad: float) -> None:
    params = SamplingParams()
    with pytest.raises(RequestError, match="1 of 4 logits"):
        sample(torch.tensor([0.0, 1.0, bad, 2.0]), params, generator_of(params))


@given(
    logits=st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=20),
    temperature=st.floats(0, 100),
    top_p=st.floats(1e-9, 1),
    top_k=st.integers(-1, 30),
    min_p=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_any_logits_give_a_token(
    logits: list[float], temperature: float, top_p: float, top_k: int, min_p: float, seed: int
) -> None:
    params = SamplingParams(temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, seed=seed)
    token, logprob = sample(torch.tensor(logits), params, generator_of(params))
    assert 0 <= token < len(logits)
    assert logprob <= 1e-9
