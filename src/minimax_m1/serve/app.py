"""The HTTP server: what belongs to one application, and the one place where an exception becomes a status.

In: a `load` callable for the model, which runs after the server listens, and the folder of what outlives it.
Out: an ASGI application. Every error, 404 and 405 included, has OpenAI's shape, or Anthropic's on its paths.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from minimax_m1.serve.access import Access, Noted
from minimax_m1.serve.bridge import Bridge, Loaded, Status
from minimax_m1.serve.connection import ClientGone, fault_of
from minimax_m1.serve.context_routes import ContextRoutes
from minimax_m1.serve.contract import Route, document
from minimax_m1.serve.docs import docs_file, docs_page
from minimax_m1.serve.files import Files
from minimax_m1.serve.limits import Limits
from minimax_m1.serve.metrics import Metrics
from minimax_m1.serve.registry import Registry
from minimax_m1.serve.replies import json_reply, refusal
from minimax_m1.serve.responses_background import Background
from minimax_m1.serve.routes import Routes
from minimax_m1.serve.service import Service
from minimax_m1.serve.store import Store
from minimax_m1.wire.errors import Fault, check_model
from minimax_m1.wire.openai import Health, ModelCard, ModelList

_ABOUT = "Hybrid lightning-attention mixture-of-experts models over HTTP: native, OpenAI's and Anthropic's dialects."


def create_app(
    load: Callable[[], Loaded],
    *,
    name: str,
    home: Path,
    ready: Callable[[Loaded], None] | None = None,
    body_limit: int = 64 * 2**20,
    upload_limit: int = 2**30,
    max_requests: int = 1024,
    ping: float = 5.0,
) -> FastAPI:
    """The application that answers as the model `name`.

    Args:
        load: gives the model; it runs in the engine's thread once the application starts.
        name: what clients call the model; requests for another one get 404.
        home: the folder of what outlives the process: contexts, files, stored responses and batches.
        ready: called in that thread once the model answers.
        body_limit: most bytes of a request's body; a longer one gets 413.
        upload_limit: the same of a file in a form, which goes to the disk as it comes.
        max_requests: most HTTP requests that are open at once; more get 429.
        ping: seconds of silence in a stream before a ping.

    Raises:
        DataError: what is stored in `home` cannot be read.
    """
    home.mkdir(parents=True, exist_ok=True)
    bridge = Bridge(load, ready)
    metrics = Metrics(name, bridge)
    service = Service(
        bridge=bridge,
        name=name,
        ping=ping,
        registry=Registry(Noted(metrics)),
        store=Store(home / "server.db"),
        home=home,
    )
    house = _House(service, metrics, body_limit, upload_limit)
    app = FastAPI(
        title="minimax-m1",
        version="1",
        docs_url=None,
        redoc_url=None,
        lifespan=house.lifespan,
        exception_handlers={HTTPException: _told},
    )
    app.state.drain = house.drain
    table = house.table()
    for route in table:
        app.add_route(route.path, _guarded(route), methods=[route.method], include_in_schema=False)
    app.add_route("/docs", docs_page, include_in_schema=False)
    app.add_route("/docs/{file}", docs_file, include_in_schema=False)
    app.add_middleware(Limits, max_requests=max_requests)
    app.add_middleware(Access, responded=metrics.responded)  # the last one is the outermost
    # FastAPI's own way to say what the document is; the routes read their bodies themselves.
    app.openapi = lambda: document(  # type: ignore[method-assign]
        table, title=app.title, version=app.version, description=_ABOUT
    )
    return app


class _House:
    """All that lives as long as the application."""

    def __init__(self, service: Service, metrics: Metrics, body_limit: int, upload_limit: int) -> None:
        self._service = service
        self._metrics = metrics
        self._background = Background()
        self._files = Files(service, limit=upload_limit)
        self._contexts = ContextRoutes(service, self._files, body_limit=body_limit, upload_limit=upload_limit)
        self._routes = Routes(service, self._files, self._contexts, self._background, body_limit=body_limit)
        self._created = int(time.time())
        self._loop: asyncio.AbstractEventLoop | None = None

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        self._loop = asyncio.get_running_loop()
        self._service.bridge.start()
        await self._files.start()
        await self._routes.batches.start()
        try:
            yield
        finally:
            await self._routes.batches.close()
            self._service.bridge.close()  # ends what is still open with a fault, which each tells and keeps
            await self._background.close()
            await self._contexts.close()
            await self._files.close()
            await self._service.store.close()

    def drain(self, seconds: float) -> None:
        """Lets the engine go on for so long, then ends what is still open; from any thread, or a signal's handler."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.call_later, seconds, self._service.bridge.close)

    def table(self) -> list[Route]:
        """Every route that is in the document."""
        return [
            *self._routes.table(),
            Route(
                method="GET",
                path="/v1/models",
                says="The one model of this server.",
                told=ModelList,
                handle=self._models,
            ),
            Route(
                method="GET",
                path="/v1/models/{model:path}",
                says="The same model, by its name.",
                told=ModelCard,
                handle=self._model,
            ),
            Route(
                method="GET", path="/health", says="200 once the model can answer.", told=Health, handle=self._health
            ),
            Route(
                method="GET",
                path="/metrics",
                says="Counts and times for Prometheus.",
                told="text/plain",
                handle=self._tell_metrics,
            ),
        ]

    async def _tell_metrics(self, _: Request) -> Response:
        body, kind = await asyncio.to_thread(self._metrics.render)
        return Response(body, headers={"content-type": kind})

    async def _models(self, _: Request) -> Response:
        return json_reply(ModelList(data=[self._card()]))

    async def _model(self, request: Request) -> Response:
        check_model(request.path_params["model"], self._service.name)
        return json_reply(self._card())

    async def _health(self, _: Request) -> Response:
        bridge = self._service.bridge
        status = bridge.status
        if status is Status.READY:
            return json_reply(Health(model=self._service.name))
        fault = Fault(503, bridge.reason or f"the model is {status}", code=f"model_{status}")
        return JSONResponse({"status": status, **fault.reply.model_dump()}, 503, {"retry-after": "1"})

    def _card(self) -> ModelCard:
        limit = self._service.bridge.loaded.engine.max_model_len
        return ModelCard(id=self._service.name, created=self._created, max_model_len=limit)


def _guarded(route: Route) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            return await route.handle(request)
        except ClientGone:
            return Response(status_code=499)  # nobody reads it
        except asyncio.CancelledError:  # only a server that shuts down cancels what it runs
            return refusal(Fault(503, "the server is shutting down", code="model_closed"), route.path)
        except Exception as error:  # the boundary of every request
            return refusal(fault_of(error), route.path)

    return endpoint


async def _told(request: Request, error: Exception) -> Response:
    """What the router refuses, 404 and 405, in the same shape as everything else."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    response = refusal(Fault(error.status_code, error.detail, code=code), request.url.path)
    response.headers.update(error.headers or {})
    return response
