"""The engine over a model that counts: right ids however requests share the time, and no request harms another."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimax_m1.engine.engine import ModelEngine
from minimax_m1.engine.request import FinishReason, Request, SamplingParams, TokenEvent
from minimax_m1.errors import ContextLengthExceeded, RequestError, ServerBusy

BROKEN, NOT_A_NUMBER = 48, 49  # see conftest.py


def engine_of(model: Any, **changes: Any) -> ModelEngine:
    return ModelEngine(model, **{"eos_ids": (), "max_model_len": 200, "prefill_chunk": 8, **changes})


def ask(id: str, prompt: Iterable[int], tokens: int = 5, **changes: Any) -> Request:
    fields = {"stop_rule", "routing", "routed_experts"}
    params = {"temperature": 0.0, "max_tokens": tokens, **{k: v for k, v in changes.items() if k not in fields}}
    return Request(
        id=id,
        prompt=list(prompt),
        params=SamplingParams(**params),
        **{k: v for k, v in changes.items() if k in fields},
    )


def drain(engine: ModelEngine) -> dict[str, list[TokenEvent]]:
    events = defaultdict(list)
    for _ in range(2000):
        if not engine.busy:
            return events
        for event in engine.step():
            events[event.request_id].append(event)
    raise AssertionError("the engine does not come to rest")


def ids_of(events: list[TokenEvent]) -> list[int]:
    return [event.token_id for event in events if event.token_id is not None]


def test_one_request_gets_its_tokens_and_one_end(model: Any) -> None:
    engine = engine_of(model)
    assert not engine.busy
    engine.submit(ask("a", range(20)))
    events = drain(engine)["a"]
    assert ids_of(events) == model.reply(range(20), 5)
    assert [event.finish for event in events].count(FinishReason.LENGTH) == 1
    assert events[-1].finish is FinishReason.LENGTH
    assert {event.prompt_tokens for event in events} == {20}
    assert engine.step() == []


def test_a_prompt_is_read_in_chunks_and_tells_how_far(model: Any) -> None:
    engine = engine_of(model)
    engine.submit(ask("a", range(20), 1))
    events = drain(engine)["a"]
    assert [(event.prefilled_tokens, event.token_id is None) for event in events] == [
        (8, True),
        (16, True),
        (20, False),
    ]
    assert model.runs == [[8], [8], [4]]  # max_tokens 1: the only token made is never run


def test_those_that_make_tokens_run_as_one_batch(model: Any) -> None:
    engine = engine_of(model)
    for number in range(4):
        engine.submit(ask(str(number), [number, 7], 3 + number))
    events = drain(engine)
    for number in range(4):
        assert ids_of(events[str(number)]) == model.reply([number, 7], 3 + number)
    assert model.runs == [[2]] * 4 + [[1] * 4] * 2 + [[1] * 3] + [[1] * 2] + [[1]]


def test_a_short_prompt_waits_for_one_chunk_of_a_long_one_and_no_more(model: Any) -> None:
    engine = engine_of(model)
    engine.submit(ask("long", [1] * 150))
    engine.step()
    engine.submit(ask("short", [2, 3], 2))
    first = [event.request_id for _ in range(2) for event in engine.step()]
    assert "short" in first
    assert first.count("long") <= 2
    events = drain(engine)
    assert ids_of(events["long"]) == model.reply([1] * 150, 5)


def test_decoding_goes_on_while_a_long_prompt_is_read(model: Any) -> None:
    engine = engine_of(model)
    engine.submit(ask("talker", [5], 30))
    engine.step()
    engine.submit(ask("long", [1] * 150))
    for _ in range(10):
        told = {event.request_id: event for event in engine.step()}
        assert told["talker"].token_id is not None
        assert told["long"].token_id is None


def test_each_request_keeps_its_own_expert_threshold(model: Any) -> None:
    engine = engine_of(model)
    engine.submit(ask("full", [1], 3, routing=True))
    engine.submit(ask("thin", [2], 3, expert_threshold=0.5, routing=True))
    events = drain(engine)
    assert ids_of(events["full"]) == model.reply([1], 3)
    assert ids_of(events["thin"]) == model.reply([2], 3)
    per_token = {id: each[-1].routing.report()["experts_per_token"] for id, each in events.items()}  # type: ignore[union-attr]
    assert per_token == {"full": 2.0, "thin": 1.0}


def test_end_of_sentence_stop_ids_and_the_stop_rule_end_a_request(model: Any) -> None:
    made = model.reply([1, 2], 30)
    third = made[2]
    assert third not in made[:2]
    for changes in ({"stop_token_ids": [third]}, {"stop_rule": lambda token: token == third}):
        engine = engine_of(model)
        engine.submit(ask("a", [1, 2], 30, **changes))
        events = drain(engine)["a"]
        assert ids_of(events) == made[:3]
        assert events[-1].finish is FinishReason.STOP
    for changes, count in (({}, 3), ({"ignore_eos": True}, 30)):
        engine = engine_of(model, eos_ids={third})
        engine.submit(ask("a", [1, 2], 30, **changes))
        assert len(ids_of(drain(engine)["a"])) == count


def test_min_tokens_holds_the_end_back(model: Any) -> None:
    third = model.reply([1, 2], 3)[2]
    engine = engine_of(model, eos_ids={third})
    engine.submit(ask("a", [1, 2], 20, min_tokens=10))
    made = ids_of(drain(engine)["a"])
    assert len(made) >= 10
    assert third not in made[:10]


def test_max_tokens_is_cut_to_the_window(model: Any) -> None:
    engine = engine_of(model, max_model_len=25)
    engine.submit(ask("a", range(20), 10**9))
    events = drain(engine)["a"]
    assert len(ids_of(events)) == 5
    assert events[-1].finish is FinishReason.LENGTH


def test_a_cancelled_request_ends_at_once_wherever_it_is(model: Any) -> None:
    engine = engine_of(model, max_running=3)
    for id, prompt in {"decodes": [1], "stays": [2], "reads": [3] * 90, "waits": [4]}.items():
        engine.submit(ask(id, prompt, 20))
    heard = engine.step()
    for id in ("decodes", "reads", "waits", "nobody"):
        engine.cancel(id)
    engine.cancel("reads")
    events = drain(engine)
    for event in heard:
        events[event.request_id].insert(0, event)
    for id in ("decodes", "reads", "waits"):
        assert [event.finish for event in events[id] if event.finish] == [FinishReason.ABORT]
        assert events[id][-1].error is None
    assert ids_of(events["stays"]) == model.reply([2], 20)
    assert "nobody" not in events


def test_an_id_may_come_again_right_after_its_cancel(model: Any) -> None:
    engine = engine_of(model)
    engine.submit(ask("a", [1], 20))
    engine.step()
    engine.cancel("a")
    engine.submit(ask("a", [2], 4))
    events = drain(engine)["a"]
    assert [event.finish for event in events if event.finish] == [FinishReason.ABORT, FinishReason.LENGTH]
    assert ids_of(events) == model.reply([2], 4)


@pytest.mark.parametrize("prompt", [[BROKEN], [1] * 20 + [BROKEN]])
def test_a_prompt_that_fails_ends_alone(model: Any, prompt: list[int]) -> None:
    engine = engine_of(model)
    engine.submit(ask("good", [1], 10))
    engine.submit(ask("bad", prompt))
    events = drain(engine)
    assert events["bad"][-1].finish is FinishReason.ABORT
    assert "a broken id" in str(events["bad"][-1].error)
    assert ids_of(events["good"]) == model.reply([1], 10)


def test_one_row_that_fails_leaves_the_batch_and_the_others_go_on(model: Any) -> None:
    engine = engine_of(model)
    engine.submit(ask("good", [1], 10))
    engine.submit(ask("bad", [2], 10))
    engine.submit(ask("also good", [3], 10))
    engine.step()
    engine._open["bad"].last = BROKEN  # the fake never makes this id by itself
    events = drain(engine)
    assert [event.finish for event in events["bad"]] == [FinishReason.ABORT]
    for id, prompt in {"good": [1], "also good": [3]}.items():
        assert ids_of(events[id]) == model.reply(prompt, 10)[1:]


def test_logits_that_are_no_numbers_end_one_request(model: Any) -> None:
    engine = engine_of(model)
    engine.submit(ask("good", [1], 10))
    engine.submit(ask("bad", [NOT_A_NUMBER]))
    events = drain(engine)
    assert "not finite" in str(events["bad"][-1].error)
    assert len(ids_of(events["good"])) == 10


def test_a_stop_rule_that_raises_ends_its_request_only(model: Any) -> None:
    def rule(token: int) -> bool:
        raise KeyError(token)

    engine = engine_of(model)
    engine.submit(ask("good", [1], 10))
    engine.submit(ask("bad", [2], 10, stop_rule=rule))
    events = drain(engine)
    assert [event.finish for event in events["bad"]] == [FinishReason.ABORT]
    assert len(ids_of(events["good"])) == 10


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
def test_a_prompt_that_no_model_can_read_is_refused(model: Any, prompt: list[Any], message: str) -> None:
    engine = engine_of(model)
    with pytest.raises(RequestError, match=message):
        engine.submit(ask("a", prompt))
    assert not engine.busy


def test_a_prompt_must_leave_room_for_one_token(model: Any) -> None:
    engine = engine_of(model, max_model_len=20)
    with pytest.raises(ContextLengthExceeded, match=r"20 tokens .* 20 tokens"):
        engine.submit(ask("a", [1] * 20))
    engine.submit(ask("a", [1] * 19))
    assert len(ids_of(drain(engine)["a"])) == 1


def test_stop_ids_outside_the_vocabulary_and_ids_in_use_are_refused(model: Any) -> None:
    engine = engine_of(model)
    with pytest.raises(RequestError, match="stop_token_ids holds 50"):
        engine.submit(ask("a", [1], stop_token_ids=[50]))
    engine.submit(ask("a", [1]))
    with pytest.raises(RequestError, match="'a' is already"):
        engine.submit(ask("a", [1]))


def test_a_full_queue_says_so_and_takes_more_later(model: Any) -> None:
    engine = engine_of(model, max_running=1, max_queue=2)
    for number in range(3):
        engine.submit(ask(str(number), [number]))
    assert engine.capacity == 0
    with pytest.raises(ServerBusy, match="3 requests"):
        engine.submit(ask("4", [4]))
    assert len(drain(engine)) == 3
    engine.submit(ask("4", [4]))
    assert ids_of(drain(engine)["4"]) == model.reply([4], 5)


def test_no_more_than_max_running_hold_a_state_and_the_rest_come_in_order(model: Any) -> None:
    engine = engine_of(model, max_running=2)
    for number in range(5):
        engine.submit(ask(str(number), [number], 4))
    ends = [id for id, events in drain(engine).items() if events[-1].finish]
    assert ends == list("01234")
    assert max(map(len, model.runs)) == 2
    assert model.runs[:3] == [[1], [1], [1, 1]]


def test_a_window_beyond_the_model_is_refused(model: Any) -> None:
    with pytest.raises(RequestError, match="4096"):
        engine_of(model, max_model_len=4097)


def test_a_seed_gives_the_same_text_in_any_company(model: Any) -> None:
    def text(company: int) -> list[int]:
        engine = engine_of(model)
        for number in range(company):
            engine.submit(ask(f"c{number}", [number], 12, temperature=30.0))
        engine.submit(ask("a", range(11), 12, temperature=30.0, seed=7))
        return ids_of(drain(engine)["a"])

    assert text(0) == text(1) == text(6)
    assert text(0) != model.reply(range(11), 12)


def test_the_trace_covers_all_but_the_last_token(model: Any) -> None:
    engine = engine_of(model)
    engine.submit(ask("a", range(20), 5, routed_experts=True))
    engine.submit(ask("b", range(3), 9, routing=True))
    engine.submit(ask("c", range(3), 9))
    events = drain(engine)
    assert events["c"][-1].routing is None
    assert all(event.routing is None for event in events["a"][:-1])
    traces = {id: events[id][-1].routing for id in "ab"}
    assert traces["a"] is not None and traces["b"] is not None
    assert (traces["a"].tokens, traces["b"].tokens) == (20 + 5 - 1, 3 + 9 - 1)
    array = np.load(io.BytesIO(base64.b64decode(traces["a"].routed_experts())))
    ran = [*range(20), *model.reply(range(20), 5)[:-1]]
    assert array.tolist() == [[[token % 4, (token + 1) % 4]] * 3 for token in ran]


Plan = list[tuple[int, int, int, int, bool, bool]]


@settings(max_examples=60)
@given(
    plan=st.lists(
        st.tuples(
            st.integers(0, 30),  # arrives at this step
            st.integers(1, 60),  # prompt length
            st.integers(1, 12),  # tokens wanted
            st.integers(0, 60),  # cancelled so many steps after it came (later than its end: never)
            st.booleans(),  # with a low expert threshold
            st.booleans(),  # breaks in its prompt
        ),
        max_size=12,
    ),
    chunk=st.integers(1, 20),
    running=st.integers(1, 5),
)
def test_whatever_comes_everyone_ends_once_rightly_and_nothing_is_left(
    counting_model: Callable[[], Any], plan: Plan, chunk: int, running: int
) -> None:
    model = counting_model()
    engine = engine_of(model, prefill_chunk=chunk, max_running=running)
    prompts = {str(n): [n] * length + [BROKEN] * bad for n, (_, length, _, _, _, bad) in enumerate(plan)}
    events: dict[str, list[TokenEvent]] = defaultdict(list)
    for step in range(2000):
        for number, (arrival, _, tokens, patience, thin, _) in enumerate(plan):
            if step == arrival:
                threshold = 0.5 if thin else 1.0
                engine.submit(ask(str(number), prompts[str(number)], tokens, expert_threshold=threshold, routing=True))
            if step == arrival + patience:
                engine.cancel(str(number))
        if step > 100 and not engine.busy:
            break
        for event in engine.step():
            events[event.request_id].append(event)
    else:
        raise AssertionError("somebody starves")

    assert not (engine._waiting or engine._readers or engine._open or engine._untold)
    assert engine._cohort.sequences == [] and engine._cohort.state.nbytes == 0
    assert sorted(events, key=int) == [str(n) for n in range(len(plan))]
    for number, (_, _, tokens, _, _, bad) in enumerate(plan):
        heard = events[str(number)]
        assert [event.finish is not None for event in heard] == [False] * (len(heard) - 1) + [True]
        made = ids_of(heard)
        assert made == ([] if bad else model.reply(prompts[str(number)], tokens)[: len(made)])
        if heard[-1].finish is FinishReason.LENGTH:
            assert len(made) == tokens
            assert heard[-1].routing is not None
            assert heard[-1].routing.tokens == len(prompts[str(number)]) + tokens - 1
        read = [event.prefilled_tokens for event in heard]
        assert read == sorted(read)


@settings(max_examples=30)
@given(lengths=st.lists(st.integers(1, 100), min_size=2, max_size=6), chunk=st.integers(4, 16))
def test_nobody_waits_longer_than_a_turn_of_everyone(
    counting_model: Callable[[], Any], lengths: list[int], chunk: int
) -> None:
    engine = engine_of(counting_model(), prefill_chunk=chunk)
    for number, length in enumerate(lengths):
        engine.submit(ask(str(number), [number] * length, 20))
    silent = dict.fromkeys(map(str, range(len(lengths))), 0)
    while engine.busy:
        told = {event.request_id for event in engine.step()}
        for id in list(silent):
            silent[id] = 0 if id in told else silent[id] + 1
            if id not in engine._open:
                del silent[id]
        assert max(silent.values(), default=0) < len(lengths)
