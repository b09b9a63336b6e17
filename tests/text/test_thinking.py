"""Thoughts: free inside, closed when their budget is spent, and never taken for the answer."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimax_m1.errors import RequestError
from minimax_m1.text.guide import GuideMaker
from minimax_m1.text.reply import parse_reply
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.text.vocabulary import BOS, EOS

TOOLS = [{"name": "ping"}]


@pytest.fixture(scope="module", params=["small", "published", "tags are text"])
def tokenizer(request: pytest.FixtureRequest) -> MiniMaxM1Tokenizer:
    if request.param == "tags are text":  # as in the published vocabulary
        return MiniMaxM1Tokenizer.train(["<think>\n</think>\n\n yes no "] * 8, vocab_size=290, specials=(BOS, EOS))
    chosen: MiniMaxM1Tokenizer = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture(scope="module")
def maker(tokenizer: MiniMaxM1Tokenizer) -> GuideMaker:
    return GuideMaker(tokenizer, tokenizer.vocab_size + 3)


def put(guide: Any, ids: list[int]) -> bool:
    """Gives ids that may come to a guide; whether the last one ended the reply."""
    over = False
    for id in ids:
        assert not over
        mask = guide.mask()
        assert mask is None or mask[id], id
        over = guide.accept(id)
    return over


def cut(tokenizer: MiniMaxM1Tokenizer, text: str, seed: int) -> list[int]:
    """Some ids that spell `text`, not the usual ones."""
    rng = random.Random(seed)
    ids: list[int] = []
    while text:
        length = rng.randint(1, len(text))
        ids += tokenizer.encode(text[:length], split_special=rng.random() < 0.5)
        text = text[length:]
    return ids


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    thought=st.sampled_from(
        ["", "\n", "\nhm\n", "\n<tool_calls>\n{}\n</tool_calls>\n", " </think <think>", '\n"yes"é🙂']
    ),
)
def test_a_thought_in_any_tokens_comes_before_the_answer(
    tokenizer: MiniMaxM1Tokenizer, maker: GuideMaker, seed: int, thought: str
) -> None:
    guide: Any = maker.guide(choice=["yes", "<no>"])
    put(guide, cut(tokenizer, f"<think>{thought}</think>", seed))
    forced = list(guide.forced())
    assert tokenizer.decode(forced) == "\n\n"
    assert not put(guide, forced)
    assert put(guide, tokenizer.encode("<no>"))  # where the answer is certain, so are its ids


@pytest.mark.parametrize("answer", ["yes", "<no>", "<thin", "<think"])
def test_an_answer_without_a_thought_is_one_from_its_first_character(
    tokenizer: MiniMaxM1Tokenizer, maker: GuideMaker, answer: str
) -> None:
    guide: Any = maker.guide(regex="yes|<no>|<thin|<think")
    over = put(guide, tokenizer.encode(answer))
    assert over or guide.mask()[tokenizer.eos_token_id]


def test_what_begins_neither_may_not_come(tokenizer: MiniMaxM1Tokenizer, maker: GuideMaker) -> None:
    guide: Any = maker.guide(choice=["yes"])
    spelled = {tokenizer.token_bytes(int(id)) for id in np.flatnonzero(guide.mask())}
    assert all(b"yes".startswith(each) or b"<think>".startswith(each) for each in spelled)
    assert {each[:1] for each in spelled} == {b"y", b"<"}
    assert guide.forced() == ()
    with pytest.raises(RequestError, match="begins neither a thought nor the answer"):
        guide.accept(tokenizer.encode("z")[0])


def test_without_thinking_only_the_answer_may_come(tokenizer: MiniMaxM1Tokenizer, maker: GuideMaker) -> None:
    guide: Any = maker.guide(choice=["yes"], thinking=False, thinking_budget=4)
    spelled = {tokenizer.token_bytes(int(id))[:1] for id in np.flatnonzero(guide.mask())}
    assert spelled == {b"y"}
    assert tokenizer.decode(list(guide.forced())) == "yes"


def test_the_end_may_not_come_inside_a_thought_whose_answer_is_guided(
    tokenizer: MiniMaxM1Tokenizer, maker: GuideMaker
) -> None:
    guide: Any = maker.guide(choice=["yes"])
    put(guide, tokenizer.encode("<think>\nso"))
    mask = guide.mask()
    assert not mask[tokenizer.eos_token_id]
    assert mask.sum() == tokenizer.vocab_size - 1 - sum(
        id not in tokenizer.backend.get_vocab().values() for id in range(tokenizer.vocab_size)
    )
    assert not mask[tokenizer.vocab_size :].any()


def test_a_token_that_ends_a_thought_and_begins_the_answer_may_not_come() -> None:
    learned = MiniMaxM1Tokenizer.train(["x"], vocab_size=258, specials=(BOS, EOS))
    learned.backend.add_tokens(['>{"name": ', ">\n"])
    tokenizer = MiniMaxM1Tokenizer(learned.backend, {"eos_token": EOS})
    maker = GuideMaker(tokenizer, tokenizer.vocab_size)
    guide: Any = maker.guide(json_object=True)
    both = [tokenizer.token_to_id(">\n"), tokenizer.token_to_id('>{"name": ')]
    put(guide, tokenizer.encode("<think>a>b</think", split_special=True))
    assert not guide.mask()[both].any()
    with pytest.raises(RequestError, match="goes past the end of </think>"):
        guide.accept(both[1])
    opened: Any = maker.guide(json_object=True)
    put(opened, [*tokenizer.encode("<think", split_special=True), both[1]])  # a thought may begin in any way
    put(opened, tokenizer.encode("</think>", split_special=True))
    assert tokenizer.decode(list(opened.forced())) == "\n\n"
    free: Any = maker.guide(thinking_budget=50)
    put(free, [*tokenizer.encode("<think>a</think", split_special=True), both[1]])
    assert free.mask() is None


@pytest.mark.parametrize("budget", [0, 1, 2, 3, 7, 20])
@pytest.mark.parametrize("form", [{}, {"choice": ["yes", "no"]}, {"tools": TOOLS, "strict_auto": True}])
def test_a_spent_budget_closes_the_thought_and_the_answer_follows(
    tokenizer: MiniMaxM1Tokenizer, maker: GuideMaker, budget: int, form: dict[str, Any]
) -> None:
    guide: Any = maker.guide(**form, thinking_budget=budget)
    opening = tokenizer.encode("<think>")
    inside = tokenizer.encode("\n" + "one two three " * 20)[:budget]
    put(guide, [*opening, *inside[:-1]])
    if inside:
        assert not list(guide.forced())
        put(guide, inside[-1:])
    closing = list(guide.forced())
    assert guide.mask().sum() == 1
    thought = inside if inside != tokenizer.encode("\n") else []
    assert tokenizer.decode(opening + inside + closing) == tokenizer.decode(opening + thought) + "\n</think>\n\n"
    put(guide, closing)
    assert parse_reply(str(tokenizer.decode(opening + inside + closing))).content == ""
    if form == {}:
        assert guide.mask() is None
        assert guide.forced() == ()
    put(guide, tokenizer.encode("yes"))


def test_a_closed_thought_is_written_as_the_model_writes_it(tokenizer: MiniMaxM1Tokenizer, maker: GuideMaker) -> None:
    whole = tokenizer.encode("<think>\none two\n</think>\n\nDone.")
    inside = tokenizer.encode("\none two")
    guide: Any = maker.guide(thinking_budget=len(inside))
    put(guide, [*tokenizer.encode("<think>"), *inside])
    ids = [*tokenizer.encode("<think>"), *inside, *guide.forced()]
    assert ids == whole[: len(ids)]


@pytest.mark.parametrize("written", range(6))
def test_what_is_written_of_the_end_is_not_written_again(
    tokenizer: MiniMaxM1Tokenizer, maker: GuideMaker, written: int
) -> None:
    closing = tokenizer.encode("\n</think>\n\nA")[:-1]
    tag_ends = closing.index(tokenizer.encode("</think>")[-1]) + 1
    begun = closing[: min(written, tag_ends - 1)]
    inside = [*tokenizer.encode("so"), *begun]
    guide: Any = maker.guide(thinking_budget=len(inside))
    put(guide, [*tokenizer.encode("<think>"), *inside])
    assert [*begun, *guide.forced()] == closing


def test_a_thought_that_closes_in_time_is_left_alone(tokenizer: MiniMaxM1Tokenizer, maker: GuideMaker) -> None:
    inside = tokenizer.encode("\nso\n</think>\n\nA")[:-3]
    for budget in (len(inside), len(inside) + 1):
        guide: Any = maker.guide(thinking_budget=budget)
        put(guide, [*tokenizer.encode("<think>"), *inside])
        assert guide.forced() == ()
        put(guide, tokenizer.encode("\n\nA long answer that goes on and on, well past the budget."))
        assert guide.mask() is None


def test_a_budget_is_for_thoughts_alone(tokenizer: MiniMaxM1Tokenizer, maker: GuideMaker) -> None:
    for text in ("An answer, no thought.", "Say <think> and on it goes", "<thin ice", "\n a"):
        guide: Any = maker.guide(thinking_budget=0)
        put(guide, tokenizer.encode(text))
        assert guide.forced() == ()
        assert guide.mask() is None


def test_line_breaks_may_stand_before_a_thought(tokenizer: MiniMaxM1Tokenizer, maker: GuideMaker) -> None:
    guide: Any = maker.guide(thinking_budget=0)
    put(guide, tokenizer.encode("\n\n <think>"))
    assert tokenizer.decode(list(guide.forced())) == "\n</think>\n\n"


def test_a_form_that_allows_anything_still_starts_after_the_thought(
    tokenizer: MiniMaxM1Tokenizer, maker: GuideMaker
) -> None:
    guide: Any = maker.guide(regex=r"(<think>)?[a-z ]{0,9}")
    put(guide, tokenizer.encode("<think>\n1 2 3"))  # no text of the form, so this must be a thought
    put(guide, tokenizer.encode("\n</think>\n\nA")[:-1])
    assert put(guide, tokenizer.encode("abcdefghi"))


def test_a_tool_call_inside_a_thought_is_text(tokenizer: MiniMaxM1Tokenizer, maker: GuideMaker) -> None:
    guide: Any = maker.guide(tools=TOOLS, strict_auto=True)
    put(guide, tokenizer.encode("<think>\n<tool_calls>\nnothing</think>"))
    put(guide, list(guide.forced()))
    assert guide.mask() is None
    put(guide, tokenizer.encode("So: <tool_calls>"))
    assert put(guide, tokenizer.encode('\n{"name": "ping", "arguments": {}}\n</tool_calls>'))


def test_what_is_due_must_come(tokenizer: MiniMaxM1Tokenizer, maker: GuideMaker) -> None:
    guide: Any = maker.guide(thinking_budget=0)
    put(guide, tokenizer.encode("<think>"))
    with pytest.raises(RequestError, match="where the end of the thought was due"):
        guide.accept(tokenizer.encode("x")[0])
