"""Families as prompts: a draw follows from its numbers, is of the level asked for, and ends where an answer begins."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from minimax_m1.errors import DataError
from minimax_m1.eval.suites import Case
from minimax_m1.tasks.example import Example, assistant, reference_of, split_of, user
from minimax_m1.tasks.families import FAMILIES
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.rl.prompt import Prompt, PromptSource
from minimax_m1.train.rl.prompt_family import FamilyPrompts


def example_of(prompt: Prompt) -> Example:
    example = prompt.columns["example"]
    assert isinstance(example, Example)
    return example


def test_a_draw_follows_from_its_numbers_and_the_seed_alone(tokenizer: MiniMaxM1Tokenizer) -> None:
    one, other = (FamilyPrompts("strings", tokenizer, 5, 1000) for _ in range(2))
    forth = [one.draw(index, 3) for index in range(6)]
    assert [other.draw(index, 3) for index in reversed(range(6))] == forth[::-1]
    assert FamilyPrompts("strings", tokenizer, 6, 1000).draw(0, 3) != forth[0]
    assert len({tuple(prompt.ids) for prompt in forth}) > 3
    assert (forth[4].place, forth[4].source, forth[4].level) == ("strings/4", "strings", 3)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_gives_the_prompts_that_evaluation_asks(family: str, tokenizer: MiniMaxM1Tokenizer) -> None:
    source: PromptSource = FamilyPrompts(family, tokenizer, 0, 4000)
    for level in (1, 6):
        prompt = source.draw(level, level)
        example = example_of(prompt)
        assert (prompt.source, example.family, example.difficulty) == (family, family, level)
        assert prompt.ids == Case(example=example, turn=prompt.columns["turn"]).prompt(tokenizer)
        assert prompt.tools == example.tools
        assert split_of(example) == "train"


def test_any_graded_turn_is_asked_with_the_references_before_it(tokenizer: MiniMaxM1Tokenizer) -> None:
    source = FamilyPrompts("addition", tokenizer, 0, 1000)
    drawn = [source.draw(index, 2) for index in range(60)]
    seconds = [prompt for prompt in drawn if prompt.columns["turn"] > example_of(prompt).turns[0]]
    assert 2 < len(seconds) < 12  # a fifth of the conversations are of two problems, half of these are asked for it
    for prompt in seconds:
        example, turn = example_of(prompt), prompt.columns["turn"]
        assert list(prompt.asked) == list(example.messages[:turn])
        text = str(tokenizer.decode(prompt.ids))
        assert reference_of(example, turn - 2).content in text
        assert "<think>" not in text and text.endswith("ai name=assistant\n")


def test_a_raw_sum_is_asked_up_to_its_equals_sign(tokenizer: MiniMaxM1Tokenizer) -> None:
    prompt = FamilyPrompts("sums", tokenizer, 0, 100).draw(0, 1)
    assert isinstance(prompt.asked, str) and prompt.asked.endswith("=")
    assert tokenizer.decode(prompt.ids) == prompt.asked
    assert prompt.columns["turn"] == 0


def test_prompts_of_a_held_out_split_are_never_trained_on(tokenizer: MiniMaxM1Tokenizer) -> None:
    source = FamilyPrompts("addition", tokenizer, 0, 1000, split="validation")
    assert {split_of(example_of(source.draw(index, 3))) for index in range(5)} == {"validation"}


def test_prompts_that_are_too_long_are_drawn_again(
    tokenizer: MiniMaxM1Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sample(rng: random.Random, difficulty: int) -> Example:
        messages = (user(str(rng.random()) * rng.choice((1, 50))), assistant("yes"))
        return Example(family="talk", difficulty=difficulty, messages=messages, turns=(1,))

    family = replace(FAMILIES["talk"], sample=sample)
    monkeypatch.setattr("minimax_m1.train.rl.prompt_family.FAMILIES", {"talk": family})
    source = FamilyPrompts("talk", tokenizer, 0, 100)
    assert max(len(source.draw(index, 1).ids) for index in range(20)) <= 100
    with pytest.raises(DataError, match="none of 1000 prompts of talk at difficulty 2 fits into 3 tokens"):
        FamilyPrompts("talk", tokenizer, 0, 3).draw(0, 2)


def test_an_unknown_family_is_named(tokenizer: MiniMaxM1Tokenizer) -> None:
    with pytest.raises(DataError, match="no task family 'poetry'; there are addition,"):
        FamilyPrompts("poetry", tokenizer, 0, 100)
