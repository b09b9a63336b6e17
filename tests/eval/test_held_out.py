"""Held-out evaluation: cases that training cannot have seen, graded by the families' own verifiers."""

from __future__ import annotations

import math

import pytest
import torch

from minimax_m1.errors import RequestError
from minimax_m1.eval.held_out import Case, Score, evaluate, grade, loss, suites
from minimax_m1.llm import LLM
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.presets import tiny
from minimax_m1.tasks.example import Example, split_of
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.recipe import recipe
from minimax_m1.train.vocabulary import build_tokenizer


def words(text: str) -> int:
    return len(text.split())


def test_suites_are_held_out_repeatable_and_of_the_right_length() -> None:
    found = dict(suites(6, 1, words))
    assert found == dict(suites(6, 1, words)) != dict(suites(6, 2, words))
    for name, cases in found.items():
        assert len(cases) == 6
        if not name.startswith(("needle", "recall")):
            assert all(split_of(case.example) == "test" for case in cases)
    for tokens in (1000, 4000):
        for case in found[f"needle in {tokens} tokens"]:
            assert 0.97 * tokens < words(case.example.messages[0]["content"]) < 1.03 * tokens
    assert all("tool_calls" in case.example.messages[case.turn] for case in found["tool calls"])


def test_an_untrained_model_scores_and_fails() -> None:
    tokenizer: MiniMaxM1Tokenizer = build_tokenizer(recipe("tiny"))
    torch.manual_seed(0)
    model = MiniMaxM1ForCausalLM(tiny().replace(vocab_size=tokenizer.vocab_size, max_position_embeddings=16384))
    llm = LLM.of(model, tokenizer)
    cases: list[Case] = dict(suites(2, 0, words))["addition, up to 4 digits"]
    right, tokens, outputs = grade(llm, cases, tokenizer)
    assert right == 0 and tokens > 5 and len(outputs) == 2
    first = next(iter(evaluate(llm, cases=1, seed=0)))
    assert first.name == "addition, up to 1 digits" and first.accuracy == 0.0
    assert 0.5 * tokenizer.vocab_size < first.perplexity < 2 * tokenizer.vocab_size


def test_the_loss_is_of_the_reference_reply_alone() -> None:
    tokenizer: MiniMaxM1Tokenizer = build_tokenizer(recipe("tiny"))
    torch.manual_seed(0)
    model = MiniMaxM1ForCausalLM(tiny().replace(vocab_size=tokenizer.vocab_size, max_position_embeddings=16384))
    found = dict(suites(3, 0, words))
    cases = [*found["tool calls"], *found["sums without a thought"], *found["addition, up to 2 digits"]]
    total, count = 0.0, 0
    for case in cases:
        ids, said = case.told(tokenizer)
        asked = len(case.prompt(tokenizer))
        assert ids[:asked] == case.prompt(tokenizer) and not any(said[:asked]) and all(said[asked:-2]) and sum(said) > 1
        with torch.no_grad():
            known = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        total -= sum(known[at - 1, ids[at]].item() for at in range(len(ids)) if said[at])
        count += sum(said)
    assert loss(LLM.of(model, tokenizer), cases, tokenizer) == pytest.approx(total / count, rel=1e-4)
    assert Score(name="", cases=1, right=1, prompt_tokens=1, loss=0.5).perplexity == math.exp(0.5)


def test_a_model_that_fails_has_no_score() -> None:
    tokenizer: MiniMaxM1Tokenizer = build_tokenizer(recipe("tiny"))
    model = MiniMaxM1ForCausalLM(tiny().replace(vocab_size=tokenizer.vocab_size))
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
    cases = dict(suites(1, 0, words))["talk"]
    with pytest.raises(RequestError, match="not finite"):
        grade(LLM.of(model, tokenizer), cases, tokenizer)


def test_a_sum_is_asked_up_to_its_equals_sign() -> None:
    tokenizer: MiniMaxM1Tokenizer = build_tokenizer(recipe("tiny"))
    case = Case(example=Example(family="sums", difficulty=2, raw="12 + 9 = 21"))
    assert tokenizer.decode(case.prompt(tokenizer)) == "12 + 9 ="
