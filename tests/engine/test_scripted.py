"""The scripted engine keeps the protocol of the real one."""

from __future__ import annotations

from typing import Any

import pytest

from minimax_m1.engine.request import Engine, FinishReason, Request, SamplingParams, TokenEvent
from minimax_m1.engine.scripted import ScriptedEngine
from minimax_m1.errors import ContextLengthExceeded, RequestError, ServerBusy


def scripted(replies: Any = None, **changes: Any) -> ScriptedEngine:
    return ScriptedEngine(
        replies or {(1, 2): [5, 6, 9]}, **{"vocab_size": 10, "eos_ids": {9}, "max_model_len": 30, **changes}
    )


def ask(prompt: list[int], id: str = "a", **changes: Any) -> Request:
    return Request(id=id, prompt=prompt, params=SamplingParams(max_tokens=100), **changes)


def drain(engine: Engine) -> list[TokenEvent]:
    events = []
    while engine.busy:
        events += engine.step()
    return events


def test_it_replays_and_stops() -> None:
    engine = scripted()
    engine.submit(ask([1, 2], routing=True))
    events = drain(engine)
    assert [event.token_id for event in events] == [5, 6, 9]
    assert [event.finish for event in events] == [None, None, FinishReason.STOP]
    assert events[-1].routing is not None
    assert events[-1].routing.report()["tokens"] == 2 + 3 - 1


def test_a_script_without_an_end_ends_with_its_last_token() -> None:
    engine = scripted(lambda prompt: [token + 1 for token in prompt])
    engine.submit(ask([1, 2]))
    assert [(event.token_id, event.finish) for event in drain(engine)] == [(2, None), (3, FinishReason.STOP)]
    engine = scripted(lambda prompt: [])
    engine.submit(ask([1, 2]))
    assert [(event.token_id, event.finish) for event in drain(engine)] == [(None, FinishReason.STOP)]


def test_it_tells_progress_and_fills_the_window() -> None:
    engine = scripted(lambda prompt: [3] * 1000, prefill_chunk=10)
    engine.submit(ask([1] * 25))
    events = drain(engine)
    assert [event.prefilled_tokens for event in events if event.token_id is None] == [10, 20]
    assert [event.token_id for event in events if event.token_id is not None] == [3] * 5
    assert events[-1].finish is FinishReason.LENGTH


def test_no_tokens_wanted_means_the_prompt_is_only_read() -> None:
    engine = scripted()
    engine.submit(Request(id="a", prompt=[1, 2], params=SamplingParams(max_tokens=0)))
    assert [(event.token_id, event.finish) for event in drain(engine)] == [(None, FinishReason.LENGTH)]


def test_cancel_and_a_missing_script_end_a_request() -> None:
    engine = scripted()
    engine.submit(ask([1, 2], "a"))
    engine.submit(ask([3], "b"))
    engine.cancel("a")
    engine.cancel("nobody")
    ends = {event.request_id: event for event in drain(engine)}
    assert ends["a"].finish is ends["b"].finish is FinishReason.ABORT
    assert ends["a"].error is None
    assert "script" in str(ends["b"].error)


def test_a_stop_rule_that_raises_ends_its_request() -> None:
    def rule(token: int) -> bool:
        raise KeyError(token)

    engine = scripted()
    engine.submit(ask([1, 2], stop_rule=rule))
    assert [event.finish for event in drain(engine)] == [FinishReason.ABORT]


def test_it_refuses_what_the_real_one_refuses() -> None:
    engine = scripted(max_queue=1)
    with pytest.raises(RequestError, match="empty"):
        engine.submit(ask([]))
    with pytest.raises(RequestError, match="id 10"):
        engine.submit(ask([10]))
    with pytest.raises(ContextLengthExceeded):
        engine.submit(ask([1] * 30))
    engine.submit(ask([1, 2]))
    with pytest.raises(RequestError, match="already"):
        engine.submit(ask([1, 2]))
    with pytest.raises(ServerBusy):
        engine.submit(ask([1, 2], "b"))
