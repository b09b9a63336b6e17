"""The table of routes: which path is whose, what it reads and what it tells.

In: the service and what works beside it. Out: `Route`s, which app.py puts behind one guard.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from minimax_m1.serve import requests, responses, words
from minimax_m1.serve.anthropic import count_tokens, create_message
from minimax_m1.serve.batches import Batches
from minimax_m1.serve.chat import complete_chat
from minimax_m1.serve.completions import complete_text
from minimax_m1.serve.connection import read_body, unless_gone
from minimax_m1.serve.context_routes import ContextRoutes
from minimax_m1.serve.contract import Route
from minimax_m1.serve.files import Files
from minimax_m1.serve.idempotency import Idempotency
from minimax_m1.serve.native import generate
from minimax_m1.serve.replies import json_reply
from minimax_m1.serve.responses_background import Background
from minimax_m1.serve.service import Service
from minimax_m1.wire.anthropic import CountReply, CountRequest, MessageReply, MessageRequest
from minimax_m1.wire.anthropic_events import (
    BlockDelta,
    BlockStart,
    BlockStop,
    Failure,
    MessageDelta,
    MessageStart,
    MessageStop,
    Ping,
)
from minimax_m1.wire.batches import Batch, BatchList, BatchRequest
from minimax_m1.wire.completions import CompletionReply, CompletionRequest
from minimax_m1.wire.contexts import (
    AskContext,
    BranchContext,
    ContextDeleted,
    ContextList,
    ContextProgress,
    ContextReply,
    CreateContext,
    CreateForm,
    ExtendContext,
    ReadForm,
)
from minimax_m1.wire.errors import ErrorReply
from minimax_m1.wire.files import FileDeleted, FileForm, FileList, FileObject, FileQuery, PageQuery
from minimax_m1.wire.native import ArgumentsEvent, CallEvent, GenerateReply, GenerateRequest, ProgressEvent, TextEvent
from minimax_m1.wire.openai import ChatChunk, ChatReply, ChatRequest
from minimax_m1.wire.requests import Cancelled, RequestCard, RequestList
from minimax_m1.wire.responses import (
    CountRequest as CountInput,
)
from minimax_m1.wire.responses import (
    DeletedResponse,
    InputItemList,
    InputTokens,
    PageRequest,
    ResponseReply,
    ResponseRequest,
    RetrieveRequest,
)
from minimax_m1.wire.responses_events import (
    ArgumentsDelta,
    ArgumentsDone,
    ItemEvent,
    LifeEvent,
    PartEvent,
    TextDelta,
    TextDone,
    ThoughtDelta,
    ThoughtDone,
)
from minimax_m1.wire.words import (
    DetokenizeReply,
    DetokenizeRequest,
    TemplateReply,
    TemplateRequest,
    TokenizeReply,
    TokenizeRequest,
    TokenizerInfo,
)

_LATER = 1_000  # added to the priority of a batch's lines: they wait for whoever sits before a screen

Answer = Callable[[bytes], Coroutine[Any, Any, Response]]
Handle = Callable[[Request], Awaitable[Response]]
_NATIVE = (ProgressEvent, TextEvent, CallEvent, ArgumentsEvent, GenerateReply, ErrorReply)


class Routes:
    """All routes of one service that tell or answer something.

    `body_limit` is the most bytes of a body. Batches, files, contexts and responses in the background are the
    application's to start and to close.
    """

    def __init__(
        self,
        service: Service,
        files: Files,
        contexts: ContextRoutes,
        background: Background,
        *,
        body_limit: int,
    ) -> None:
        self._service = service
        self._files = files
        self._contexts = contexts
        self._background = background
        self._body_limit = body_limit
        self._idempotency = Idempotency()
        later = {
            "/v1/chat/completions": partial(complete_chat, priority=_LATER),
            "/v1/completions": partial(complete_text, priority=_LATER),
            "/v1/responses": partial(responses.create_response, priority=_LATER),
            "/v1/messages": partial(create_message, priority=_LATER),
            "/v1/minimax-m1/generate": partial(generate, priority=_LATER),
        }
        self.batches = Batches(service, later, files)

    def table(self) -> list[Route]:
        """All of them, in the order of the document."""
        return [
            *self._answers(),
            *self._responses(),
            *self._anthropic(),
            *self._context_routes(),
            *self._file_routes(),
            *self._batch_routes(),
            *self._rest(),
        ]

    def _answers(self) -> list[Route]:
        service = self._service
        return [
            Route(
                method="POST",
                path="/v1/minimax-m1/generate",
                says="Answer one question in the native dialect.",
                handle=self._posted(partial(generate, service)),
                asked=GenerateRequest,
                told=GenerateReply,
                events=_NATIVE,
                repeats=True,
            ),
            Route(
                method="POST",
                path="/v1/chat/completions",
                says="Answer a conversation as OpenAI's chat completions do.",
                handle=self._posted(partial(complete_chat, service)),
                asked=ChatRequest,
                told=ChatReply,
                events=(ChatChunk,),
                repeats=True,
            ),
            Route(
                method="POST",
                path="/v1/completions",
                says="Go on with prompts as OpenAI's completions do.",
                handle=self._posted(partial(complete_text, service)),
                asked=CompletionRequest,
                told=CompletionReply,
                events=(CompletionReply,),
                repeats=True,
            ),
        ]

    def _responses(self) -> list[Route]:
        service, background = self._service, self._background
        events = (
            LifeEvent, ItemEvent, PartEvent, TextDelta, TextDone, ThoughtDelta, ThoughtDone, ArgumentsDelta,
            ArgumentsDone,
        )  # fmt: skip

        at = partial(_at, "/v1/responses")

        async def retrieve(request: Request) -> Response:
            return await responses.retrieve_response(service, _id(request), request.query_params, background=background)

        async def cancel(request: Request) -> Response:
            return await responses.cancel_response(service, _id(request), background=background)

        async def delete(request: Request) -> Response:
            return await responses.delete_response(service, _id(request), background=background)

        async def items(request: Request) -> Response:
            return await responses.list_input_items(service, _id(request), request.query_params)

        create = self._posted(partial(responses.create_response, service, background=background))
        count = self._posted(partial(responses.count_response_tokens, service, background=background))
        asked: dict[str, Any] = {"asked": ResponseRequest, "events": events, "repeats": True}
        stored = "/{response_id}"
        return [
            at("POST", "", "Answer as OpenAI's Responses API does.", ResponseReply, create, **asked),
            at("POST", "/input_tokens", "Count the tokens of an input.", InputTokens, count, asked=CountInput),
            at("GET", stored, "A stored response.", ResponseReply, retrieve, query=RetrieveRequest, events=events),
            at("DELETE", stored, "Forget a response.", DeletedResponse, delete),
            at("POST", f"{stored}/cancel", "End a response that is made in the background.", ResponseReply, cancel),
            at("GET", f"{stored}/input_items", "What it was given.", InputItemList, items, query=PageRequest),
        ]

    def _anthropic(self) -> list[Route]:
        return [
            Route(
                method="POST",
                path="/v1/messages",
                says="Answer a conversation as Anthropic's Messages API does.",
                handle=self._posted(partial(create_message, self._service)),
                asked=MessageRequest,
                told=MessageReply,
                events=(MessageStart, Ping, BlockStart, BlockDelta, BlockStop, MessageDelta, MessageStop, Failure),
                repeats=True,
            ),
            Route(
                method="POST",
                path="/v1/messages/count_tokens",
                says="Count the tokens of a conversation.",
                handle=self._posted(partial(count_tokens, self._service)),
                asked=CountRequest,
                told=CountReply,
            ),
        ]

    def _context_routes(self) -> list[Route]:
        contexts = self._contexts
        reading = (ContextProgress, ContextReply, ErrorReply)

        at = partial(_at, "/v1/contexts")

        async def extend(request: Request) -> Response:
            return await contexts.extend(_id(request), request)

        def named(work: Callable[[str, bytes], Coroutine[Any, Any, Response]]) -> Handle:
            async def handle(request: Request) -> Response:
                return await self._read(request, partial(work, _id(request)))

            return handle

        one = "/{context_id}"
        create: dict[str, Any] = {"asked": CreateContext, "form": CreateForm, "events": reading, "begins": True}
        more: dict[str, Any] = {"asked": ExtendContext, "form": ReadForm, "events": reading, "begins": True}
        ask: dict[str, Any] = {"asked": AskContext, "events": _NATIVE}
        return [
            at("POST", "", "Read a text, a file or a conversation once, to be asked later.", ContextReply,
               contexts.create, **create),
            at("GET", "", "All contexts.", ContextList, _plain(contexts.list)),
            at("GET", one, "One context.", ContextReply, _by_id(contexts.show)),
            at("DELETE", one, "Remove a context.", ContextDeleted, _by_id(contexts.remove)),
            at("POST", f"{one}/extend", "Read more at its end.", ContextReply, extend, **more),
            at("POST", f"{one}/branch", "Make another context that holds the same.", ContextReply,
               named(contexts.branch), asked=BranchContext),
            at("POST", f"{one}/ask", "Ask about it, in the native dialect.", GenerateReply, named(contexts.ask), **ask),
        ]  # fmt: skip

    def _file_routes(self) -> list[Route]:
        files = self._files

        at = partial(_at, "/v1/files")
        one = "/{file_id}"
        return [
            at("POST", "", "Upload a file.", FileObject, files.upload, form=FileForm),
            at("GET", "", "All files, page by page.", FileList, _with_query(files.page), query=FileQuery),
            at("GET", one, "What is known of a file.", FileObject, _by_id(files.show)),
            at("GET", f"{one}/content", "Its bytes.", "application/octet-stream", _by_id(files.content)),
            at("DELETE", one, "Remove a file.", FileDeleted, _by_id(files.remove)),
        ]

    def _batch_routes(self) -> list[Route]:
        batches = self.batches

        at = partial(_at, "/v1/batches")
        one = "/{batch_id}"
        create = self._posted(batches.create)
        return [
            at("POST", "", "Answer the lines of a file.", Batch, create, asked=BatchRequest, repeats=True),
            at("GET", "", "All batches, page by page.", BatchList, _with_query(batches.page), query=PageQuery),
            at("GET", one, "How far a batch is.", Batch, _by_id(batches.show)),
            at("POST", f"{one}/cancel", "End a batch.", Batch, _by_id(batches.cancel)),
        ]

    def _rest(self) -> list[Route]:
        service = self._service

        at = partial(_at, "")

        def told(work: Callable[[Service, bytes], Coroutine[Any, Any, BaseModel]]) -> Handle:
            async def answer(body: bytes) -> Response:
                return json_reply(await work(service, body))

            return self._posted(answer)

        async def every(_: Request) -> Response:
            return json_reply(await requests.list_requests(service))

        async def one(request: Request) -> Response:
            return json_reply(await requests.get_request(service, _id(request)))

        async def cancel(request: Request) -> Response:
            return json_reply(await requests.cancel_request(service, _id(request)))

        async def info(_: Request) -> Response:
            return json_reply(await words.tokenizer_info(service))

        open_ = "/v1/requests/{request_id}"
        return [
            at("GET", "/v1/requests", "What is under way.", RequestList, every),
            at("GET", open_, "One open request, by its reply's id or its X-Request-Id.", RequestCard, one),
            at("DELETE", open_, "End an open request.", Cancelled, cancel),
            at("POST", f"{open_}/cancel", "The same, for those who cannot delete.", Cancelled, cancel),
            at("POST", "/tokenize", "Text to ids.", TokenizeReply, told(words.tokenize), asked=TokenizeRequest),
            at("POST", "/detokenize", "Ids to text.", DetokenizeReply, told(words.detokenize), asked=DetokenizeRequest),
            at("POST", "/apply-template", "A conversation as the model reads it.", TemplateReply,
               told(words.apply_template), asked=TemplateRequest),
            at("GET", "/tokenizer_info", "Special tokens and chat template.", TokenizerInfo, info),
        ]  # fmt: skip

    def _posted(self, answer: Answer) -> Handle:
        """A route that reads the body, answers it while the client is there, and answers it once for each key."""

        async def handle(request: Request) -> Response:
            return await self._read(request, answer)

        return handle

    async def _read(self, request: Request, answer: Answer) -> Response:
        body = await read_body(request, self._body_limit)
        key = request.headers.get("idempotency-key")
        if key is None:
            return await unless_gone(answer(body), request.receive)
        scope = f"{request.url.path}\n{request.headers.get('authorization', '')}"
        once = self._idempotency.once(key, body, lambda: answer(body), scope=scope)
        return await unless_gone(once, request.receive)


def _at(below: str, method: Any, path: str, says: str, told: Any, handle: Handle, **more: Any) -> Route:
    return Route(method=method, path=below + path, says=says, told=told, handle=handle, **more)


def _id(request: Request) -> str:
    """The one parameter of the path."""
    [value] = request.path_params.values()
    return str(value)


def _plain(work: Callable[[], Awaitable[Response]]) -> Handle:
    async def handle(_: Request) -> Response:
        return await work()

    return handle


def _by_id(work: Callable[[str], Awaitable[Response]]) -> Handle:
    async def handle(request: Request) -> Response:
        return await work(_id(request))

    return handle


def _with_query(work: Callable[[Mapping[str, str]], Awaitable[Response]]) -> Handle:
    async def handle(request: Request) -> Response:
        return await work(request.query_params)

    return handle
