"""What /openapi.json says of the two routes that read their bodies themselves.

In: the application. Out: the same, whose document names every request, reply and event model of `wire/`.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from minimax_m1.wire.errors import ErrorReply
from minimax_m1.wire.native import CallEvent, GenerateReply, GenerateRequest, ProgressEvent, TextEvent
from minimax_m1.wire.openai import ChatChunk, ChatReply, ChatRequest

_REF = "#/components/schemas/{model}"
_ASKED: tuple[type[BaseModel], ...] = (GenerateRequest, ChatRequest)
_TOLD: tuple[type[BaseModel], ...] = (
    GenerateReply, ChatReply, ChatChunk, ErrorReply, CallEvent, ProgressEvent, TextEvent,
)  # fmt: skip


def _content(kind: str, model: type[BaseModel]) -> dict[str, Any]:
    return {kind: {"schema": {"$ref": _REF.format(model=model.__name__)}}}


def _route(request: type[BaseModel], reply: type[BaseModel]) -> dict[str, Any]:
    told = {**_content("application/json", reply), "text/event-stream": {"schema": {"type": "string"}}}
    wrong = {
        "400": "the request cannot be served",
        "404": "no such model",
        "413": "the body is too long",
        "500": "the engine failed",
        "503": "the model is loading, or too many requests wait",
    }
    refused = _content("application/json", ErrorReply)
    return {
        "requestBody": {"required": True, "content": _content("application/json", request)},
        "responses": {
            "200": {"description": "the answer, whole or as events", "content": told},
            **{status: {"description": said, "content": refused} for status, said in wrong.items()},
        },
    }


GENERATE = _route(GenerateRequest, GenerateReply)
COMPLETE_CHAT = _route(ChatRequest, ChatReply)


def add_schemas(app: FastAPI) -> None:
    """Makes the application's OpenAPI document hold the models that its routes name."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
            _, asked = models_json_schema([(model, "validation") for model in _ASKED], ref_template=_REF)
            _, told = models_json_schema([(model, "serialization") for model in _TOLD], ref_template=_REF)
            components = app.openapi_schema.setdefault("components", {}).setdefault("schemas", {})
            components.update({**asked["$defs"], **told["$defs"]})
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's own way to change the document
