"""What is asked: every family, held out, repeatable, at the lengths that the names say."""

from __future__ import annotations

import pytest

from minimax_m1.errors import RequestError
from minimax_m1.eval.suites import Case, choose, suites
from minimax_m1.tasks.example import Example, Reply, reference_of, split_of
from minimax_m1.tasks.families import FAMILIES
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer

NAMED = [
    *(f"addition, up to {digits} digits" for digits in range(1, 7)),
    "sums without a thought",
    "tool calls",
    "talk",
    *(f"needle in {tokens} tokens" for tokens in (1000, 4000, 8000)),
    *(f"recall within {tokens} tokens" for tokens in (1000, 4000, 8000)),
]


def words(text: str) -> int:
    return len(text.split())


def test_every_family_of_the_registry_is_asked() -> None:
    every = suites()
    assert [suite.name for suite in every][: len(NAMED)] == NAMED
    assert {suite.family for suite in every} == set(FAMILIES)
    assert len({suite.name for suite in every}) == len(every)
    assert [suite.name for suite in every][len(NAMED) :] == [
        name for name in FAMILIES if name not in ("addition", "sums", "tools", "talk", "recall")
    ]


@pytest.mark.parametrize("name", [suite.name for suite in suites()])
def test_a_suite_is_held_out_repeatable_and_answered_by_its_reference(name: str) -> None:
    [suite] = [suite for suite in suites() if suite.name == name]
    cases = suite.cases(4, 1, words)
    assert cases == suite.cases(4, 1, words) != suite.cases(4, 2, words)
    assert len(cases) == 4 and {case.example.family for case in cases} == {suite.family}
    for case in cases:
        if not name.startswith(("needle", "recall")):
            assert split_of(case.example) == "test"
        if case.example.raw is None:
            assert case.right(reference_of(case.example, case.turn))
        assert not case.right(Reply(content="\x00"))


def test_a_family_without_a_suite_of_its_own_is_asked_at_every_difficulty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minimax_m1.eval.suites.FAMILIES", {**FAMILIES, "echo": FAMILIES["addition"]})
    suite = suites()[-1]
    assert suite.name == suite.family == "echo"
    cases = suite.cases(40, 0, words)
    assert [case.example.difficulty for case in cases] == [*range(1, 11)] * 4
    assert {case.turn for case in cases} > {1, 3}  # both turns of a conversation, some behind a system message


def test_texts_have_the_length_that_the_name_says() -> None:
    for suite in choose(["needle", "recall within"]):
        tokens = int(suite.name.split()[2])
        for case in suite.cases(3, 0, words):
            size = sum(words(message["content"]) for message in case.example.messages[: case.turn])
            least = 0.97 if suite.name.startswith("needle") else 0.25
            assert least * tokens <= size <= 1.03 * tokens


def test_tools_of_every_name_that_training_repeats_are_left_out() -> None:
    [suite] = choose(["tool calls"])
    cases = suite.cases(60, 0, words)
    assert all("tool_calls" in case.example.messages[case.turn] for case in cases)
    names = {tool["name"] for case in cases for tool in case.example.tools}
    assert len(names) > 100 and not names & {"get_weather", "get_time", "set_timer", "call_person", "book_hotel"}


def test_suites_are_chosen_by_how_their_names_begin() -> None:
    assert [suite.name for suite in choose([])] == [suite.name for suite in suites()]
    assert [suite.name for suite in choose(["addition, up to 2", "sums"])] == [NAMED[1], NAMED[6]]
    assert choose(["sums", "s", "sums"])[0].name == NAMED[6]
    assert [suite.name for suite in choose(["tools"])] == ["tool calls"]  # no name, but the family's
    for name in ("nothing", ""):
        with pytest.raises(RequestError, match=f"no suite begins with '{name}'; there are: addition, up to 1 digits; "):
            choose(["talk", name])


def test_a_suite_alone_has_the_cases_that_it_has_among_others() -> None:
    among = {suite.name: suite.cases(2, 0, words) for suite in choose(["addition"])}
    assert choose(["addition, up to 3"])[0].cases(2, 0, words) == among["addition, up to 3 digits"]


def test_texts_of_different_lengths_tell_different_facts() -> None:
    replies = [suite.cases(1, 0, words)[0].example.messages[1]["content"] for suite in choose(["needle"])]
    assert len(set(replies)) == 3


def test_a_sum_is_asked_up_to_its_equals_sign(tokenizer: MiniMaxM1Tokenizer) -> None:
    case = Case(example=Example(family="sums", difficulty=2, raw="12 + 9 = 21"))
    assert tokenizer.decode(case.prompt(tokenizer)) == "12 + 9 ="
    assert case.right(Reply(content=" 21\n")) and not case.right(Reply(content="22"))
