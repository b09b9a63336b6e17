"""The contract of contexts: what is refused by name, and a question as a native request."""

from __future__ import annotations

import json
from typing import Any

import pytest

from minimax_m1.errors import RequestError
from minimax_m1.wire.body import read
from minimax_m1.wire.contexts import AskContext, BranchContext, CreateContext, CreateForm, ExtendContext, ReadForm


def asked(model: Any, **fields: Any) -> Any:
    return read(model, json.dumps(fields).encode())


def test_a_question_becomes_a_native_request() -> None:
    format = {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}
    question = asked(AskContext, question="why?", stream=True, temperature=0, stop="x", max_output_tokens=7.0,
                     logit_bias={"5": 1}, response_format=format, priority=-1, seed=None)  # fmt: skip
    request = question.generation("book")
    assert (request.input, request.context_id, request.stream, request.max_output_tokens) == ("why?", "book", True, 7)
    assert request.chosen() == {"temperature": 0, "stop": ["x"], "logit_bias": {5: 1}}
    assert request.form() == {"json": {"type": "object"}} and request.priority == -1
    bare = asked(AskContext, question="why?").generation("book")
    assert bare.model_fields_set == {"input", "context_id"}, "what was not said stays unsaid"


@pytest.mark.parametrize(
    ("model", "fields", "param"),
    [
        (AskContext, {}, "question"),
        (AskContext, {"question": ""}, "question"),
        (AskContext, {"question": "why?", "messages": []}, "messages"),
        (AskContext, {"question": "why?", "tools": []}, "tools"),
        (AskContext, {"question": "why?", "logprobs": 21}, "logprobs"),
        (BranchContext, {"name": "a b"}, "name"),
        (BranchContext, {"name": "a\n"}, "name"),
        (ExtendContext, {"text": "a", "name": "b"}, "name"),
        (ExtendContext, {"texts": {}}, "texts"),
        (CreateContext, {"file_id": "f", "messages": [{"role": "user", "content": "a"}]}, "text"),
    ],
)
def test_what_is_wrong_is_named(model: Any, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        asked(model, **fields)
    assert caught.value.param == param


def test_in_a_form_everything_is_a_string() -> None:
    form = CreateForm.of({"name": "book", "stream": "true", "save_every": "512"})
    assert (form.name, form.stream, form.background, form.save_every) == ("book", True, False, 512)
    for fields, param in (
        ({"name": "b"}, "name"),
        ({"save_every": "x"}, "save_every"),
        ({"save_every": "1"}, "save_every"),
    ):
        with pytest.raises(RequestError) as caught:
            ReadForm.of(fields)
        assert caught.value.param == param
