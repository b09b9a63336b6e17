"""The sampler: greedy, drawn, filtered, penalised and masked, row by row, and never silent about a bad row.

It is longer than 400 lines because every rule of sampling is behind one door, `choose`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from minimax_m1.engine import sampler as module
from minimax_m1.engine.request import SamplingParams, TokenLogprob
from minimax_m1.engine.sampler import Choice, Sampler, choose, prompt_logprobs
from minimax_m1.errors import RequestError
from minimax_m1.kernels.sampling.reference import draw

PROBS = torch.tensor([0.05, 0.5, 0.15, 0.3])
LOGITS = PROBS.log()


def sampler(prompt: Sequence[int] = (), vocab: int = 4, **params: Any) -> Sampler:
    return Sampler(SamplingParams(**params), np.array(prompt, dtype=np.int64), vocab)


def outcome(
    logits: Tensor, one: Sampler, banned: Collection[int] = (), mask: NDArray[np.bool_] | None = None
) -> Choice | RequestError:
    return choose(logits[None], [one], [banned], [mask])[0]


def pick(logits: Tensor, one: Sampler, banned: Collection[int] = (), mask: NDArray[np.bool_] | None = None) -> Choice:
    result = outcome(logits, one, banned, mask)
    assert isinstance(result, Choice)
    return result


def draws(
    params: dict[str, Any], count: int = 400, logits: Tensor = LOGITS, banned: Collection[int] = ()
) -> Counter[int]:
    one = sampler(vocab=len(logits), **{"seed": 3, **params})
    return Counter(pick(logits, one, banned).token for _ in range(count))


@pytest.fixture(scope="module", autouse=True, params=["on the host", "on the device"])
def _both_draws(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test runs with the draw of a CPU and with the draw of a GPU, which runs anywhere."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "on the device":
            patch.setattr(module, "_draw", module._draw_there)
        yield


def test_no_rows_give_nothing() -> None:
    assert choose(torch.empty(0, 4), [], [], []) == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_greedy_takes_the_best_and_tells_its_logprob(dtype: torch.dtype) -> None:
    logits = (PROBS.double().log() + 7).to(dtype)
    choice = pick(logits, sampler(temperature=0))
    assert choice.token == 1
    expected = logits[1].double() - logits.double().logsumexp(0)
    assert choice.logprob == pytest.approx(expected.item(), abs=1e-14 if dtype == torch.float64 else 1e-6)
    assert choice.top == ()


def test_the_logprob_is_that_of_the_unchanged_logits() -> None:
    one = sampler(temperature=0.1, top_k=1, top_p=0.1, min_p=0.5, logit_bias={1: 3.0}, presence_penalty=1.0)
    one.accept(1)
    assert pick(LOGITS, one).logprob == pytest.approx(LOGITS[1].item())


def test_plain_draws_follow_the_probabilities() -> None:
    counts = draws({}, 4000)
    for token, prob in enumerate(PROBS.tolist()):
        assert counts[token] / 4000 == pytest.approx(prob, abs=0.03)


def test_filtered_draws_follow_the_probabilities_of_what_is_left() -> None:
    counts = draws({"temperature": 0.5, "top_p": 0.95}, 4000)  # squares: 25, 2500, 225, 900 of 3650; the first is cut
    for token, part in enumerate((0, 2500, 225, 900)):
        assert counts[token] / 4000 == pytest.approx(part / 3625, abs=0.03)


@pytest.mark.parametrize("stretch", [1, 7, 64, 1024])
def test_draws_follow_the_probabilities_over_many_stretches(stretch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STRETCH", stretch)
    generator = torch.Generator().manual_seed(0)
    probs = torch.rand(300, generator=generator) ** 4
    probs[:40] = probs[100:140] = 0
    probs /= probs.sum()
    rows = 4000
    samplers = [sampler(seed=seed, vocab=300) for seed in range(rows)]  # each row's first number
    logits = probs.log().clamp(min=-1000).expand(rows, -1)
    made = choose(logits, samplers, [()] * rows, [None] * rows)
    counts = torch.zeros(300)
    for choice in made:
        assert isinstance(choice, Choice)
        counts[choice.token] += 1
    assert counts[probs == 0].sum() == 0
    # Kolmogorov's distance; a sample of the distribution itself stays below 1.63 / sqrt(rows) in 99 of 100 cases.
    assert (counts.cumsum(0) / rows - probs.cumsum(0)).abs().max() < 1.63 / rows**0.5


@pytest.mark.parametrize(
    ("params", "allowed"),
    [
        ({"top_k": 1}, {1}),
        ({"top_k": 2}, {1, 3}),
        ({"top_k": 99}, {0, 1, 2, 3}),
        ({"top_k": -1}, {0, 1, 2, 3}),
        ({"top_p": 0.45}, {1}),
        ({"top_p": 0.75}, {1, 3}),
        ({"top_p": 0.9}, {1, 2, 3}),
        ({"min_p": 0.55}, {1, 3}),
        ({"min_p": 1.0}, {1}),
        ({"top_k": 3, "top_p": 0.99, "min_p": 0.5}, {1, 3}),
        ({"top_k": 2, "top_p": 0.6}, {1}),  # of what top_k leaves, 0.625 is the first's
        ({"temperature": 1e-300}, {1}),
        ({"temperature": 100.0}, {0, 1, 2, 3}),
    ],
)
def test_filters_keep_exactly_these(params: dict[str, float], allowed: set[int]) -> None:
    assert set(draws(params)) == allowed


@pytest.mark.parametrize("params", [{"top_k": 3}, {"top_p": 0.55}])
def test_of_equals_the_first_stay(params: dict[str, float]) -> None:
    assert set(draws(params, logits=torch.tensor([0.0, -9.0, 0.0, 0.0, 0.0, 0.0]))) == {0, 2, 3}


def test_top_p_keeps_no_more_than_it_needs() -> None:
    assert set(draws({"top_p": 0.5}, logits=torch.zeros(4))) == {0, 1}


class Fixed(Sampler):
    """Its number is known."""

    point = 0.0

    def uniform(self) -> float:
        return self.point


@pytest.mark.parametrize("stretch", [7, 300, 1024])
def test_the_least_and_the_greatest_number_give_the_first_and_the_last_id(
    stretch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STRETCH", stretch)
    mask = np.zeros(500, dtype=np.bool_)
    mask[40:450] = True
    rows = 30
    logits = 5 * torch.randn(rows, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for where, first, last in ((mask, 40, 449), (None, 0, 499)):
        for point, expected in ((0.0, first), (1 - 2**-53, last)):
            samplers = [Fixed(SamplingParams(), np.zeros(0, dtype=np.int64), 500) for _ in range(rows)]
            monkeypatch.setattr(Fixed, "point", point)
            made = choose(logits, samplers, [()] * rows, [where] * rows)
            assert {choice.token for choice in made if isinstance(choice, Choice)} == {expected}


@pytest.mark.parametrize("vocab", [50, 3000])
def test_each_row_is_what_the_reference_draws(vocab: int) -> None:
    generator = torch.Generator().manual_seed(vocab)
    logits = 4 * torch.randn(24, vocab, generator=generator, dtype=torch.float64)
    options: list[dict[str, Any]] = [
        {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        for temperature in (0.3, 1.0, 1.7)
        for top_k in (0, 20)
        for top_p in (0.8, 1.0)
        for min_p in (0.0, 0.05)
    ]
    assert len(options) == len(logits)
    for seed in range(20):
        samplers = [sampler(seed=seed, vocab=vocab, **each) for each in options]
        made = choose(logits, samplers, [()] * 24, [None] * 24)
        for row, choice, each in zip(logits, made, options, strict=True):
            assert isinstance(choice, Choice)
            assert choice.token == draw(row, torch.Generator().manual_seed(seed), **each)


def test_a_seed_repeats_and_another_differs() -> None:
    def ids(seed: int) -> list[int]:
        one = sampler(seed=seed)
        return [pick(LOGITS, one).token for _ in range(50)]

    assert ids(1) == ids(1)
    assert ids(1) != ids(2)
    assert ids(-1) != ids(1)


def test_no_seed_means_fresh_numbers() -> None:
    assert sampler().uniform() != sampler().uniform()


@pytest.mark.parametrize("filters", [{}, {"top_k": 2, "top_p": 0.9, "min_p": 0.1, "logprobs": 2}])
def test_a_drawn_token_takes_one_number(filters: dict[str, Any]) -> None:
    one, other = sampler(seed=5, **filters), sampler(seed=5)
    pick(LOGITS, one)
    other.uniform()
    assert one.uniform() == other.uniform()


def test_a_greedy_token_takes_no_number() -> None:
    one, other = sampler(seed=5, temperature=0), sampler(seed=5)
    pick(LOGITS, one)
    assert one.uniform() == other.uniform()


def test_a_request_gets_the_same_tokens_alone_and_in_a_batch() -> None:
    vocab, steps = 40, 12
    kinds: list[dict[str, Any]] = [
        {},
        {"temperature": 0},
        {"top_p": 0.9},
        {"top_k": 5, "temperature": 1.5},
        {"min_p": 0.1, "repetition_penalty": 1.3},
        {"frequency_penalty": 0.7, "presence_penalty": 0.2, "top_p": 0.95},
        {"temperature": 0, "repetition_penalty": 1.2, "logit_bias": {3: 2.0}},
        {"logprobs": 3},
    ]
    logits = 3 * torch.randn(steps, len(kinds), vocab, generator=torch.Generator().manual_seed(1))

    def run(rows: list[int]) -> list[list[Choice | RequestError]]:
        samplers = [sampler([1, 2], vocab, seed=row, **kinds[row]) for row in rows]
        bans = [{0, 1} if row % 2 else set() for row in rows]
        masks = [np.arange(vocab) % 3 > 0 if row == 4 else None for row in rows]
        made: list[list[Choice | RequestError]] = [[] for _ in rows]
        for step in range(steps):
            for one, told, choice in zip(
                samplers, made, choose(logits[step, rows], samplers, bans, masks), strict=True
            ):
                assert isinstance(choice, Choice)
                one.accept(choice.token)
                told.append(choice)
        return made

    together = run(list(range(len(kinds))))
    assert run(list(reversed(range(len(kinds)))))[::-1] == together
    assert [run([row])[0] for row in range(len(kinds))] == together


def test_more_rows_than_fit_a_block_are_drawn_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(10, 30, generator=torch.Generator().manual_seed(0))

    def run() -> list[Choice | RequestError]:
        samplers = [sampler(seed=row, vocab=30, top_p=0.9, logit_bias={row: 1.0}) for row in range(10)]
        return choose(logits, samplers, [()] * 10, [None] * 10)

    whole = run()
    monkeypatch.setattr(module, "_BLOCK", 75)
    assert run() == whole


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_banned_ids_do_not_come(temperature: float) -> None:
    assert set(draws({"temperature": temperature}, 100, banned={1, 3})) <= {0, 2}


def test_bans_that_leave_nothing_are_lifted() -> None:
    assert pick(LOGITS, sampler(temperature=0), {0, 1, 2, 3}).token == 1
    mask = np.array([True, False, True, False])
    assert pick(LOGITS, sampler(temperature=0), {2, 0}, mask).token == 2  # of what the mask allows
    assert pick(LOGITS, sampler(temperature=0), {2}, mask).token == 0


def test_a_ban_does_not_change_the_logprob_of_others() -> None:
    choice = pick(LOGITS, sampler(temperature=0), {1})
    assert choice.token == 3 and choice.logprob == pytest.approx(LOGITS[3].item())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_only_what_the_mask_allows_comes(temperature: float) -> None:
    one = sampler(seed=1, temperature=temperature, logit_bias={1: 100.0})
    mask = np.array([True, False, True, False])
    assert {pick(LOGITS, one, mask=mask).token for _ in range(100)} <= {0, 2}


def test_a_mask_that_allows_nothing_is_that_rows_error() -> None:
    samplers = [sampler(temperature=0), sampler(temperature=0)]
    bad, good = choose(LOGITS.expand(2, -1), samplers, [(), ()], [np.zeros(4, dtype=np.bool_), None])
    assert isinstance(bad, RequestError) and "allows no next token" in str(bad)
    assert isinstance(good, Choice) and good.token == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_no_numbers_are_that_rows_error(bad: float, dtype: torch.dtype) -> None:
    logits = LOGITS.repeat(3, 1).to(dtype)
    logits[1, 2] = bad
    made = choose(logits, [sampler(temperature=0, logprobs=1) for _ in range(3)], [()] * 3, [None] * 3)
    assert isinstance(made[1], RequestError) and "1 of 4 logits" in str(made[1])
    for choice in (made[0], made[2]):
        assert isinstance(choice, Choice) and choice.token == 1 and len(choice.top) == 1


def test_a_bias_is_added() -> None:
    assert pick(LOGITS, sampler(temperature=0, logit_bias={0: 3.0, 1: -0.1})).token == 0
    assert pick(LOGITS, sampler(temperature=0, logit_bias={1: -100.0})).token == 3
    assert draws({"logit_bias": {1: -100.0, 0: 1.0}})[1] == 0


@pytest.mark.parametrize("token", [-1, 4])
def test_a_bias_outside_the_vocabulary_is_refused(token: int) -> None:
    with pytest.raises(RequestError, match=f"logit_bias names {token}, outside 0 to 3") as caught:
        sampler(logit_bias={1: 0.0, token: 1.0})
    assert caught.value.param == "logit_bias"


@given(
    logits=st.lists(st.floats(-10, 10, width=32), min_size=6, max_size=6),
    prompt=st.lists(st.integers(0, 5), max_size=4),
    reply=st.lists(st.integers(0, 5), max_size=6),
    repetition=st.floats(0.1, 3),
    frequency=st.floats(-2, 2),
    presence=st.floats(-2, 2),
    bias=st.dictionaries(st.integers(0, 5), st.floats(-5, 5), max_size=3),
)
def test_penalties_equal_a_plain_loop(
    logits: list[float],
    prompt: list[int],
    reply: list[int],
    repetition: float,
    frequency: float,
    presence: float,
    bias: dict[int, float],
) -> None:
    one = sampler(
        prompt,
        6,
        repetition_penalty=repetition,
        frequency_penalty=frequency,
        presence_penalty=presence,
        logit_bias=bias,
    )
    for token in reply:
        one.accept(token)
    expected = []
    for token, logit in enumerate(logits):
        logit += bias.get(token, 0.0)
        if token in prompt + reply:
            logit = logit / repetition if logit > 0 else logit * repetition
        expected.append(logit - frequency * reply.count(token) - presence * (token in reply))
    row = one.adjusted(torch.tensor(logits, dtype=torch.float64), (), None)
    np.testing.assert_allclose(logits if row is None else row, expected, rtol=1e-12, atol=1e-12)


def test_penalties_change_the_choice_and_not_the_callers_logits() -> None:
    logits = LOGITS.clone()
    one = sampler([1], temperature=0, repetition_penalty=3.0)
    assert pick(logits, one).token == 3
    one.accept(3)
    assert pick(logits, one).token == 2
    assert torch.equal(logits, LOGITS)
    assert pick(logits, sampler([1], temperature=0, presence_penalty=2.0)).token == 1  # it looks at the reply alone


@pytest.mark.parametrize("penalty", [1e-300, 100.0])
def test_a_penalty_cannot_make_a_logit_infinite(penalty: float) -> None:
    one = sampler([0, 1, 2, 3], repetition_penalty=penalty, seed=0)
    row = one.adjusted(torch.tensor([3e38, -3e38, 1.0, -1.0]), (), None)
    assert row is not None and np.isfinite(row).all()
    assert isinstance(outcome(torch.tensor([3e38, -3e38, 1.0, -1.0]), one), Choice)


def ranks(top: tuple[TokenLogprob, ...]) -> list[tuple[int, int]]:
    """Ids and ranks, after a look at the log-probabilities."""
    for each in top:
        assert each.logprob == pytest.approx(LOGITS[each.token_id].item())
    return [(each.token_id, each.rank) for each in top]


def test_top_begins_with_the_chosen_id_and_names_it_once() -> None:
    samplers = [
        sampler(temperature=0, logprobs=0),
        sampler(temperature=0, logprobs=2),
        sampler(temperature=0, logprobs=2, logit_bias={0: 9.0}),
        sampler(temperature=0, logprobs=20),
    ]
    made = choose(LOGITS.expand(4, -1), samplers, [()] * 4, [None] * 4)
    assert [ranks(choice.top) for choice in made if isinstance(choice, Choice)] == [
        [(1, 1)],
        [(1, 1), (3, 2)],
        [(0, 4), (1, 1), (3, 2)],
        [(1, 1), (3, 2), (2, 3), (0, 4)],
    ]


def test_equals_share_a_rank() -> None:
    choice = pick(torch.tensor([1.0, 2.0, 2.0, 0.0, 1.0]), sampler(temperature=0, vocab=5, logprobs=5))
    assert [each.rank for each in choice.top] == [1, 1, 3, 3, 5]


def test_prompt_logprobs_tell_of_each_id_and_the_likeliest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 8)  # two rows at a time
    tops = prompt_logprobs(torch.stack([LOGITS, LOGITS + 5, LOGITS]), [0, 1, 2], 1)
    assert [ranks(top) for top in tops] == [[(0, 4), (1, 1)], [(1, 1)], [(2, 3), (1, 1)]]
    assert [len(top) for top in prompt_logprobs(LOGITS.expand(3, -1), [0, 1, 2], 0)] == [1, 1, 1]
    assert prompt_logprobs(LOGITS[None][:0], [], 3) == []


def test_prompt_logprobs_refuse_logits_that_are_no_numbers() -> None:
    with pytest.raises(RequestError, match="1 of 4 logits"):
        prompt_logprobs(torch.tensor([[0.0, 1.0, float("nan"), 2.0]]), [1], 2)


@given(
    logits=st.lists(st.floats(-(2.0**126), 2.0**126, width=32), min_size=1, max_size=20),
    temperature=st.floats(0, 100),
    top_p=st.floats(1e-9, 1),
    top_k=st.integers(-1, 30),
    min_p=st.floats(0, 1),
    penalty=st.floats(1e-9, 100),
    seed=st.integers(0, 9),
)
def test_any_finite_logits_give_a_token(
    logits: list[float], temperature: float, top_p: float, top_k: int, min_p: float, penalty: float, seed: int
) -> None:
    one = sampler(
        [0],
        len(logits),
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=penalty,
        seed=seed,
        logprobs=3,
    )
    choice = pick(torch.tensor(logits), one)
    assert 0 <= choice.token < len(logits)
    assert choice.logprob <= 1e-6
    assert choice.top[0].token_id == choice.token
