"""Text to ids and back over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from minimax_m1.text.chat import encode_chat, render

TALK = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "2 + 2 ❄ <end_of_sentence>"}]
SAID = [{"role": "system", "content": "Be brief."}, TALK[1]]
PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": PARAMETERS}}


def post(served: Any, path: str, **body: Any) -> Any:
    with served.client() as client:
        answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("text", ["", "hello how are you", "❄ 雪 🎿\n\t\x00", "<end_of_sentence>", "a" * 5000])
def test_a_text_goes_there_and_back(served: Any, tokenizer: Any, text: str) -> None:
    told = post(served, "/tokenize", prompt=text, model="nano")
    assert told == {
        "tokens": tokenizer.encode(text), "count": len(tokenizer.encode(text)), "max_model_len": 8192,
        "token_strs": None,
    }  # fmt: skip
    assert post(served, "/detokenize", tokens=told["tokens"]) == {"prompt": text}


def test_each_token_s_text_is_told_where_asked(served: Any) -> None:
    told = post(served, "/tokenize", prompt="hello 2 + 2 <think>", return_token_strs=True)
    assert len(told["token_strs"]) == told["count"] == len(told["tokens"])
    assert "".join(told["token_strs"]) == "hello 2 + 2 <think>"
    halves = post(served, "/tokenize", prompt="🎿", return_token_strs=True)["token_strs"]
    assert all(isinstance(each, str) for each in halves)


@pytest.mark.parametrize("generation", [True, False])
@pytest.mark.parametrize("tools", [None, [TOOL]])
def test_a_conversation_is_encoded_as_it_would_be_answered(
    served: Any, tokenizer: Any, tools: list[Any] | None, generation: bool
) -> None:
    asked = {"messages": TALK, "tools": tools, "add_generation_prompt": generation}
    assert post(served, "/tokenize", **asked)["tokens"] == encode_chat(tokenizer, SAID, tools, generation)
    prompt = post(served, "/apply-template", **asked)["prompt"]
    assert prompt == render(SAID, tools, generation, template=tokenizer.chat_template)
    assert ("Adds." in prompt) == (tools is not None)


@pytest.mark.parametrize("strict", [True, None])
def test_the_count_is_what_an_answer_then_costs(served: Any, strict: bool | None) -> None:
    talk = [{"role": "user", "content": "hello"}]
    tools = [{"type": "function", "function": {**TOOL["function"], "strict": strict}}]  # type: ignore[dict-item]
    told = post(served, "/tokenize", messages=talk, tools=tools)
    answer = post(served, "/v1/chat/completions", messages=talk, tools=tools)
    assert told["tokens"] == list(served.engine.requests[-1].prompt)
    assert told["count"] == answer["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "says"),
    [
        ("/tokenize", {}, 400, "prompt", 'exactly one of "prompt" and "messages"'),
        ("/tokenize", {"prompt": "a", "messages": SAID}, 400, "prompt", 'exactly one of "prompt" and "messages"'),
        ("/tokenize", {"prompt": 7}, 400, "prompt", "got 7"),
        ("/tokenize", {"messages": []}, 400, "messages", "at least 1"),
        ("/tokenize", {"messages": [{"role": "cat", "content": "meow"}]}, 400, "messages.0.role", '"cat"'),
        ("/tokenize", {"prompt": "a", "model": "other"}, 404, "model", "no model 'other'"),
        ("/tokenize", {"messages": [{"role": "user"}]}, 400, "messages", "content must be a string"),
        ("/detokenize", {}, 400, "tokens", "tokens is required"),
        ("/detokenize", {"tokens": "abc"}, 400, "tokens", "abc"),
        ("/detokenize", {"tokens": [1, 999_999]}, 400, "tokens", "999999"),
        ("/detokenize", {"tokens": [-1]}, 400, "tokens", "-1"),
        ("/detokenize", {"tokens": [2**70]}, 400, "tokens", ""),
        ("/detokenize", {"tokens": [0.5]}, 400, "tokens.0", "0.5"),
        ("/detokenize", {"tokens": [1], "model": "other"}, 404, "model", "no model 'other'"),
        ("/apply-template", {}, 400, "messages", "messages is required"),
        ("/apply-template", {"messages": [{"role": "user"}]}, 400, "messages", "content must be a string"),
        ("/apply-template", {"messages": SAID, "model": "other"}, 404, "model", "no model 'other'"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(
    served: Any, path: str, body: Any, status: int, param: str, says: str
) -> None:
    with served.client() as client:
        answer = client.post(path, json=body)
    error = answer.json()["error"]
    assert (answer.status_code, says in error["message"]) == (status, True), error
    assert error["param"] == param


def test_no_tokens_are_no_text_and_whole_numbers_may_be_written_as_floats(served: Any, tokenizer: Any) -> None:
    assert post(served, "/detokenize", tokens=[]) == {"prompt": ""}
    [first, *_] = tokenizer.encode("hello")
    assert post(served, "/detokenize", tokens=[float(first)]) == {"prompt": tokenizer.decode([first])}


def test_a_harness_learns_the_special_tokens(served: Any, tokenizer: Any) -> None:
    with served.client() as client:
        told = client.get("/tokenizer_info").json()
    assert (told["eos_token"], told["bos_token"]) == (tokenizer.eos_token, tokenizer.bos_token)
    assert told["chat_template"] == tokenizer.chat_template
