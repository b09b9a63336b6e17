"""Both clients against the real server, over scripted replies."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from typing import Any, get_type_hints

import pytest

from minimax_m1.client import AsyncClient, Client
from minimax_m1.client.contexts import AsyncContexts, Contexts
from minimax_m1.client.errors import BadRequest, Conflict, NotFound
from minimax_m1.client.events import Done, Progress, Reasoning, Text, ToolArguments, ToolCall
from minimax_m1.client.fields import (
    AskFields,
    ChatFields,
    CreateFields,
    GenerateFields,
    ReadFields,
    TokenizeFields,
)
from minimax_m1.client.requests import AsyncRequests, Requests
from minimax_m1.errors import RequestError
from minimax_m1.wire.contexts import AskContext, CreateContext, ExtendContext
from minimax_m1.wire.native import GenerateReply, GenerateRequest
from minimax_m1.wire.openai import ChatReply, ChatRequest
from minimax_m1.wire.words import TokenizeRequest

TOOL = {
    "name": "add",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
}
WRAPPED = {"type": "function", "function": TOOL}


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_generate(live: Any) -> None:
    with Client(live.url) as client:
        reply = client.generate(input="What is 2 + 2?", temperature=0, stop=["never"], thinking_budget=None)
        assert (reply.text, reply.reasoning, reply.finish_reason) == ("4", "2+2=4 4", "stop")
        assert reply.usage.total_tokens > 0 and reply.routing is not None
        assert client.generate(messages=user("snow"), routing=False).text == "It is ❄ and 雪, 🎿!"


def test_a_stream_of_everything(live: Any) -> None:
    with Client(live.url) as client, client.stream(input="call " + "x" * 200, tools=[TOOL]) as stream:
        events = list(stream)
    done = events[-1]
    assert isinstance(done, Done)
    read = [event.processed for event in events if isinstance(event, Progress)]
    assert len(read) > 2 and read == sorted(read)
    assert "".join(event.text for event in events if isinstance(event, Reasoning)) == done.reply.reasoning == "A tool."
    assert "".join(event.text for event in events if isinstance(event, Text)) == done.reply.text == "Well:"
    arguments = {event.index: event.arguments for event in events if isinstance(event, ToolCall)}
    for event in events:
        if isinstance(event, ToolArguments):
            arguments[event.index] += event.text
    assert [arguments[0], arguments[1]] == [call.arguments for call in done.reply.tool_calls]
    assert stream.reply() is done.reply


def test_a_chat_goes_on_with_the_reply_as_it_came(live: Any) -> None:
    with Client(live.url) as client:
        reply = client.chat(user("call"), tools=[WRAPPED], tool_choice="auto")
        message = reply.choices[0].message
        assert message.tool_calls is not None and len(message.tool_calls) == 2
        results = [{"role": "tool", "tool_call_id": call.id, "content": "4"} for call in message.tool_calls]
        more = client.chat([*user("call"), message, *results, *user("2 + 2")], tools=[WRAPPED])
        assert more.choices[0].message.content == "4"


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize(
    "fields", [{}, {"tools": [WRAPPED]}, {"logprobs": True, "top_logprobs": 1}, {"return_progress": True}]
)
@pytest.mark.parametrize("text", ["2 + 2", "snow", "call"])
def test_a_chat_s_stream_joins_to_its_reply(live: Any, text: str, fields: Any, n: int) -> None:
    with Client(live.url) as client:
        whole = client.chat(user(text), n=n, **fields)
        stream = client.chat_stream(user(text), n=n, **fields)
        pieces = list(stream.text())
        joined = stream.reply()
    assert "".join(pieces) == (whole.choices[0].message.content or "")
    assert _timeless(joined) == _timeless(whole)


def _timeless(reply: ChatReply) -> Any:
    data = reply.model_dump(exclude={"id", "created"})
    for choice in data["choices"]:
        for call in choice["message"].get("tool_calls") or []:
            del call["id"]
    data["usage"].pop("prompt_tokens_details")  # the first may have left something to take up
    return data


def test_models(live: Any) -> None:
    with Client(live.url) as client:
        [card] = client.models()
    assert (card.id, card.max_model_len) == ("nano", 8192)


def test_health_and_words(live: Any) -> None:
    with Client(live.url) as client:
        assert client.health().model == "nano"
        told = client.tokenize("It is ❄", return_token_strs=True)
        assert told.count == len(told.tokens) == len(told.token_strs or []) and told.max_model_len == 8192
        assert client.detokenize(told.tokens) == "It is ❄"
        spoken = client.tokenize(messages=user("2 + 2"))
        assert spoken.count == client.generate(input="2 + 2").usage.input_tokens
        with pytest.raises(RequestError, match="exactly one"):
            client.tokenize()


def test_what_is_under_way_is_listed_and_can_be_cancelled(live: Any) -> None:
    with Client(live.url) as client, client.stream(input="count") as stream:
        events = iter(stream)
        while not isinstance(next(events), Text):
            pass
        [card] = client.requests.list()
        assert (card.kind, card.state) == ("native", "writing")
        assert client.requests.get(card.id).id == card.id
        assert client.requests.cancel(card.id).cancelled == 1
        with pytest.raises(Conflict, match="was cancelled"):
            list(events)
        with pytest.raises(NotFound):
            client.requests.cancel(card.id)
        assert client.requests.list() == []


def test_the_server_s_refusals(live: Any) -> None:
    with Client(live.url) as client:
        with pytest.raises(BadRequest, match="no room") as caught:
            client.generate(input="x" * 20_000)
        assert caught.value.code == "context_length_exceeded"
        with pytest.raises(NotFound, match="no model 'gpt'"):
            client.stream(input="x", model="gpt").reply()


def test_leaving_frees_the_server(live: Any) -> None:
    with Client(live.url) as client, client.stream(input="count") as stream:
        assert next(stream.text())
        assert live.engine.busy
        stream.close()
        live.idle()


def test_coroutines(live: Any) -> None:
    async def ask() -> None:
        async with AsyncClient(live.url) as client:
            replies = await asyncio.gather(*(client.generate(input=text) for text in ["2 + 2", "snow"] * 8))
            assert [reply.text for reply in replies] == ["4", "It is ❄ and 雪, 🎿!"] * 8
            assert isinstance(replies[0], GenerateReply)
            assert "".join([piece async for piece in client.stream(input="snow").text()]) == replies[1].text
            assert (await client.chat(user("2 + 2"))).choices[0].message.content == "4"
            assert (await client.chat_stream(user("2 + 2")).reply()).choices[0].message.reasoning == "2+2=4 4"
            assert [card.id for card in await client.models()] == [(await client.health()).model] == ["nano"]
            assert await client.detokenize((await client.tokenize("snow")).tokens) == "snow"
            assert await client.requests.list() == []
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.generate(input="count"), 0.2)

    asyncio.run(ask())
    live.idle()


def test_both_clients_have_the_same_methods() -> None:
    for kind, peer in [(Client, AsyncClient), (Contexts, AsyncContexts), (Requests, AsyncRequests)]:
        theirs = {name.removeprefix("a") if name == "aclose" else name: each for name, each in vars(peer).items()}
        for name, method in vars(kind).items():
            if name.startswith("_"):
                continue
            assert inspect.signature(method).parameters.keys() == inspect.signature(theirs[name]).parameters.keys()
            assert method.__doc__


@pytest.mark.parametrize(
    ("fields", "model", "ours"),
    [
        (GenerateFields, GenerateRequest, {"stream"}),
        (ChatFields, ChatRequest, {"messages", "stream", "stream_options"}),
        (AskFields, AskContext, {"question", "stream"}),
        (CreateFields, CreateContext, {"name", "stream", "background"}),
        (ReadFields, ExtendContext, {"stream", "background"}),
        (TokenizeFields, TokenizeRequest, {"prompt"}),
    ],
)
def test_the_fields_for_type_checkers_are_the_wire_s(fields: Any, model: Any, ours: set[str]) -> None:
    not_served = {"functions", "modalities", "audio", "web_search_options"}  # known only to be refused
    assert set(get_type_hints(fields)) == set(model.model_fields) - ours - not_served, "client/fields.py fell behind"


def test_importing_the_client_loads_neither_torch_nor_httpx2() -> None:
    check(
        """
        import sys, minimax_m1.client
        assert not {"torch", "httpx2", "pydantic"} & set(sys.modules)
        from minimax_m1.client import AsyncClient, Client
        assert "httpx2" in sys.modules and not {"torch", "fastapi", "minimax_m1.serve"} & set(sys.modules)
        """
    )


def test_without_httpx2_one_sentence_names_the_extra() -> None:
    check(
        """
        import sys
        sys.modules["httpx2"] = None
        import minimax_m1.client
        try:
            from minimax_m1.client import Client
        except ImportError as error:
            assert str(error) == "minimax_m1.client needs httpx2; install it with: pip install 'minimax-m1[serve]'"
        else:
            raise AssertionError
        """
    )


def check(script: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", inspect.cleandoc(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
