"""The HTTP server: routes, and the one place where an exception becomes a status.

In: a `load` callable for the model, which runs after the server listens. Out: an ASGI application.
Every error, 404 and 405 included, has OpenAI's shape.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from minimax_m1.serve.bridge import Bridge, Loaded, Status
from minimax_m1.serve.chat import complete_chat
from minimax_m1.serve.connection import ClientGone, fault_of, read_body, unless_gone
from minimax_m1.serve.contract import COMPLETE_CHAT, GENERATE, add_schemas
from minimax_m1.serve.native import generate
from minimax_m1.wire.errors import Fault, check_model
from minimax_m1.wire.openai import ModelCard, ModelList

Answer = Callable[[Bridge, str, bytes, float], Coroutine[Any, Any, Response]]


def create_app(
    load: Callable[[], Loaded],
    *,
    name: str,
    ready: Callable[[Loaded], None] | None = None,
    body_limit: int = 64 * 2**20,
    ping: float = 5.0,
) -> FastAPI:
    """The application that answers as the model `name`.

    Args:
        load: gives the model; it runs in the engine's thread once the application starts.
        name: what clients call the model; requests for another one get 404.
        ready: called in that thread once the model answers.
        body_limit: most bytes of a request's body; a longer one gets 413.
        ping: seconds of silence in a stream before a ping.
    """
    house = _House(Bridge(load, ready), name, body_limit, ping)
    app = FastAPI(title="minimax-m1", version="1", docs_url=None, redoc_url=None, lifespan=house.lifespan)
    app.add_exception_handler(HTTPException, _told)
    app.add_api_route("/v1/minimax-m1/generate", house.generate, methods=["POST"], openapi_extra=GENERATE)
    app.add_api_route("/v1/chat/completions", house.chat, methods=["POST"], openapi_extra=COMPLETE_CHAT)
    app.add_api_route("/v1/models", house.models, methods=["GET"], response_model=ModelList)
    app.add_api_route("/v1/models/{model:path}", house.model, methods=["GET"], response_model=ModelCard)
    app.add_api_route("/health", house.health, methods=["GET"], response_model=None)
    add_schemas(app)
    return app


class _House:
    """The routes, over one bridge."""

    def __init__(self, bridge: Bridge, name: str, body_limit: int, ping: float) -> None:
        self._bridge = bridge
        self._name = name
        self._body_limit = body_limit
        self._ping = ping
        self._created = int(time.time())

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        self._bridge.start()
        yield
        self._bridge.close()

    async def generate(self, request: Request) -> Response:
        """Answers in the native dialect."""
        return await self._answer(request, generate)

    async def chat(self, request: Request) -> Response:
        """Answers in OpenAI's dialect."""
        return await self._answer(request, complete_chat)

    async def models(self) -> Response:
        """The one model of this server."""
        try:
            return _json(ModelList(data=[self._card()]))
        except Fault as fault:
            return _refusal(fault)

    async def model(self, model: str) -> Response:
        """The same model, by its name."""
        try:
            check_model(model, self._name)
            return _json(self._card())
        except Fault as fault:
            return _refusal(fault)

    async def health(self) -> Response:
        """200 once the model can answer, 503 before."""
        status = self._bridge.status
        if status is Status.READY:
            return JSONResponse({"status": status, "model": self._name})
        fault = Fault(503, self._bridge.reason or f"the model is {status}", code=f"model_{status}")
        return JSONResponse({"status": status, **fault.reply.model_dump()}, 503, {"retry-after": "1"})

    def _card(self) -> ModelCard:
        limit = self._bridge.loaded.engine.max_model_len
        return ModelCard(id=self._name, created=self._created, max_model_len=limit)

    async def _answer(self, request: Request, answer: Answer) -> Response:
        try:
            body = await read_body(request, self._body_limit)
            return await unless_gone(answer(self._bridge, self._name, body, self._ping), request.receive)
        except ClientGone:
            return Response(status_code=499)  # nobody reads it
        except asyncio.CancelledError:  # only a server that shuts down cancels what it runs
            return _refusal(Fault(503, "the server is shutting down", code="model_closed"))
        except Exception as error:  # the boundary of every request
            return _refusal(error)


async def _told(_: Request, error: Exception) -> Response:
    """What the router refuses, 404 and 405, in the same shape as everything else."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    response = _refusal(Fault(error.status_code, error.detail, code=code))
    response.headers.update(error.headers or {})
    return response


def _refusal(error: Exception) -> Response:
    fault = fault_of(error)
    response = _json(fault.reply, fault.status)
    if fault.status == 503:
        response.headers["retry-after"] = "1"
    return response


def _json(reply: BaseModel, status: int = 200) -> Response:
    return Response(reply.model_dump_json(), status, media_type="application/json")
