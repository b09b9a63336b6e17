"""The engine over a model that counts: right ids however requests share the time, and no request harms another."""

from __future__ import annotations

import base64
import gc
import io
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimax_m1.engine.request import FinishReason, RepetitionStop
from minimax_m1.errors import ContextLengthExceeded, RequestError, ServerBusy

BROKEN, NOT_A_NUMBER = 48, 49  # see conftest.py

Reply = Callable[..., list[int]]


def test_one_request_gets_its_tokens_and_one_end(bench: Any, reply: Reply) -> None:
    desk = bench()
    assert not desk.engine.busy
    desk.ask("a", range(20))
    events = desk.drain()["a"]
    assert desk.ids("a") == reply(range(20), 5)
    assert desk.end("a").finish is FinishReason.LENGTH
    assert {event.prompt_tokens for event in events} == {20}
    assert desk.step() == []
    desk.at_rest()


def test_a_prompt_is_read_in_slices_and_tells_how_far(bench: Any) -> None:
    desk = bench()
    desk.ask("a", range(20), 1)
    assert [(event.prefilled_tokens, event.token_id is None) for event in desk.drain()["a"]] == [
        (8, True),
        (16, True),
        (20, False),
    ]
    assert desk.model.runs == [[8], [8], [4]]  # max_tokens 1: the only token made is never run


def test_prompts_and_replies_run_as_one_packed_batch(bench: Any, reply: Reply) -> None:
    desk = bench()
    for number in range(4):
        desk.ask(str(number), [number, 7], 3 + number)
    desk.step()
    desk.ask("late", [9, 9, 9])
    desk.drain()
    for number in range(4):
        assert desk.ids(str(number)) == reply([number, 7], 3 + number)
    assert desk.ids("late") == reply([9, 9, 9], 5)
    assert desk.model.runs == [[2, 2, 2, 2], [1, 1, 1, 1, 3], [1] * 5, [1] * 4, [1] * 3, [1] * 2]
    desk.at_rest()


def test_a_short_prompt_waits_for_one_slice_of_a_long_one_and_no_more(bench: Any, reply: Reply) -> None:
    desk = bench()
    desk.ask("long", [1] * 150)
    desk.step()
    desk.ask("short", [2, 3], 2)
    first = [event.request_id for _ in range(2) for event in desk.step()]
    assert "short" in first
    assert first.count("long") <= 2
    desk.drain()
    assert desk.ids("long") == reply([1] * 150, 5)


def test_decoding_goes_on_while_a_long_prompt_is_read(bench: Any) -> None:
    desk = bench()
    desk.ask("talker", [5], 30)
    desk.step()
    desk.ask("long", [1] * 150)
    for _ in range(10):
        told = {event.request_id: event for event in desk.step()}
        assert told["talker"].token_id is not None
        assert told["long"].token_id is None


def test_each_request_keeps_its_own_expert_threshold(bench: Any, reply: Reply) -> None:
    desk = bench()
    desk.ask("full", [1, 2, 3], 3, routing=True)
    desk.ask("thin", [1, 2, 3], 3, expert_threshold=0.5, routing=True)
    events = desk.drain()
    assert desk.ids("full") == reply([1, 2, 3], 3)
    assert desk.ids("thin") == reply([1, 2, 3], 3, few_experts=True)
    assert desk.model.runs[0] == [3, 3]
    per_token = {id: each[-1].routing.report()["experts_per_token"] for id, each in events.items()}
    assert per_token == {"full": 2.0, "thin": 1.0}


def test_end_of_sentence_stop_ids_and_the_stop_rule_end_a_request(bench: Any, reply: Reply) -> None:
    made = reply([1, 2], 30)
    third = made[2]
    assert third not in made[:2]
    for changes in ({"stop_token_ids": [third]}, {"stop_rule": lambda token: token == third}):
        desk = bench()
        desk.ask("a", [1, 2], 30, **changes)
        desk.drain()
        assert desk.ids("a") == made[:3]
        assert desk.end("a").finish is FinishReason.STOP
    for ignore, count in ((False, 3), (True, 30)):
        desk = bench(eos_ids={third})
        desk.ask("a", [1, 2], 30, ignore_eos=ignore)
        desk.drain()
        assert len(desk.ids("a")) == count


def test_min_tokens_holds_the_end_back(bench: Any, reply: Reply) -> None:
    third = reply([1, 2], 3)[2]
    desk = bench(eos_ids={third})
    desk.ask("a", [1, 2], 20, min_tokens=10)
    desk.drain()
    assert len(desk.ids("a")) >= 10
    assert third not in desk.ids("a")[:10]


def test_max_tokens_is_cut_to_the_window(bench: Any) -> None:
    desk = bench(max_model_len=25)
    desk.ask("a", range(20), 10**9)
    desk.drain()
    assert len(desk.ids("a")) == 5
    assert desk.end("a").finish is FinishReason.LENGTH


def test_no_tokens_wanted_means_the_prompt_is_only_read(bench: Any) -> None:
    desk = bench(max_model_len=20, page_size=4)
    desk.ask("a", range(20), 0)  # the whole window
    events = desk.drain()["a"]
    assert [event.prefilled_tokens for event in events] == [8, 16, 20]
    assert (desk.ids("a"), desk.end("a").finish) == ([], FinishReason.LENGTH)
    desk.ask("b", range(20), 0)
    desk.drain()
    assert (desk.end("b").cached_tokens, desk.end("b").prefilled_tokens, desk.read()) == (20, 20, 20)
    desk.at_rest()


def test_a_reply_that_loops_ends(bench: Any) -> None:
    desk = bench()
    rule = RepetitionStop(window=6, probability=0.0, max_period=1)
    desk.ask("a", [1, 2], 50, logit_bias={7: 100.0}, repetition_stop=rule)
    desk.drain()
    assert desk.ids("a") == [7] * 6
    assert desk.end("a").finish is FinishReason.REPETITION


def test_a_cancelled_request_ends_at_once_wherever_it_is(bench: Any, reply: Reply) -> None:
    desk = bench(max_num_seqs=3)
    for id, prompt in {"decodes": [1], "stays": [2], "reads": [3] * 90, "waits": [4]}.items():
        desk.ask(id, prompt, 20)
    desk.step()
    for id in ("decodes", "reads", "waits", "nobody"):
        desk.engine.cancel(id)
    desk.engine.cancel("reads")
    events = desk.drain()
    for id in ("decodes", "reads", "waits"):
        assert (desk.end(id).finish, desk.end(id).error) == (FinishReason.ABORT, None)
    assert desk.ids("stays") == reply([2], 20)
    assert "nobody" not in events
    desk.at_rest()


@pytest.mark.parametrize("steps", range(12))
def test_a_cancel_after_any_step_leaves_nothing_behind(bench: Any, reply: Reply, steps: int) -> None:
    desk = bench(kv_cache_bytes=12 * 32, max_model_len=None, max_num_seqs=2)  # 12 pages: whoever comes last is parked
    desk.ask("goes", range(20), 9)
    desk.ask("stays", range(16, 0, -1), 12)
    for _ in range(steps):
        desk.step()
    desk.engine.cancel("goes")
    held = desk.engine.holdings
    assert held.running + held.waiting <= 1
    desk.drain()
    assert desk.ids("goes") == reply(range(20), 9)[: len(desk.ids("goes"))]
    assert desk.ids("stays") == reply(range(16, 0, -1), 12)
    desk.at_rest()


def test_an_id_may_come_again_right_after_its_cancel(bench: Any, reply: Reply) -> None:
    desk = bench()
    desk.ask("a", [1], 20)
    desk.step()
    desk.events.clear()
    desk.engine.cancel("a")
    desk.ask("a", [2], 4)
    events = desk.drain()["a"]
    assert [event.finish for event in events if event.finish] == [FinishReason.ABORT, FinishReason.LENGTH]
    assert desk.ids("a") == reply([2], 4)


@pytest.mark.parametrize("prompt", [[BROKEN], [1] * 20 + [BROKEN]])
def test_a_prompt_that_fails_ends_alone(bench: Any, reply: Reply, prompt: list[int]) -> None:
    desk = bench()
    desk.ask("good", [1], 10)
    desk.ask("bad", prompt)
    desk.drain()
    assert desk.end("bad").finish is FinishReason.ABORT
    assert "a broken id" in str(desk.end("bad").error)
    assert desk.ids("good") == reply([1], 10)
    desk.at_rest()


def test_one_reply_that_fails_leaves_the_batch_and_the_others_go_on(bench: Any, reply: Reply) -> None:
    desk = bench()
    desk.ask("good", [1], 10)
    desk.ask("bad", [2], 10, logit_bias={BROKEN: 100.0})  # it says what breaks the next run
    desk.ask("also good", [3], 10)
    desk.drain()
    assert (desk.ids("bad"), desk.end("bad").finish) == ([BROKEN], FinishReason.ABORT)
    for id, prompt in {"good": [1], "also good": [3]}.items():
        assert desk.ids(id) == reply(prompt, 10)
    desk.at_rest()


def test_logits_that_are_no_numbers_end_one_request_and_are_not_kept(bench: Any) -> None:
    desk = bench()
    desk.ask("good", [1], 10)
    desk.ask("bad", [5, 5, NOT_A_NUMBER])
    desk.drain()
    assert "not finite" in str(desk.end("bad").error)
    assert len(desk.ids("good")) == 10
    desk.ask("again", [5, 5, NOT_A_NUMBER])
    desk.drain()
    assert "not finite" in str(desk.end("again").error)
    assert desk.end("again").cached_tokens == 0


def test_a_stop_rule_that_raises_ends_its_request_only(bench: Any) -> None:
    def rule(token: int) -> bool:
        raise KeyError(token)

    desk = bench()
    desk.ask("good", [1], 10)
    desk.ask("bad", [2], 10, stop_rule=rule)
    events = desk.drain()
    assert [event.finish for event in events["bad"]] == [FinishReason.ABORT]
    assert "KeyError" in str(desk.end("bad").error)
    assert len(desk.ids("good")) == 10


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "empty"),
        ([3, -1], "id -1, outside 0 to 49"),
        ([3, 50], "token 1 has the id 50"),
        ([10**30], "integer"),
        ([1.5], "integer"),
        (["a"], "integer"),
        ([[1, 2], [3]], "flat list"),
        ([True], "integer"),
    ],
)
def test_a_prompt_that_no_model_can_read_is_refused(bench: Any, prompt: list[Any], message: str) -> None:
    desk = bench()
    with pytest.raises(RequestError, match=message):
        desk.ask("a", prompt)
    assert not desk.engine.busy


def test_a_prompt_must_leave_room_for_one_token(bench: Any) -> None:
    desk = bench(max_model_len=20)
    with pytest.raises(ContextLengthExceeded, match=r"20 tokens .* 20 tokens"):
        desk.ask("a", [1] * 20)
    with pytest.raises(ContextLengthExceeded, match=r"21 tokens .* 20 tokens"):
        desk.ask("a", [1] * 21, 0)
    desk.ask("a", [1] * 19)
    desk.drain()
    assert len(desk.ids("a")) == 1


def test_ids_outside_the_vocabulary_and_requests_already_there_are_refused(bench: Any) -> None:
    desk = bench()
    with pytest.raises(RequestError, match="stop_token_ids holds 50"):
        desk.ask("a", [1], stop_token_ids=[50])
    with pytest.raises(RequestError, match="logit_bias names 50"):
        desk.ask("a", [1], logit_bias={50: 1.0})
    desk.ask("a", [1])
    with pytest.raises(RequestError, match="'a' is already"):
        desk.ask("a", [1])


def test_a_full_queue_says_so_and_takes_more_later(bench: Any, reply: Reply) -> None:
    desk = bench(max_num_seqs=1, max_queue=2)
    for number in range(3):
        desk.ask(str(number), [number])
    assert desk.engine.capacity == 0
    with pytest.raises(ServerBusy, match="3 requests"):
        desk.ask("4", [4])
    assert len(desk.drain()) == 3
    desk.ask("4", [4])
    desk.drain()
    assert desk.ids("4") == reply([4], 5)


def test_no_more_than_max_num_seqs_hold_a_state_and_the_rest_come_in_order(bench: Any) -> None:
    desk = bench(max_num_seqs=2)
    for number in range(5):
        desk.ask(str(number), [number], 4)
    ends = [id for id, events in desk.drain().items() if events[-1].finish]
    assert ends == list("01234")
    assert max(map(len, desk.model.runs)) == 2


def test_a_seed_gives_the_same_text_in_any_company(bench: Any, reply: Reply) -> None:
    def text(company: int) -> list[int]:
        desk = bench()
        for number in range(company):
            desk.ask(f"c{number}", [number], 12, temperature=30.0)
        desk.ask("a", range(11), 12, temperature=30.0, seed=7)
        desk.drain()
        return desk.ids("a")  # type: ignore[no-any-return]

    assert text(0) == text(1) == text(6)
    assert text(0) != reply(range(11), 12)


def test_the_trace_covers_all_that_ran_but_the_last_token(bench: Any, reply: Reply) -> None:
    desk = bench()
    desk.ask("a", range(20), 5, routed_experts=True)
    desk.ask("b", range(3), 9, routing=True)
    desk.ask("c", range(3), 9)
    events = desk.drain()
    assert events["c"][-1].routing is None
    assert all(event.routing is None for event in events["a"][:-1])
    traces = {id: events[id][-1].routing for id in "ab"}
    assert (traces["a"].tokens, traces["b"].tokens) == (20 + 5 - 1, 3 + 9 - 1)
    array = np.load(io.BytesIO(base64.b64decode(traces["a"].routed_experts())))
    ran = [*range(20), *reply(range(20), 5)[:-1]]
    assert array.tolist() == [[[token % 4, (token + 1) % 4]] * 3 for token in ran]


def test_what_a_request_held_goes_with_it_and_not_with_the_next_garbage_collection(bench: Any) -> None:
    desk = bench(max_num_seqs=1)
    held = []
    gc.disable()
    try:
        for id in "abc":
            desk.ask(id, range(20), 20, priority=-ord(id))  # each parks the one before
            held.append(weakref.ref(desk.engine._open[id].sequence.prompt))
            desk.step()
        desk.engine.cancel("a")
        desk.drain()
        desk.engine.forget()
        assert [each() for each in held] == [None, None, None]
    finally:
        gc.enable()


@settings(max_examples=30)
@given(lengths=st.lists(st.integers(1, 100), min_size=2, max_size=6), chunk=st.integers(4, 16))
def test_nobody_waits_longer_than_a_turn_of_everyone(bench: Any, lengths: list[int], chunk: int) -> None:
    desk = bench(prefill_tokens=chunk, max_num_batched_tokens=chunk, enable_prefix_caching=False)
    for number, length in enumerate(lengths):
        desk.ask(str(number), [number] * length, 20)
    silent = dict.fromkeys(map(str, range(len(lengths))), 0)
    while desk.engine.busy:
        told = {event.request_id: event.finish for event in desk.step()}
        for id in list(silent):
            silent[id] = 0 if id in told else silent[id] + 1
            if told.get(id):
                del silent[id]
        assert max(silent.values(), default=0) < len(lengths)
