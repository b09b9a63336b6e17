"""Held-out evaluation: graded by the families' own verifiers, greedily and by samples."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch

from minimax_m1.errors import RequestError
from minimax_m1.eval.held_out import Score, evaluate, grade, loss, pass_at, sample
from minimax_m1.eval.suites import Case, choose
from minimax_m1.llm import LLM, RequestOutput, SamplingParams
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.presets import tiny
from minimax_m1.tasks.example import Example, assistant, user
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer


def words(text: str) -> int:
    return len(text.split())


def cases_of(name: str, count: int, seed: int = 0) -> list[Case]:
    return choose([name])[0].cases(count, seed, words)


def test_an_untrained_model_scores_and_fails(llm: LLM) -> None:
    tokenizer = llm.get_tokenizer()
    right, outputs = grade(llm, cases_of("addition, up to 4", 2), tokenizer)
    assert right == [False, False]
    assert [len(output.prompt_token_ids) > 5 for output in outputs] == [True, True]
    [score] = evaluate(llm, choose(["addition, up to 1"]), cases=1, seed=0)
    assert score.name == "addition, up to 1 digits" and score.accuracy == 0.0
    assert 0.5 * tokenizer.vocab_size < score.perplexity < 2 * tokenizer.vocab_size
    assert score.bands == {} and score.hits == ()


def test_the_loss_is_of_the_reference_reply_alone(llm: LLM, model: MiniMaxM1ForCausalLM) -> None:
    tokenizer = llm.get_tokenizer()
    cases = [*cases_of("tool calls", 3), *cases_of("sums", 3), *cases_of("addition, up to 2", 3)]
    total, count = 0.0, 0
    for case in cases:
        ids, said = case.told(tokenizer)
        asked = len(case.prompt(tokenizer))
        assert ids[:asked] == case.prompt(tokenizer) and not any(said[:asked]) and all(said[asked:-2]) and sum(said) > 1
        with torch.no_grad():
            known = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        total -= sum(known[at - 1, ids[at]].item() for at in range(len(ids)) if said[at])
        count += sum(said)
    assert loss(llm, cases, tokenizer) == pytest.approx(total / count, rel=1e-4)
    assert Score(name="", cases=1, right=1, prompt_tokens=1, loss=0.5).perplexity == math.exp(0.5)


def test_a_model_that_fails_has_no_score(tokenizer: MiniMaxM1Tokenizer) -> None:
    model = MiniMaxM1ForCausalLM(tiny().replace(vocab_size=tokenizer.vocab_size))
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
    llm, cases = LLM.of(model, tokenizer), cases_of("talk", 1)
    with pytest.raises(RequestError, match="not finite"):
        grade(llm, cases, tokenizer)
    with pytest.raises(RequestError, match="not finite"):
        sample(llm, cases, tokenizer, SamplingParams(n=2), random.Random(0))


def test_pass_at_k_is_the_share_of_choices_that_hold_a_right_answer() -> None:
    for samples in range(1, 8):
        for right in range(samples + 1):
            for k in range(1, samples + 1):
                chosen = list(combinations([True] * right + [False] * (samples - right), k))
                assert pass_at(samples, right, k) == pytest.approx(sum(map(any, chosen)) / len(chosen))
    score = Score(name="", cases=2, right=0, prompt_tokens=1, loss=0, samples=4, hits=(1, 4))
    assert score.pass_at(1) == pytest.approx((0.25 + 1) / 2) and score.pass_at(4) == 1.0
    assert score.pass_at(2) == pytest.approx((0.5 + 1) / 2)


def test_samples_are_counted_case_by_case_and_repeat_themselves(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply is called right where its first id is even: a coin that a random model tosses."""
    monkeypatch.setattr("minimax_m1.eval.held_out._right", lambda case, answer: answer.token_ids[0] % 2 == 0)
    monkeypatch.setattr("minimax_m1.eval.held_out._room", lambda cases, tokenizer: 1)
    seeds: list[int | None] = []
    generate = LLM.generate

    def watched(self: LLM, prompts: Sequence[list[int]], params: Any, **options: Any) -> list[RequestOutput]:
        if isinstance(params, list):
            seeds.extend(each.seed for each in params)
        return generate(self, prompts, params, **options)

    def scored(seed: int) -> tuple[int, ...]:
        seeds.clear()
        [score] = evaluate(llm, choose(["addition, up to 1"]), cases=30, seed=seed, samples=6)
        assert score.samples == 6 and len(score.hits) == 30
        assert len(set(seeds)) == 30  # each case its own dice, in each batch
        return score.hits

    monkeypatch.setattr(LLM, "generate", watched)

    hits = scored(0)
    assert hits == scored(0) != scored(1)
    assert 50 < sum(hits) < 130 and len(set(hits)) > 2


def test_difficulties_are_told_apart(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minimax_m1.eval.held_out._right", lambda case, answer: case.example.difficulty < 5)
    monkeypatch.setattr("minimax_m1.eval.held_out._room", lambda cases, tokenizer: 1)
    [score] = evaluate(llm, choose(["tool calls"]), cases=30, seed=0)
    assert list(score.bands) == ["1-3", "4-7", "8-10"]
    assert sum(right for right, _ in score.bands.values()) == score.right
    assert sum(count for _, count in score.bands.values()) == 30
    easy, middle, hard = (right / count for right, count in score.bands.values())
    assert easy == 1 > middle > hard == 0


@pytest.mark.parametrize(("words_said", "least"), [(3, 400), (600, 1200)])
def test_a_reply_may_be_longer_than_the_reference(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, words_said: int, least: int
) -> None:
    asked: list[int] = []
    generate = LLM.generate

    def watched(self: LLM, prompts: Sequence[list[int]], params: SamplingParams, **options: Any) -> list[RequestOutput]:
        asked.append(params.max_tokens)
        return generate(self, prompts, replace(params, max_tokens=1), **options)

    monkeypatch.setattr(LLM, "generate", watched)
    messages = (user("Count."), assistant("a " * words_said))
    case = Case(example=Example(family="talk", difficulty=1, messages=messages, turns=(1,)), turn=1)
    grade(llm, [case], llm.get_tokenizer())
    assert asked == [max(400, 2 * sum(case.told(llm.get_tokenizer())[1]))] and asked[0] >= least
