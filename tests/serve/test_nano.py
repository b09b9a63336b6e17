"""The real model behind the official client: what a script of made-up replies cannot show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import openai
import pytest
from pydantic import BaseModel, Field

from minimax_m1 import LLM, SamplingParams
from minimax_m1.serve.app import create_app
from minimax_m1.serve.loading import load


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("nano")


@pytest.fixture(scope="module")
def client(run_app: Any, llm: LLM, tmp_path_factory: Any) -> Iterator[openai.OpenAI]:
    from minimax_m1.location import locate

    def loaded() -> Any:
        return load(locate("nano"), dtype="auto", device="cpu", max_model_len=None)

    app = create_app(loaded, name="nano", home=tmp_path_factory.mktemp("home"))
    with run_app(app) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=60) as client:
        yield client  # the client's retries wait for the model


def user(text: str) -> Any:
    return [{"role": "user", "content": text}]


def test_log_probabilities_are_the_model_s_own(client: openai.OpenAI, llm: LLM) -> None:
    answer = client.chat.completions.create(
        model="nano", messages=user("What is 17 + 25?"), temperature=0, logprobs=True, top_logprobs=3, max_tokens=40
    )
    told = answer.choices[0].logprobs
    assert told is not None and told.content
    [own] = llm.chat(user("What is 17 + 25?"), SamplingParams(temperature=0, max_tokens=40, logprobs=3))
    theirs = [next(iter(each.values())) for each in own.outputs[0].logprobs or ()]
    assert [token.token for token in told.content] == [each.decoded_token for each in theirs[: len(told.content)]]
    for token, each in zip(told.content, theirs, strict=False):
        assert token.logprob == pytest.approx(each.logprob, abs=1e-4)
        assert len(token.top_logprobs) == 3 and token.bytes == list(token.token.encode())
        assert [likely.logprob for likely in token.top_logprobs] == sorted(
            (likely.logprob for likely in token.top_logprobs), reverse=True
        )
    stream = client.chat.completions.create(
        model="nano", messages=user("What is 17 + 25?"), temperature=0, logprobs=True, max_tokens=40, stream=True
    )
    parts = [chunk.choices[0].logprobs for chunk in stream if chunk.choices]
    streamed = [token for part in parts if part is not None for token in part.content or ()]
    assert [token.token for token in streamed] == [token.token for token in told.content]
    assert [token.logprob for token in streamed] == pytest.approx([t.logprob for t in told.content], abs=1e-4)


def test_echo_tells_the_prompt_s_log_probabilities(client: openai.OpenAI, llm: LLM) -> None:
    text = "The capital of a small town \u2744 said: 2 + 2 = 4"
    ids = llm.get_tokenizer().encode(text)
    [own] = llm.generate([text], SamplingParams(max_tokens=0, prompt_logprobs=0))
    expected = [None if each is None else next(iter(each.values())).logprob for each in own.prompt_logprobs or ()]
    for prompt in (text, ids):
        reply = client.completions.create(model="nano", prompt=prompt, max_tokens=0, echo=True, logprobs=1)
        [choice] = reply.choices
        told = choice.logprobs
        assert told is not None and choice.text == text and choice.finish_reason == "length"
        assert told.token_logprobs is not None and told.text_offset is not None and told.tokens is not None
        assert told.token_logprobs[0] is None
        assert told.token_logprobs[1:] == pytest.approx(expected[1:], abs=1e-4)
        assert len(told.tokens) == len(ids) == len(told.text_offset)
        for token, offset in zip(told.tokens, told.text_offset, strict=True):
            assert "\ufffd" in token or text[offset:].startswith(token)


def test_the_token_that_ends_a_completion_has_its_log_probability(client: openai.OpenAI) -> None:
    reply = client.completions.create(
        model="nano", prompt="2 + 2 = 4", max_tokens=1, temperature=0, echo=True, logprobs=1
    )  # lm-eval asks so, and takes the last figure for the one token made
    [choice], used = reply.choices, reply.usage
    assert choice.text == "2 + 2 = 4" and choice.finish_reason == "stop"
    told = choice.logprobs
    assert told is not None and used is not None and told.tokens is not None and told.token_logprobs is not None
    assert told.tokens[-2:] == ["4", "<end_of_sentence>"]
    assert len(told.tokens) == len(told.token_logprobs) == used.prompt_tokens + used.completion_tokens


def test_several_prompts_and_the_reply_s_own_log_probabilities(client: openai.OpenAI) -> None:
    prompts = ["one two three", "four five"]
    both = client.completions.create(
        model="nano", prompt=prompts, max_tokens=4, echo=True, logprobs=2, temperature=0, n=2, seed=1
    )
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    for prompt, choice in zip([prompts[0], prompts[0], prompts[1], prompts[1]], both.choices, strict=True):
        told = choice.logprobs
        assert choice.text.startswith(prompt) and told is not None
        assert told.tokens is not None and "".join(told.tokens) == choice.text
        assert told.top_logprobs is not None and all(len(top) in (2, 3) for top in told.top_logprobs[1:])
    assert both.usage is not None
    alone = client.completions.create(model="nano", prompt=prompts[0], max_tokens=4, temperature=0)
    assert both.choices[0].text == prompts[0] + alone.choices[0].text


class Person(BaseModel):
    name: Literal["Ann", "Bob"]
    age: Annotated[int, Field(ge=1, le=99)]


def test_a_form_holds_and_parses(client: openai.OpenAI) -> None:
    parsed = client.chat.completions.parse(
        model="nano", messages=user("Who?"), response_format=Person, reasoning_effort="none", seed=3
    )
    person = parsed.choices[0].message.parsed
    assert isinstance(person, Person)
    free = client.chat.completions.create(
        model="nano", messages=user("Say it."), response_format={"type": "json_object"}, max_tokens=200, seed=3
    )
    if free.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(free.choices[0].message.content or ""), dict)
    chosen = client.chat.completions.create(
        model="nano", messages=user("Say it."), extra_body={"structured_outputs": {"choice": ["yes", "no"]}}
    )
    assert chosen.choices[0].message.content in ("yes", "no")


TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 5}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_forced_call_follows_its_schema_whatever_was_asked(client: openai.OpenAI, choice: Any) -> None:
    reply = client.chat.completions.create(
        model="nano", messages=user("Tell me a story."), tools=[TOOL], tool_choice=choice, temperature=1, seed=7
    )
    [call, *_] = reply.choices[0].message.tool_calls or []
    arguments = json.loads(call.function.arguments)
    assert call.function.name == "get_weather" and arguments.keys() == {"city", "days"}
    assert 1 <= arguments["days"] <= 5
    stream = client.chat.completions.create(
        model="nano",
        messages=user("Tell me a story."),
        tools=[TOOL],
        tool_choice=choice,
        temperature=1,
        seed=7,
        stream=True,
    )
    parts = [part for chunk in stream for part in chunk.choices[0].delta.tool_calls or ()]
    assert parts[0].function.name == "get_weather" and parts[0].type == "function" and len(parts) > 2
    first = [part.function.arguments or "" for part in parts if part.index == 0]
    assert json.loads("".join(first)) == arguments


def test_biased_ids_are_what_is_said(client: openai.OpenAI, llm: LLM) -> None:
    [id] = llm.get_tokenizer().encode("7")
    reply = client.completions.create(
        model="nano", prompt="2 + 2 =", max_tokens=5, temperature=0, logit_bias={str(id): 100}
    )
    assert reply.choices[0].text == "77777"
    with pytest.raises(openai.BadRequestError, match="logit_bias"):
        client.completions.create(model="nano", prompt="2", logit_bias={"x": 1})
    with pytest.raises(openai.BadRequestError, match="logit_bias"):
        client.completions.create(model="nano", prompt="2", logit_bias={"99999999": 1})


def test_no_effort_is_no_thought(client: openai.OpenAI) -> None:
    body: dict[str, Any] = {"model": "nano", "messages": user("What is 38 + 47?"), "temperature": 0}
    thoughtful = client.chat.completions.create(**body, reasoning_effort="high")
    quick = client.chat.completions.create(**body, reasoning_effort="none")

    def thought(reply: Any) -> int:
        return int(reply.usage.completion_tokens_details.reasoning_tokens)

    assert thought(quick) <= 2 and thought(thoughtful) >= thought(quick)
    with pytest.raises(openai.BadRequestError, match="reasoning_effort must be one of"):
        client.chat.completions.create(**{**body, "reasoning_effort": "huge"})
