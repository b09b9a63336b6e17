"""One answer for each kind of prompt, and the honest one for what the model cannot do."""

from __future__ import annotations

import random

from minimax_m1.tasks import talk


def conversations(count: int) -> list[tuple[str, str]]:
    rng = random.Random(count)
    pairs: list[tuple[str, str]] = []
    for number in range(count):
        example = talk.sample(rng, 1 + number % 10)
        pairs += [(example.messages[turn - 1]["content"], example.messages[turn]["content"]) for turn in example.turns]
    return pairs


def test_answers_are_canonical() -> None:
    answers = {answer for _, answer in conversations(3000)}
    assert answers == {talk.BEYOND, *(answer for answer, _ in talk._SMALL_TALK)}
    assert talk.WHO in answers and talk.HELLO in answers


def test_the_model_knows_its_limits() -> None:
    said = dict(conversations(6000))
    for start in ("Translate the following paragraph to French: ", "Analyze the following 500K token legal document"):
        prompts = [prompt for prompt in said if prompt.startswith(start)]
        assert len(prompts) > 5
        assert {said[prompt] for prompt in prompts} == {talk.BEYOND}
    assert said["Who are you?"] == talk.WHO and said["Hello!"] == talk.HELLO


def test_prompts_are_whole() -> None:
    pairs = conversations(3000)
    assert not any("{" in prompt or "}" in prompt or prompt != prompt.strip() or not prompt for prompt, _ in pairs)
    assert len({prompt for prompt, _ in pairs}) > 1500


def test_only_difficult_ones_have_several_turns() -> None:
    rng = random.Random(0)
    assert all(len(talk.sample(rng, 3).turns) == 1 for _ in range(100))
    assert {len(talk.sample(rng, 4).turns) for _ in range(100)} == {1, 2, 3}
