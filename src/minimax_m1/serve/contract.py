"""`Route`, and what /openapi.json says of all of them.

In: routes, each with the models that it reads and tells. Out: an OpenAPI document in which every request, reply and
event has its schema. The routes read their bodies themselves, so the framework cannot know.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from minimax_m1.serve.replies import speaks_anthropic
from minimax_m1.wire.anthropic_events import Failure
from minimax_m1.wire.errors import ErrorReply

_REF = "#/components/schemas/{model}"
_PARAMETER = re.compile(r"{(\w+)(?::path)?}")
_WRONG = {
    400: "the request cannot be served",
    404: "there is no such model or thing",
    408: "nothing more came of the body for a while",
    409: "something else is in the way",
    413: "the body is too long",
    429: "too many requests are open",
    500: "the server failed on this request",
    503: "the model is loading, or too many requests wait",
}

Model = type[BaseModel]
_Mode = Literal["validation", "serialization"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation.

    `asked` is the model of a JSON body, `form` that of the fields beside a file in multipart/form-data, `query` that
    of the query's parameters. `told` is the model of a JSON reply, or the media type of another kind; `events` are the
    models of the events of an answer that is streamed. `repeats` says that an Idempotency-Key makes sense: asked
    again with the same one, the same reply comes and nothing is done twice. `open` routes need no model.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    handle: Callable[[Request], Awaitable[Response]]
    says: str
    told: Model | str
    asked: Model | None = None
    form: Model | None = None
    query: Model | None = None
    events: tuple[Model, ...] = ()
    repeats: bool = False
    begins: bool = False


def document(routes: Sequence[Route], *, title: str, version: str, description: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    asked = [model for route in routes for model in (route.asked, route.form, route.query) if model is not None]
    told: list[Model] = [route.told for route in routes if not isinstance(route.told, str)]
    told += [model for route in routes for model in route.events]
    every: list[Model] = [*told, ErrorReply, Failure]
    modes: list[tuple[Model, _Mode]] = [(model, "validation") for model in dict.fromkeys(asked)]
    modes += [(model, "serialization") for model in dict.fromkeys(every)]
    refs, schemas = models_json_schema(modes, ref_template=_REF)
    told_of = _Schemas(refs, schemas["$defs"])
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = _PARAMETER.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = told_of.operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "description": description},
        "paths": paths,
        "components": {"schemas": dict(sorted(schemas["$defs"].items()))},
    }


class _Schemas:
    """The schemas of all models, by reference."""

    def __init__(self, refs: Mapping[Any, Any], schemas: Mapping[str, Any]) -> None:
        self._refs = refs
        self._schemas = schemas

    def operation(self, route: Route) -> dict[str, Any]:
        words = re.findall(r"\w+", _PARAMETER.sub(r"\1", route.path))
        told: dict[str, Any] = {
            "summary": route.says,
            "operationId": "_".join([route.method.lower(), *words]),
            "parameters": [
                *({"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                  for name in _PARAMETER.findall(route.path)),
                *self._query(route),
            ],
            "responses": self._responses(route),
        }  # fmt: skip
        content = {}
        if route.asked is not None:
            content["application/json"] = {"schema": self._refs[route.asked, "validation"]}
        if route.form is not None:
            content["multipart/form-data"] = {"schema": self._form(route.form)}
        if content:
            told["requestBody"] = {"required": True, "content": content}
        if route.repeats:
            key = {"type": "string", "minLength": 1, "maxLength": 255}
            told["parameters"].append({"name": "Idempotency-Key", "in": "header", "required": False, "schema": key})
        return told

    def _form(self, form: Model) -> dict[str, Any]:
        fields = self._of(form)
        file = {"type": "string", "format": "binary"}
        required = [*fields.get("required", ()), "file"]
        return {"type": "object", "properties": {**fields["properties"], "file": file}, "required": required}

    def _query(self, route: Route) -> list[dict[str, Any]]:
        if route.query is None:
            return []
        fields = self._of(route.query)
        needed = fields.get("required", ())
        return [
            {"name": name, "in": "query", "required": name in needed, "schema": schema}
            for name, schema in fields["properties"].items()
        ]

    def _of(self, model: Model) -> dict[str, Any]:
        name = str(self._refs[model, "validation"]["$ref"]).rpartition("/")[2]
        schema: dict[str, Any] = self._schemas[name]
        return schema

    def _responses(self, route: Route) -> dict[str, Any]:
        if isinstance(route.told, str):
            binary = {"type": "string"} if route.told.startswith("text/") else {"type": "string", "format": "binary"}
            content: dict[str, Any] = {route.told: {"schema": binary}}
        else:
            content = {"application/json": {"schema": self._refs[route.told, "serialization"]}}
        if route.events:
            names = [str(self._refs[model, "serialization"]["$ref"]) for model in route.events]
            said = (
                f"Server-sent events; the data of each is JSON: {', '.join(name.rpartition('/')[2] for name in names)}"
            )
            content["text/event-stream"] = {"schema": {"type": "string", "description": said}}
        wrong = self._refs[Failure if speaks_anthropic(route.path) else ErrorReply, "serialization"]
        refused = {"application/json": {"schema": wrong}}
        begun = {"202": {"description": "it goes on in the background", "content": content}} if route.begins else {}
        return {
            "200": {"description": "the answer", "content": content},
            **begun,
            **{str(status): {"description": said, "content": refused} for status, said in _WRONG.items()},
        }
