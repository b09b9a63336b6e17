"""The actor: log-probs that are the trainer's, answers that follow from seed and weights, ends, turns, and faults."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

from minimax_m1.engine.request import FinishReason
from minimax_m1.errors import DataError
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.presets import tiny
from minimax_m1.text.chat import encode_chat
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.rl.actor import Actor, Answer
from minimax_m1.train.rl.environment import EnvironmentFault, Environments
from minimax_m1.train.rl.policy_loss import agreement
from minimax_m1.train.rl.prompt import Prompt
from minimax_m1.train.rl.rollout import RolloutBatch
from minimax_m1.train.rl.turns import follow_up
from minimax_m1.train.rl.update import score

ASKED = [{"role": "user", "content": "hi"}]


def made(seed: int = 0) -> MiniMaxM1ForCausalLM:
    """A random model of the tiny vocabulary, surer of itself than most."""
    torch.manual_seed(seed)
    model = MiniMaxM1ForCausalLM(tiny().replace(vocab_size=320))
    nn.init.normal_(model.lm_head.weight, std=0.4)
    return model


def scripted(following: Mapping[int, int | Sequence[int]]) -> MiniMaxM1ForCausalLM:
    """A model that says `following[t]` after token t, one of several by chance, and anything after another token."""
    model = made()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(("o_proj.weight", "out_proj.weight", "experts.w2")):
                p.zero_()  # the layers add nothing, so what comes out is the token's embedding
        embedding, head = model.model.embed_tokens.weight, model.lm_head.weight
        embedding.zero_()
        embedding[:, 0] = 1
        head.zero_()
        for axis, (token, said) in enumerate(following.items(), 1):
            embedding[token] = torch.eye(32)[axis]
            head[said, axis] = 5.0  # 28 nats above the rest
    return model


def actor_of(
    model: MiniMaxM1ForCausalLM,
    tokenizer: MiniMaxM1Tokenizer,
    *,
    context: int = 200,
    max_num_seqs: int = 16,
    precision: torch.dtype = torch.float32,
) -> Actor:
    actor = Actor(
        model.config,
        tokenizer,
        precision=precision,
        device=torch.device("cpu"),
        context=context,
        max_num_seqs=max_num_seqs,
    )
    actor.load(model.state_dict())
    return actor


def prompt(ids: Sequence[int], asked: Any = "text", **columns: Any) -> Prompt:
    return Prompt(
        source="test", level=0, asked=asked, tools=(), ids=list(ids), columns=columns, place=f"test/{len(ids)}"
    )


def chat(tokenizer: MiniMaxM1Tokenizer, **columns: Any) -> Prompt:
    return prompt(encode_chat(tokenizer, ASKED), ASKED, **columns)


PROMPTS = [prompt([7]), prompt(range(20, 60)), prompt([9, 9, 30]), prompt(range(20, 57))]


def packed(answers: Sequence[Answer]) -> RolloutBatch:
    return RolloutBatch(
        ids=torch.tensor([token for each in answers for token in each.ids]),
        own=torch.tensor([own for each in answers for own in each.own]),
        logprobs=torch.tensor([value for each in answers for value in each.logprobs]),
        lengths=torch.tensor([len(each.ids) for each in answers]),
        groups=torch.tensor([each.group for each in answers]),
        advantages=torch.zeros(len(answers)),
    )


def gap(model: MiniMaxM1ForCausalLM, answers: Sequence[Answer], precision: str = "float32") -> dict[str, float]:
    """How far the answers' log-probs are from those of the trainer's forward pass."""
    batch = packed(answers)
    with torch.no_grad():
        scores, places, _ = score(model, batch, precision=precision)
    assert torch.equal(places, batch.own.nonzero()[:, 0]) and not batch.logprobs[~batch.own].any()
    return agreement(scores.logprob, batch.logprobs[places])


def test_log_probs_are_those_of_the_trainer(tokenizer: MiniMaxM1Tokenizer) -> None:
    model = made()
    answers = actor_of(model, tokenizer).play(PROMPTS, 4, seed="a", max_tokens=40)
    found = gap(model, answers)
    assert found["pearson"] > 0.9999 and found["dlogp_max"] < 1e-4
    assert torch.tensor([value for each in answers for value in each.logprobs if value]).exp().var() > 0.001
    assert gap(made(1), answers)["pearson"] < 0.9  # the figures can tell


def test_bfloat16_answers_agree_to_two_digits(tokenizer: MiniMaxM1Tokenizer) -> None:
    model = made()
    answers = actor_of(model, tokenizer, precision=torch.bfloat16).play(PROMPTS, 4, seed="a", max_tokens=40)
    found = gap(model, answers, "bfloat16")
    assert found["pearson"] > 0.99 and found["dlogp_max"] > 1e-4


def test_answers_come_in_groups_and_begin_with_their_prompts(tokenizer: MiniMaxM1Tokenizer) -> None:
    answers = actor_of(made(), tokenizer).play(PROMPTS, 3, seed="a", max_tokens=12)
    assert [each.group for each in answers] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    for each in answers:
        known = len(each.prompt.ids)
        assert each.prompt is PROMPTS[each.group] and each.ids[:known] == each.prompt.ids
        assert each.own == [False] * known + [True] * (len(each.ids) - known)
        assert each.length == len(each.ids) - known <= 12 and len(each.logprobs) == len(each.ids)
        assert each.completion == each.text == tokenizer.decode(each.ids[known:], skip_special_tokens=True)
    assert len({tuple(each.ids) for each in answers}) == 12


def test_the_same_seed_and_weights_give_the_same_answers_however_many_run_at_once(
    tokenizer: MiniMaxM1Tokenizer,
) -> None:
    told = []
    for max_num_seqs in (16, 5, 1):
        actor = actor_of(made(), tokenizer, max_num_seqs=max_num_seqs)
        told.append([each.ids for each in actor.play(PROMPTS, 4, seed="a", max_tokens=16)])
        if max_num_seqs == 5:
            again = [each.ids for each in actor.play(PROMPTS, 4, seed="a", max_tokens=16)]
            other = [each.ids for each in actor.play(PROMPTS, 4, seed="b", max_tokens=16)]
    assert told[0] == told[1] == told[2] == again
    assert all(one != two for one, two in zip(told[0], other, strict=True))


def test_new_weights_answer_and_nothing_of_the_old_ones_is_left(tokenizer: MiniMaxM1Tokenizer) -> None:
    first, second = made(0), made(1)
    actor = actor_of(first, tokenizer)
    one = actor.play(PROMPTS, 2, seed="a", max_tokens=20)
    actor.load(second.state_dict())
    two = actor.play(PROMPTS, 2, seed="a", max_tokens=20)
    assert gap(second, two)["dlogp_max"] < 1e-4 < gap(first, two)["dlogp_max"]
    fresh = actor_of(second, tokenizer).play(PROMPTS, 2, seed="a", max_tokens=20)
    assert [(each.ids, each.logprobs) for each in two] == [(each.ids, each.logprobs) for each in fresh]
    with torch.no_grad():
        second.lm_head.weight.mul_(3)  # the trainer goes on; the actor's weights are its own
    again = actor.play(PROMPTS, 2, seed="a", max_tokens=20)
    assert [each.logprobs for each in again] == [each.logprobs for each in two]
    actor.load(first.state_dict())
    back = actor.play(PROMPTS, 2, seed="a", max_tokens=20)
    assert [(each.ids, each.logprobs) for each in back] == [(each.ids, each.logprobs) for each in one]


def test_an_answer_ends_with_its_sentence_or_at_its_length(tokenizer: MiniMaxM1Tokenizer) -> None:
    end = tokenizer.eos_token_id
    assert end is not None
    actor = actor_of(scripted({40: 41, 41: end, 50: 51, 51: 52, 52: 50}), tokenizer)
    stopped, cut = actor.play([prompt([40]), prompt([50])], 1, seed="a", max_tokens=7)
    assert (stopped.ids, stopped.finish) == ([40, 41, end], FinishReason.STOP)
    assert (cut.ids, cut.finish) == ([50, 51, 52, 50, 51, 52, 50, 51], FinishReason.LENGTH)
    assert stopped.own == [False, True, True] and stopped.text == tokenizer.decode([41])
    assert max(map(abs, stopped.logprobs)) < 1e-4 and stopped.fault is None


def test_an_answer_that_loops_is_ended_where_that_is_asked_for(tokenizer: MiniMaxM1Tokenizer) -> None:
    actor = actor_of(scripted({50: 51, 51: 52, 52: 50}), tokenizer)
    (looped,) = actor.play([prompt([50])], 1, seed="a", max_tokens=60, repetition_window=9)
    assert looped.finish is FinishReason.REPETITION and 9 <= looped.length <= 13
    (narrow,) = actor.play([prompt([50])], 1, seed="a", max_tokens=60, repetition_window=4)  # periods of 2 at most
    assert narrow.finish is FinishReason.LENGTH and narrow.length == 60


def test_the_context_ends_an_answer_and_must_hold_the_prompt(tokenizer: MiniMaxM1Tokenizer) -> None:
    actor = actor_of(scripted({50: 51, 51: 52, 52: 50}), tokenizer, context=12)
    (cut,) = actor.play([prompt([1, 2, 3, 50])], 1, seed="a", max_tokens=60)
    assert len(cut.ids) == 12 and cut.finish is FinishReason.LENGTH
    (last,) = actor.play([prompt([50] * 11)], 1, seed="a", max_tokens=60)
    assert last.length == 1
    with pytest.raises(DataError, match="test/12: the prompt is 12 tokens, the context 12"):
        actor.play([prompt([50]), prompt([50] * 12)], 1, seed="a", max_tokens=60)


@dataclass
class World:
    """An environment that says the same again and again, or fails where it is told to."""

    columns: Mapping[str, Any]
    heard: list[list[Any]] = field(default_factory=list)
    ended: int = 0

    def respond(self, messages: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        self.heard.append([*messages])
        if self.columns.get("fails") == "respond":
            raise EnvironmentFault("world.py:3: it broke")
        return [{"role": "user", "content": "more"}] if len(self.heard) < self.columns.get("times", 99) else []

    def reward(self) -> float | None:
        self.ended += 1
        if self.columns.get("fails") == "respond":
            raise EnvironmentFault("world.py:3: it broke")
        if self.columns.get("fails") == "reward":
            raise EnvironmentFault("world.py:5: no reward")
        return float(len(self.heard))


@pytest.fixture
def worlds() -> list[World]:
    return []


@pytest.fixture
def environments(worlds: list[World]) -> Environments:
    def start(columns: Mapping[str, Any]) -> World:
        if columns.get("fails") == "start":
            raise EnvironmentFault("world.py:1: it does not begin")
        worlds.append(World(columns))
        return worlds[-1]

    return Environments(name="world", tools=(), start=start)


@pytest.fixture
def speaker(tokenizer: MiniMaxM1Tokenizer) -> Callable[..., Actor]:
    """An actor whose every reply is one token and the end of its sentence."""
    opening, end = encode_chat(tokenizer, ASKED)[-1], tokenizer.eos_token_id
    assert end is not None and opening not in (40, end)
    return lambda **options: actor_of(scripted({opening: 40, 40: end}), tokenizer, **options)


def more_of(tokenizer: MiniMaxM1Tokenizer, replies: int) -> list[int]:
    """What stands between two replies."""
    reply: dict[str, Any] = {"role": "assistant", "content": tokenizer.decode([40])}
    added: list[dict[str, Any]] = [{"role": "user", "content": "more"}]
    return follow_up(tokenizer, [*ASKED, *[reply, *added] * (replies - 1), reply], added, None)


def test_turns_are_what_was_sampled_and_what_was_said_between(
    tokenizer: MiniMaxM1Tokenizer, speaker: Callable[..., Actor], environments: Environments, worlds: list[World]
) -> None:
    asked, end = chat(tokenizer), tokenizer.eos_token_id
    (answer,) = speaker().play([asked], 1, seed="a", max_tokens=50, environments=environments, turns=3)
    between = [more_of(tokenizer, replies) for replies in (1, 2)]
    assert answer.ids == [*asked.ids, 40, end, *between[0], 40, end, *between[1], 40, end]
    silent = [[False] * len(part) for part in (asked.ids, *between)]
    assert answer.own == [*silent[0], True, True, *silent[1], True, True, *silent[2], True, True]
    assert answer.length == 6 and answer.finish is FinishReason.STOP and answer.fault is None
    assert not any(value for value, own in zip(answer.logprobs, answer.own, strict=True) if not own)
    said, more = {"role": "assistant", "content": tokenizer.decode([40])}, {"role": "user", "content": "more"}
    assert answer.added == answer.completion == [said, more, said, more, said]
    (world,) = worlds  # it hears the last reply too, and what it says to that is not read by anyone
    assert world.heard == [[*ASKED, said], [*ASKED, said, more, said], [*ASKED, said, more, said, more, said]]
    assert world.ended == 1 and answer.reward == 3.0


@pytest.mark.parametrize("times, replies", [(1, 1), (2, 2), (9, 4)])
def test_a_conversation_ends_when_its_world_is_silent_or_turns_are_over(
    tokenizer: MiniMaxM1Tokenizer, speaker: Callable[..., Actor], environments: Environments, times: int, replies: int
) -> None:
    (answer,) = speaker().play(
        [chat(tokenizer, times=times)], 1, seed="a", max_tokens=50, environments=environments, turns=4
    )
    assert answer.length == 2 * replies and answer.ids[-1] == tokenizer.eos_token_id
    assert answer.reward == replies and answer.finish is FinishReason.STOP


@pytest.mark.parametrize("max_tokens, replies", [(2, 1), (3, 2), (4, 2), (5, 3)])
def test_all_turns_together_have_the_output_length(
    tokenizer: MiniMaxM1Tokenizer,
    speaker: Callable[..., Actor],
    environments: Environments,
    max_tokens: int,
    replies: int,
) -> None:
    (answer,) = speaker().play(
        [chat(tokenizer)], 1, seed="a", max_tokens=max_tokens, environments=environments, turns=9
    )
    assert answer.length == max_tokens and answer.finish is FinishReason.LENGTH
    assert [message["role"] for message in answer.added] == (["assistant", "user"] * replies)[:-1]
    assert answer.own[-1]


def test_a_conversation_never_outgrows_the_context(
    tokenizer: MiniMaxM1Tokenizer, speaker: Callable[..., Actor], environments: Environments
) -> None:
    asked = chat(tokenizer)
    between = len(more_of(tokenizer, 1))
    for room in range(1, 2 * between + 6):
        context = len(asked.ids) + room
        (answer,) = speaker(context=context).play(
            [asked], 1, seed="a", max_tokens=99, environments=environments, turns=9
        )
        assert len(answer.ids) <= context and answer.own[-1] and answer.finish is FinishReason.LENGTH
        packed([answer])


@pytest.mark.parametrize("fails, sentence", [("start", "begin"), ("respond", "broke"), ("reward", "no reward")])
def test_a_fault_costs_its_own_conversation_and_no_other(
    tokenizer: MiniMaxM1Tokenizer,
    environments: Environments,
    worlds: list[World],
    fails: str,
    sentence: str,
) -> None:
    opening, end = encode_chat(tokenizer, ASKED)[-1], tokenizer.eos_token_id
    assert end is not None
    model = scripted({opening: range(40, 48), **dict.fromkeys(range(40, 48), end)})
    told = []
    for columns in ({}, {"fails": fails}):
        asked = [chat(tokenizer), chat(tokenizer, **columns), chat(tokenizer)]
        answers = actor_of(model, tokenizer).play(asked, 2, seed="a", max_tokens=30, environments=environments, turns=3)
        told.append([(each.ids, each.own, each.reward, each.added) for each in answers])
    assert [bool(each.fault) for each in answers] == [False, False, True, True, False, False]
    assert all(sentence in (each.fault or "") and each.reward is None for each in answers[2:4])
    assert len({tuple(ids) for ids, *_ in told[0]}) > 4
    for one, two, answer in zip(*told, answers, strict=True):
        assert answer.fault or one == two
    assert all(world.ended == 1 for world in worlds)


def test_without_environments_there_is_one_reply_and_no_reward(tokenizer: MiniMaxM1Tokenizer) -> None:
    opening, end = encode_chat(tokenizer, ASKED)[-1], tokenizer.eos_token_id
    assert end is not None
    (answer,) = actor_of(scripted({opening: 40, 40: end}), tokenizer).play(
        [chat(tokenizer)], 1, seed="a", max_tokens=50, turns=5
    )
    assert answer.ids[-2:] == [40, end] and answer.length == 2
    assert answer.reward is None and answer.added == [{"role": "assistant", "content": tokenizer.decode([40])}]
