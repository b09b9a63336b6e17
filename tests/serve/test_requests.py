"""What is under way: listed while it runs, and ended by whoever knows its id."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from minimax_m1.serve.registry import Entry, Registry, request_id
from minimax_m1.serve.requests import cancel_request, get_request, list_requests
from minimax_m1.serve.service import Service
from minimax_m1.wire.errors import Fault
from minimax_m1.wire.requests import RequestCard
from minimax_m1.wire.sse import Event, EventReader

NATIVE, CHAT = "/v1/minimax-m1/generate", "/v1/chat/completions"


class Scene:
    """A service that is nothing but its registry, with requests that are opened by hand."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.service = cast(Service, SimpleNamespace(registry=self.registry))
        self.stopped: list[str] = []

    def open(self, id: str, mine: str = "", **changes: Any) -> Any:
        token = request_id.set(mine)
        opened = self.registry.opened(
            id, "chat", **{"answers": 1, "prompt_tokens": 9, "stop": lambda: self.stopped.append(id), **changes}
        )
        entry = opened.__enter__()
        request_id.reset(token)
        return SimpleNamespace(entry=entry, close=lambda: opened.__exit__(None, None, None))

    def cards(self) -> list[RequestCard]:
        return asyncio.run(list_requests(self.service)).data

    def card(self, id: str) -> RequestCard:
        return asyncio.run(get_request(self.service, id))


def test_a_card_follows_its_request_from_the_queue_to_its_end() -> None:
    scene = Scene()
    first = scene.open("chatcmpl-1", "mine", answers=2, context="ctx-1")
    entry: Entry = first.entry
    entry.began -= 2
    card = scene.card("chatcmpl-1")
    assert 2 <= card.seconds < 10 and abs(card.created - time.time()) < 10
    assert card.model_dump(exclude={"seconds", "created"}) == {
        "id": "chatcmpl-1", "object": "request", "request_id": "mine", "kind": "chat", "state": "queued",
        "answers": 2, "prompt_tokens": 9, "processed": 0, "cached_tokens": 0, "output_tokens": 0,
        "context_id": "ctx-1",
    }  # fmt: skip
    scene.registry.read(entry, 5, 3)
    card = scene.card("mine")
    assert (card.state, card.processed, card.cached_tokens) == ("reading", 5, 3)
    scene.registry.read(entry, 4, 0)  # the second answer's, which is not as far
    scene.registry.wrote(entry)
    card = scene.card("mine")
    assert (card.state, card.processed, card.cached_tokens, card.output_tokens) == ("writing", 5, 3, 1)
    second = scene.open("chatcmpl-2")
    assert [card.id for card in scene.cards()] == ["chatcmpl-1", "chatcmpl-2"]
    first.close()
    assert [card.id for card in scene.cards()] == ["chatcmpl-2"]
    second.close()
    assert scene.cards() == []


def test_cancelling_stops_all_of_the_id_and_nobody_else() -> None:
    scene = Scene()
    held = [scene.open(id, mine) for id, mine in (("a", "mine"), ("b", "mine"), ("c", "other"))]
    assert len(scene.cards()) == len(held)
    assert asyncio.run(cancel_request(scene.service, "mine")).cancelled == 2
    assert scene.stopped == ["a", "b"]
    told = asyncio.run(cancel_request(scene.service, "c"))
    assert (told.id, told.cancelled, scene.stopped) == ("c", 1, ["a", "b", "c"])


@pytest.mark.parametrize("work", [get_request, cancel_request])
def test_what_is_not_open_is_missing(work: Callable[..., Any]) -> None:
    scene = Scene()
    scene.open("a").close()
    with pytest.raises(Fault, match="no request 'a' is open") as caught:
        asyncio.run(work(scene.service, "a"))
    assert (caught.value.status, caught.value.code) == (404, "request_not_found")


def under_way(client: Any, seconds: float = 10) -> dict[str, Any]:
    """The one open request, once it writes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for card in client.get("/v1/requests").json()["data"]:
            if card["state"] == "writing":
                return dict(card)
        time.sleep(0.01)
    raise AssertionError("nothing is under way")


def test_a_whole_answer_that_is_cancelled_is_a_conflict(slow: Any) -> None:
    body = {"messages": [{"role": "user", "content": "count"}]}
    with slow.client() as client, concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.post, CHAT, json=body)
        card = under_way(client)
        assert card["kind"] == "chat" and card["prompt_tokens"] == card["processed"] > 0 < card["output_tokens"]
        assert client.get(f"/v1/requests/{card['id']}").json()["id"] == card["id"]
        gone = client.delete(f"/v1/requests/{card['id']}")
        assert gone.json() == {"id": card["id"], "object": "request.cancelled", "cancelled": 1}
        answer = waiting.result(10)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "request_cancelled")
        assert client.get("/v1/requests").json() == {"object": "list", "data": []}
        missing = client.post(f"/v1/requests/{card['id']}/cancel")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "request_not_found")
    assert len(slow.engine.cancelled) == 1 and not slow.engine.busy


def test_a_stream_that_is_cancelled_says_so_at_its_end(slow: Any) -> None:
    reader, events, asked = EventReader(), list[Event](), False
    with (
        slow.client() as client,
        slow.client() as other,
        client.stream("POST", NATIVE, json={"input": "count", "stream": True}) as answer,
    ):
        for piece in answer.iter_raw():
            events += reader.feed(piece)
            if not asked and any(event.name == "text" for event in events):
                asked = True
                card = under_way(other)
                assert other.post(f"/v1/requests/{card['id']}/cancel").json()["cancelled"] == 1
    assert events[-1].name == "error"
    assert json.loads(events[-1].data)["error"]["code"] == "request_cancelled"
    assert slow.engine.told < 200
