"""The Responses API over HTTP, judged by OpenAI's own client and types; replies are scripted."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import httpx2
import openai
import pydantic
import pytest
from openai.types.responses import Response as Official
from openai.types.responses import ResponseItemList, ResponseStreamEvent

from minimax_m1.engine.request import Request as EngineRequest
from minimax_m1.engine.request import SamplingParams, TokenEvent
from minimax_m1.engine.scripted import ScriptedEngine
from minimax_m1.errors import RequestError
from minimax_m1.llm import LLM
from minimax_m1.location import locate
from minimax_m1.serve.app import create_app
from minimax_m1.serve.bridge import Bridge, Loaded
from minimax_m1.serve.loading import load
from minimax_m1.serve.registry import Registry
from minimax_m1.serve.responses import create_response
from minimax_m1.serve.service import Service
from minimax_m1.serve.store import Store
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer

CALL = '{"name": "add", "arguments": {"a": 2, "b": 2}}'
REPLIES = {
    "2 + 2": "<think>\n2+2=4 4\n</think>\n\n4",
    "hello": "Hello, how are you? I am fine.",
    "call": f"<think>\nBoth.\n</think>\n\nWell:\n\n<tool_calls>\n{CALL}\n{CALL}\n</tool_calls>",
    "count": "one two three four five six seven eight nine ten " * 40,
    "person": '{"name": "Ada", "age": 36}',
    "nothing": "",
}
ADD: dict[str, Any] = {
    "type": "function",
    "name": "add",
    "description": None,
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
    "strict": True,
}


class Person(pydantic.BaseModel):
    name: str
    age: int


class Weather(pydantic.BaseModel):
    sky: Literal["sun", "rain"]
    windy: bool


class GatedEngine(ScriptedEngine):
    """Keeps its prompts; makes no step while its gate is closed, and fails on "boom"."""

    def __init__(self, tokenizer: MiniMaxM1Tokenizer) -> None:
        def reply(prompt: Sequence[int]) -> list[int]:
            text = str(tokenizer.decode(list(prompt)))
            self.prompts.append(text)
            last = text.rpartition("user name=user\n")[2]
            said = [answer for asked, answer in REPLIES.items() if asked in last and "tool result" not in last] or ["?"]
            assert tokenizer.eos_token_id is not None
            if "boom" in last:
                raise RuntimeError("boom")
            return [*tokenizer.encode(said[0]), tokenizer.eos_token_id]

        super().__init__(reply, vocab_size=tokenizer.vocab_size, max_model_len=8192, prefill_chunk=64)
        self.prompts: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.steps: int | None = None  # how many more before the gate closes

    def step(self) -> list[TokenEvent]:
        if not self.gate.wait(0.01):
            return []
        if self.steps is not None:
            self.steps -= 1
            if self.steps <= 0:
                self.gate.clear()
        return super().step()


@dataclass(frozen=True, kw_only=True)
class House:
    """A home, and the model for its servers."""

    home: Path
    load: Callable[[], Loaded]
    run_app: Any

    @property
    def engine(self) -> GatedEngine:
        engine = self.load().engine
        assert isinstance(engine, GatedEngine)
        return engine

    @contextmanager
    def client(self) -> Iterator[openai.OpenAI]:
        """One server on the home."""
        app = create_app(self.load, name="nano", home=self.home)
        with self.run_app(app) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
            until(lambda: httpx2.get(f"{url}/health").status_code == 200, 60)
            yield client


def under_way(client: openai.OpenAI) -> list[Any]:
    return list(httpx2.get(f"{client.base_url}requests").json()["data"])


@pytest.fixture(scope="module")
def build(tokenizer: MiniMaxM1Tokenizer, load_over: Any, run_app: Any) -> Callable[[Path], House]:
    """A house over a gated engine."""

    def built(home: Path) -> House:
        loaded = load_over(GatedEngine(tokenizer), tokenizer, SamplingParams(temperature=0.0, max_tokens=2000))
        return House(home=home, load=lambda: loaded, run_app=run_app)

    return built


@pytest.fixture
def house(tmp_path: Path, build: Callable[[Path], House]) -> House:
    return build(tmp_path)


@pytest.fixture(scope="module")
def open_house(
    tmp_path_factory: pytest.TempPathFactory, build: Callable[[Path], House]
) -> Iterator[tuple[House, openai.OpenAI]]:
    """One server for the tests that neither stop it nor its engine."""
    house = build(tmp_path_factory.mktemp("home"))
    with house.client() as client:
        yield house, client


@pytest.fixture
def client(open_house: tuple[House, openai.OpenAI]) -> openai.OpenAI:
    return open_house[1]


@pytest.fixture
def prompts(open_house: tuple[House, openai.OpenAI]) -> list[str]:
    return open_house[0].engine.prompts


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


def checked(response: Official) -> Official:
    """The same, after OpenAI's types have judged it in earnest; its client takes anything."""
    Official.model_validate(response.to_dict())
    return response


def test_an_answer_with_its_thought_and_usage(client: openai.OpenAI, tokenizer: MiniMaxM1Tokenizer) -> None:
    reply = checked(
        client.responses.create(
            model="nano", input="What is 2 + 2?", instructions="Add.", metadata={"a": "b"}, user="me", temperature=0.5
        )
    )
    thought, message = reply.output
    assert thought.type == "reasoning" and thought.content is not None and thought.summary == []
    assert (thought.content[0].text, thought.encrypted_content) == ("2+2=4 4", None)
    assert message.type == "message" and message.content[0].type == "output_text"
    assert (reply.output_text, reply.status, reply.instructions, reply.error) == ("4", "completed", "Add.", None)
    assert (reply.metadata, reply.user, reply.temperature, reply.model) == ({"a": "b"}, "me", 0.5, "nano")
    assert reply.usage is not None
    made = len(tokenizer.encode(REPLIES["2 + 2"])) + 1
    assert (reply.usage.output_tokens, reply.usage.total_tokens) == (made, reply.usage.input_tokens + made)
    assert reply.usage.output_tokens_details.reasoning_tokens == len(tokenizer.encode("<think>\n2+2=4 4\n"))
    assert reply.completed_at is not None and reply.completed_at >= reply.created_at


def test_no_field_of_the_response_object_is_missing(client: openai.OpenAI) -> None:
    told = client.responses.with_raw_response.create(model="nano", input="hello").http_response.json()
    rare = {  # what OpenAI has of services that are not here, and leaves out itself where they were not used
        "access_programs", "conversation", "image", "input_transformations", "moderation", "prompt",
        "prompt_cache_diagnostics", "prompt_cache_options", "prompt_cache_retention", "tool_usage",
    }  # fmt: skip
    assert set(Official.model_fields) - set(told) == rare
    assert (told["truncation"], told["service_tier"], told["text"]["format"]) == (
        "disabled",
        "default",
        {"type": "text"},
    )


def test_an_answer_that_is_cut_says_so(client: openai.OpenAI) -> None:
    reply = checked(client.responses.create(model="nano", input="count", max_output_tokens=4))
    assert reply.status == "incomplete" and reply.incomplete_details is not None
    assert reply.incomplete_details.reason == "max_output_tokens" and reply.completed_at is None
    assert reply.output[0].type == "message" and reply.output[0].status == "incomplete"
    [thought] = client.responses.create(model="nano", input="2 + 2", max_output_tokens=3).output
    assert thought.type == "reasoning" and thought.status == "incomplete"


def test_an_empty_answer_is_a_message(client: openai.OpenAI) -> None:
    [message] = checked(client.responses.create(model="nano", input="nothing")).output
    assert message.type == "message" and message.status == "completed" and message.content[0].type == "output_text"


@cache
def official_events() -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(ResponseStreamEvent)


def events_of(told: bytes) -> list[dict[str, Any]]:
    """The data of the events of a stream, each judged by OpenAI's types."""
    events = []
    for block in told.decode().strip().split("\n\n"):
        name, data = (line.partition(": ")[2] for line in block.split("\n"))
        events.append(json.loads(data))
        assert events[-1]["type"] == name
        official_events().validate_python(events[-1])
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def stream(client: openai.OpenAI, **body: Any) -> list[dict[str, Any]]:
    body = {"model": "nano", "stream": True, **body}
    with client.responses.with_streaming_response.create(**body) as answer:
        return events_of(answer.read())


def test_a_stream_tells_each_item_in_order(client: openai.OpenAI) -> None:
    events = stream(client, input="call", tools=[ADD])
    kinds = [event["type"].removeprefix("response.") for event in events]
    merged = [kind for place, kind in enumerate(kinds) if place == 0 or kind != kinds[place - 1]]
    thought = ["reasoning_text.delta", "reasoning_text.done"]
    message = ["output_text.delta", "output_text.done"]
    call = ["function_call_arguments.delta", "function_call_arguments.done"]
    assert merged == [
        "created", "in_progress",
        "output_item.added", "content_part.added", *thought, "content_part.done", "output_item.done",
        "output_item.added", "content_part.added", *message, "content_part.done", "output_item.done",
        "output_item.added", *call, "output_item.done",
        "output_item.added", *call, "output_item.done",
        "completed",
    ]  # fmt: skip
    assert events[0]["response"]["status"] == "in_progress" and events[0]["response"]["output"] == []
    for kind, whole in {
        "reasoning_text": "Both.",
        "output_text": "Well:",
        "function_call_arguments": '{"a": 2, "b": 2}' * 2,
    }.items():
        assert "".join(event["delta"] for event in events if event["type"] == f"response.{kind}.delta") == whole
    final = events[-1]["response"]
    assert [event["item"] for event in events if event["type"] == "response.output_item.done"] == final["output"]
    assert [item["type"] for item in final["output"]] == ["reasoning", "message", "function_call", "function_call"]
    assert len({item["id"] for item in final["output"]}) == 4 and len({i["call_id"] for i in final["output"][2:]}) == 2
    assert [event["output_index"] for event in events if event["type"] == "response.output_item.added"] == [0, 1, 2, 3]


def test_the_stream_comes_to_what_is_kept(client: openai.OpenAI) -> None:
    for text, tools in (("2 + 2", []), ("call", [ADD]), ("nothing", [])):
        final = stream(client, input=text, tools=tools)[-1]["response"]
        assert client.responses.retrieve(final["id"]).to_dict() == final


def test_a_cut_stream_ends_with_incomplete(client: openai.OpenAI) -> None:
    events = stream(client, input="count", max_output_tokens=4)
    assert events[-1]["type"] == "response.incomplete"
    assert events[-2]["item"]["status"] == "incomplete"


def test_the_official_stream_helper(client: openai.OpenAI) -> None:
    with client.responses.stream(model="nano", input="person", text_format=Person) as answer:
        deltas = [event.delta for event in answer if event.type == "response.output_text.delta"]
        final = answer.get_final_response()
    assert "".join(deltas) == REPLIES["person"] and len(deltas) > 2
    assert final.output_parsed == Person(name="Ada", age=36)
    with client.responses.stream(model="nano", input="call", tools=[ADD]) as answer:
        called = [event for event in answer if event.type == "response.function_call_arguments.delta"]
        final = answer.get_final_response()
    assert called[-1].snapshot == '{"a": 2, "b": 2}'
    assert [item.parsed_arguments for item in final.output if item.type == "function_call"] == [{"a": 2, "b": 2}] * 2


def test_parse_with_a_model(client: openai.OpenAI, open_house: tuple[House, openai.OpenAI]) -> None:
    reply = client.responses.parse(model="nano", input="person", text_format=Person)
    assert reply.output_parsed == Person(name="Ada", age=36)
    assert reply.text is not None and reply.text.format is not None and reply.text.format.type == "json_schema"
    form = {"type": "json_schema", "name": "person", "schema": Person.model_json_schema()}
    told = stream(client, input="person", text={"format": form})
    assert told[0]["response"]["text"]["format"] == told[-1]["response"]["text"]["format"] == form
    with pytest.raises(openai.InternalServerError):  # the script says no JSON, which no model could under this guide
        client.responses.create(model="nano", input="hello", text={"format": {"type": "json_object"}})


def test_a_tool_loop_over_what_is_kept(client: openai.OpenAI, prompts: list[str]) -> None:
    first = client.responses.create(model="nano", input="call", tools=[ADD])
    calls = [item for item in first.output if item.type == "function_call"]
    outputs: list[Any] = [
        {"type": "function_call_output", "call_id": call.call_id, "output": str(n)} for n, call in enumerate(calls)
    ]
    second = client.responses.create(model="nano", input=outputs, tools=[ADD], previous_response_id=first.id)
    assert (second.output_text, second.previous_response_id) == ("?", first.id)
    assert "tool name: add\ntool result: 1" in prompts[-1]
    assert "<think>\nBoth.\n</think>\n\nWell:\n\n<tool_calls>" in prompts[-1]  # the thought stays within the loop


@pytest.mark.parametrize("sealed", [False, True])
def test_a_tool_loop_over_what_the_client_keeps(client: openai.OpenAI, prompts: list[str], sealed: bool) -> None:
    include: Any = ["reasoning.encrypted_content"] if sealed else []
    first = client.responses.create(model="nano", input="call", tools=[ADD], store=False, include=include)
    kept: list[Any] = [item.to_dict() for item in first.output]
    if sealed:
        kept[0].pop("content")
    call = first.output[-1]
    assert call.type == "function_call"
    items = [{"role": "user", "content": "call"}, *kept]
    items += [{"type": "function_call_output", "call_id": call.call_id, "output": "7"}]
    client.responses.create(model="nano", input=items, tools=[ADD], store=False)
    assert "<think>\nBoth.\n</think>\n\nWell:" in prompts[-1] and "tool result: 7" in prompts[-1]
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)


def test_a_conversation_of_three_turns_without_its_old_instructions(client: openai.OpenAI, prompts: list[str]) -> None:
    first = client.responses.create(model="nano", input="hello", instructions="Be kind.")
    second = client.responses.create(model="nano", input="2 + 2", previous_response_id=first.id)
    client.responses.create(model="nano", input="and now?", previous_response_id=second.id, instructions="Be brief.")
    asked = prompts[-1]
    assert "Be brief." in asked and "Be kind." not in asked
    parts = ["hello", "Hello, how are you? I am fine.", "2 + 2", "4", "and now?"]
    assert [part for part in parts if part in asked] == parts
    places = [asked.index(part) for part in parts]
    assert places == sorted(places)
    assert "2+2=4" not in asked  # thoughts of earlier turns are not shown again


def test_an_item_by_reference(client: openai.OpenAI, prompts: list[str]) -> None:
    first = client.responses.create(model="nano", input="hello")
    [message] = first.output
    items: Any = [{"type": "item_reference", "id": message.id}, {"role": "user", "content": "again"}]
    client.responses.create(model="nano", input=items)
    assert "Hello, how are you?" in prompts[-1]
    for missing in ("msg_" + "0" * 32 + "_0", "msg_1", message.id + "0"):
        with pytest.raises(openai.NotFoundError) as refused:
            client.responses.create(model="nano", input=[{"type": "item_reference", "id": missing}])
        assert (refused.value.code, refused.value.param) == ("item_not_found", "input")


def test_forced_and_allowed_tools(client: openai.OpenAI) -> None:
    few: Any = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "add"}]}
    other = {**ADD, "name": "other"}
    without = client.responses.create(model="nano", input="call", tools=[ADD]).usage
    reply = checked(client.responses.create(model="nano", input="call", tools=[ADD, other], tool_choice=few))
    assert reply.usage is not None and without is not None and reply.usage.input_tokens == without.input_tokens
    assert (
        not isinstance(reply.tool_choice, str) and reply.tool_choice.type == "allowed_tools" and len(reply.tools) == 2
    )
    named: Any = {"type": "function", "name": "subtract"}
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="nano", input="call", tools=[ADD], tool_choice=named)
    assert refused.value.param == "tool_choice"


def test_one_call_where_they_may_not_be_parallel(client: openai.OpenAI) -> None:
    loose = {**ADD, "strict": False, "parameters": {"type": "object", "$ref": "#/nowhere"}}  # no guide can follow it
    reply = client.responses.create(model="nano", input="call", tools=[loose], parallel_tool_calls=False)
    assert sum(item.type == "function_call" for item in reply.output) == 1 and reply.parallel_tool_calls is False


def test_logprobs_where_they_are_asked_for(client: openai.OpenAI) -> None:
    include: Any = ["message.output_text.logprobs"]
    reply = checked(client.responses.create(model="nano", input="2 + 2", include=include))
    message = reply.output[-1]
    assert message.type == "message" and message.content[0].type == "output_text"
    assert message.content[0].logprobs and message.content[0].logprobs[-1].token == "4"
    deltas = [e for e in stream(client, input="hello", include=include) if e["type"] == "response.output_text.delta"]
    assert "".join(part["token"] for delta in deltas for part in delta["logprobs"]) == REPLIES["hello"]
    plain = client.responses.create(model="nano", input="2 + 2").output[-1]
    assert plain.type == "message" and plain.content[0].type == "output_text" and not plain.content[0].logprobs


def test_effort_is_a_budget_and_tokens_go_before_it(
    client: openai.OpenAI, open_house: tuple[House, openai.OpenAI], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[EngineRequest] = []
    engine = open_house[0].engine
    submit = engine.submit
    monkeypatch.setattr(engine, "submit", lambda request: (made.append(request), submit(request)))
    client.responses.create(model="nano", input="hello", reasoning={"effort": "low"})
    client.responses.create(
        model="nano",
        input="hello",
        reasoning={"effort": "low"},
        extra_body={"thinking_budget": 77, "seed": 3, "stop": "x", "priority": 2},
    )
    assert [request.params.thinking_budget for request in made] == [8192 // 2 // 8, 77]
    params = made[1].params
    assert (params.seed, params.stop, params.max_tokens, made[1].priority) == (3, ["x"], 2000, 2)


def test_input_items_page_by_page(client: openai.OpenAI) -> None:
    items: Any = [{"role": "user", "content": f"hello {n}"} for n in range(5)]
    items.insert(1, {"role": "assistant", "content": "So?"})
    reply = client.responses.create(model="nano", input=items)
    page = client.responses.input_items.list(reply.id, limit=4, order="asc")
    ResponseItemList.model_validate(page.to_dict())
    assert page.has_more and len(page.data) == 4
    every = list(client.responses.input_items.list(reply.id, limit=4, order="asc"))
    texts = [item.content[0].text for item in every if item.type == "message"]  # type: ignore[union-attr]
    assert texts == ["hello 0", "So?", "hello 1", "hello 2", "hello 3", "hello 4"]
    back = list(client.responses.input_items.list(reply.id))
    assert [item.id for item in back] == [item.id for item in reversed(every)]
    for wrong, param in (({"limit": 0}, "limit"), ({"limit": 101}, "limit"), ({"after": "nobody"}, "after")):
        with pytest.raises(openai.BadRequestError) as refused:
            client.responses.input_items.list(reply.id, **wrong)  # type: ignore[arg-type]
        assert refused.value.param == param


def test_counting_is_what_creating_reads(client: openai.OpenAI) -> None:
    first = client.responses.create(model="nano", input="hello")
    body: Any = {"input": "call", "instructions": "Be kind.", "tools": [ADD], "previous_response_id": first.id}
    counted = client.responses.input_tokens.count(**body)
    reply = client.responses.create(model="nano", **body)
    assert reply.usage is not None
    assert (counted.input_tokens, counted.object) == (reply.usage.input_tokens, "response.input_tokens")


def test_a_deleted_response_is_gone(client: openai.OpenAI) -> None:
    reply = client.responses.create(model="nano", input="hello")
    told = client.responses.with_raw_response.delete(reply.id).http_response.json()
    assert told == {"id": reply.id, "object": "response", "deleted": True}
    for call in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.NotFoundError) as refused:
            call(reply.id)
        assert refused.value.code == "response_not_found"


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"previous_response_id": "resp_0"}, 404, "previous_response_not_found", "previous_response_id"),
        ({"model": "gpt-9"}, 404, "model_not_found", "model"),
        ({"context_id": "book"}, 404, "context_not_found", "context_id"),
        ({"input": "hello " * 9000}, 400, "context_length_exceeded", "input"),
        ({"max_output_tokens": 9000}, 400, "invalid_request", "max_output_tokens"),
        ({"temperature": -1}, 400, "invalid_request", "temperature"),
        (
            {"input": [{"type": "function_call_output", "call_id": "c", "output": "4"}]},
            400,
            "invalid_request",
            "input",
        ),
        ({"input": "boom"}, 500, "generation_failed", None),
        ({"input": "boom", "stream": True, "model": "gpt-9"}, 404, "model_not_found", "model"),
    ],
)
def test_errors_before_the_first_event_have_a_status(
    client: openai.OpenAI, body: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    answer = httpx2.post(f"{client.base_url}responses", json={"input": "hello", **body}, timeout=20)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)


def test_a_stream_that_fails_says_so_and_is_kept(client: openai.OpenAI) -> None:
    events = stream(client, input="boom")
    assert [event["type"] for event in events] == ["response.created", "response.in_progress", "response.failed"]
    failed = checked(client.responses.retrieve(events[-1]["response"]["id"]))
    assert failed.status == "failed" and failed.error is not None and failed.error.code == "server_error"
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="nano", input="hello", previous_response_id=failed.id)
    assert refused.value.param == "previous_response_id" and "is failed" in refused.value.message


def test_in_the_background_and_followed_from_anywhere(house: House) -> None:
    with house.client() as client:
        house.engine.gate.clear()
        events = client.responses.create(model="nano", input="count", background=True, stream=True)
        created, queued = next(events), next(events)
        assert created.type == "response.created" and queued.type == "response.queued"
        id = created.response.id
        events.close()  # whoever asked leaves
        assert checked(client.responses.retrieve(id)).status == "queued"
        assert len(list(client.responses.input_items.list(id))) == 1  # it is written down before it is made
        with pytest.raises(openai.ConflictError) as refused:
            client.responses.create(model="nano", input="and?", previous_response_id=id)
        assert refused.value.code == "response_in_progress"
        house.engine.steps = 20
        house.engine.gate.set()
        until(lambda: client.responses.retrieve(id).status == "in_progress")
        again = client.responses.retrieve(id, stream=True, starting_after=1)
        first = next(iter(again))
        assert (first.type, first.sequence_number) == ("response.in_progress", 2)
        house.engine.steps = None
        house.engine.gate.set()
        rest = list(again)
        assert [event.sequence_number for event in rest] == list(range(3, 3 + len(rest)))
        assert rest[-1].type == "response.completed"
        until(lambda: client.responses.retrieve(id).status == "completed")
        assert client.responses.retrieve(id).output_text == REPLIES["count"].strip(" ") + " "
        later = list(client.responses.retrieve(id, stream=True, starting_after=2))
        assert [event.to_dict() for event in later] == [event.to_dict() for event in rest]
        assert client.responses.cancel(id).status == "completed"  # too late, which is no error
    with house.client() as client:
        assert [e.to_dict() for e in client.responses.retrieve(id, stream=True, starting_after=2)] == [
            event.to_dict() for event in rest
        ]


def test_cancelling_what_runs_in_the_background(house: House) -> None:
    with house.client() as client:
        house.engine.steps = 20
        reply = checked(client.responses.create(model="nano", input="count", background=True))
        assert (reply.status, reply.background, reply.output) == ("queued", True, [])
        until(lambda: client.responses.retrieve(reply.id).status == "in_progress")
        ended = checked(client.responses.cancel(reply.id))
        assert ended.status == "cancelled" and ended.error is None
        assert ended.output and ended.output[0].type == "message" and ended.output[0].status == "incomplete"
        assert client.responses.cancel(reply.id).to_dict() == ended.to_dict()
        assert client.responses.retrieve(reply.id).status == "cancelled"
        assert not under_way(client)
        with pytest.raises(openai.BadRequestError):
            list(client.responses.retrieve(reply.id, stream=True))
        house.engine.steps = None
        house.engine.gate.set()
        plain = client.responses.create(model="nano", input="hello")
        with pytest.raises(openai.BadRequestError, match="not made in the background"):
            client.responses.cancel(plain.id)


def test_deleting_what_runs_in_the_background_ends_it(house: House) -> None:
    with house.client() as client:
        house.engine.gate.clear()
        reply = client.responses.create(model="nano", input="count", background=True)
        client.responses.delete(reply.id)
        assert not under_way(client)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(reply.id)


def test_a_server_that_stops_says_so_of_what_it_left(house: House) -> None:
    with house.client() as client:
        done = client.responses.create(model="nano", input="hello")
        engine = house.engine
        engine.gate.clear()
        left = client.responses.create(model="nano", input="count", background=True)
    engine.gate.set()
    with house.client() as client:
        assert client.responses.retrieve(done.id).to_dict() == done.to_dict()
        failed = checked(client.responses.retrieve(left.id))
        assert failed.status == "failed" and failed.error is not None and "shutting down" in failed.error.message
        follow = client.responses.create(model="nano", input="2 + 2", previous_response_id=done.id)
        assert follow.output_text == "4" and "Hello, how are you?" in house.engine.prompts[-1]


def test_a_server_that_was_killed_left_nothing_half_made(house: House) -> None:
    with house.client() as client:
        reply = client.responses.create(model="nano", input="hello")

    def unfinished(record: dict[str, Any] | None) -> dict[str, Any]:
        assert record is not None
        return {**record, "response": {**record["response"], "status": "in_progress", "background": True}}

    async def put() -> None:
        store = Store(house.home / "server.db")
        await store.change("response", reply.id, unfinished)
        await store.close()

    asyncio.run(put())
    with house.client() as client:
        found = checked(client.responses.retrieve(reply.id))
        assert found.status == "failed" and found.error is not None and "server stopped" in found.error.message


def test_a_client_that_leaves_its_stream_frees_the_place(house: House) -> None:
    with house.client() as client:
        house.engine.steps = 20
        events = client.responses.create(model="nano", input="count", stream=True)
        created = next(events)
        assert created.type == "response.created"
        [entry] = under_way(client)
        assert (entry["id"], entry["kind"]) == (created.response.id, "response")
        events.close()
        until(lambda: not under_way(client))
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(created.response.id)


def test_a_stream_that_is_cancelled_by_its_id(house: House) -> None:
    with house.client() as client:
        house.engine.steps = 20
        events = client.responses.create(model="nano", input="count", stream=True)
        created = next(events)
        assert created.type == "response.created"
        until(lambda: not house.engine.gate.is_set())
        httpx2.post(f"{client.base_url}requests/{created.response.id}/cancel")
        *_, last = events
        assert last.type == "response.failed" and last.response.status == "cancelled"
        assert client.responses.retrieve(created.response.id).to_dict() == last.response.to_dict()


def test_a_place_without_a_background_refuses_it(tmp_path: Path, build: Callable[[Path], House]) -> None:
    async def ask() -> None:
        store = Store(tmp_path / "server.db")
        bridge = Bridge(build(tmp_path).load)
        service = Service(bridge=bridge, name="nano", ping=1.0, registry=Registry(), store=store, home=tmp_path)
        try:
            await create_response(service, b'{"input": "hello", "background": true}')
        finally:
            await store.close()

    with pytest.raises(RequestError, match="background is not served here"):
        asyncio.run(ask())


def test_nano_adds_calls_fills_a_form_and_goes_on_from_a_context(run_app: Any, tmp_path: Path) -> None:
    """The real model: its thought, a call that is held to its schema, a form, and a context on disk."""
    story = tmp_path / "story.txt"
    story.write_text(
        "The old farmer walked to the river. The code of lamu is 4711.\nIt rained, and rained again.\n" * 3
    )
    LLM("nano").create_context(tmp_path / "contexts" / "story", {"story": story})
    house = House(
        home=tmp_path,
        load=lambda: load(locate("nano"), dtype="auto", device="cpu", max_model_len=None),
        run_app=run_app,
    )
    with house.client() as client:
        reply = checked(client.responses.create(model="nano", input="What is 17 + 25?", temperature=0))
        assert reply.output_text == "42" and reply.output[0].type == "reasoning"
        with client.responses.stream(
            model="nano", input="Call add with a 2 and b 3.", tools=[ADD], tool_choice="required", temperature=0
        ) as answer:
            final = answer.get_final_response()
        [call, *_] = [item for item in final.output if item.type == "function_call"]
        assert call.name == "add" and set(json.loads(call.arguments)) == {"a", "b"}
        parsed = client.responses.parse(
            model="nano", input="Sun?", text_format=Weather, temperature=0, reasoning={"effort": "none"}
        )
        assert parsed.output_parsed is not None and parsed.output_parsed.sky in ("sun", "rain")
        body: Any = {"model": "nano", "temperature": 0, "max_output_tokens": 60}
        first = client.responses.create(input="What is the code of lamu?", extra_body={"context_id": "story"}, **body)
        assert "4711" in first.output_text and first.usage is not None
        assert first.usage.input_tokens_details.cached_tokens > 0.8 * first.usage.input_tokens
        again = client.responses.create(input="What is the code of lamu?", previous_response_id=first.id, **body)
        assert again.usage is not None and again.usage.input_tokens > first.usage.input_tokens
        assert again.to_dict()["context_id"] == "story" and "4711" in again.output_text
        with pytest.raises(openai.BadRequestError) as refused:
            client.responses.create(
                input="And?", previous_response_id=first.id, extra_body={"context_id": "other"}, **body
            )
        assert refused.value.param == "context_id"
