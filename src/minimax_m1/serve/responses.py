"""OpenAI's Responses: a `ResponseRequest` becomes one job, its items a `ResponseReply` or events, and these are kept.

In: the bytes of a body, or the id of a response and a query. Out: a response, whole or streamed. A response is kept
before its end is told, so whoever sees the end can go on from it.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from pydantic import BaseModel
from starlette.responses import Response

from minimax_m1.engine.context import Context
from minimax_m1.errors import RequestError
from minimax_m1.serve.answer import answer
from minimax_m1.serve.bridge import Loaded
from minimax_m1.serve.connection import EventStream, fault_of
from minimax_m1.serve.contexts import open_context
from minimax_m1.serve.question import Question, jobs
from minimax_m1.serve.replies import json_reply
from minimax_m1.serve.responses_background import Background
from minimax_m1.serve.responses_history import EVENTS, RESPONSE, Talk, keep, kept, talk
from minimax_m1.serve.responses_stream import Draft
from minimax_m1.serve.service import Service
from minimax_m1.serve.teller import Item, Job
from minimax_m1.wire.body import read, read_query
from minimax_m1.wire.errors import check_model
from minimax_m1.wire.responses import (
    CountRequest,
    DeletedResponse,
    InputItemList,
    InputTokens,
    PageRequest,
    ReasoningConfig,
    ResponseInput,
    ResponseReply,
    ResponseRequest,
    RetrieveRequest,
    TextConfig,
    TextFormat,
)
from minimax_m1.wire.responses_events import Numbered
from minimax_m1.wire.responses_items import Item as WireItem
from minimax_m1.wire.responses_items import plain_items

M = TypeVar("M", bound=BaseModel)


async def create_response(
    service: Service, body: bytes, /, *, priority: int = 0, background: Background | None = None
) -> Response:
    """Answers one request; `priority` is added to the request's own. Without a `background` it can have none.

    Raises:
        RequestError: the request cannot be served.
        Fault: there is no such model, context or response before, or the engine failed.
    """
    asked = read(ResponseRequest, body)
    check_model(asked.model, service.name)
    if asked.background and background is None:
        raise RequestError("background is not served here", param="background")
    loaded = service.bridge.loaded
    key = uuid.uuid4().hex
    said = await talk(service, background, asked, key)
    context = None if said.context_id is None else await open_context(service, said.context_id)
    job = await asyncio.to_thread(_job, loaded, asked, said, context, asked.priority + priority)
    draft = Draft(
        _empty(service, loaded, asked, f"resp_{key}", said.context_id),
        loaded.tokenizer,
        logprobs=asked.top_logprobs or 0,
        seal="reasoning.encrypted_content" in (asked.include or ()),
    )
    items = answer(service, [job], id=draft.reply.id, kind="response")
    await anext(items)
    writing = _Writing(service, draft, said.given if asked.store is not False else None)
    if asked.background and background is not None:
        await writing.keep()
        events = writing.safely(items)
        run = background.begin(
            draft, _recorded(service, draft, events) if asked.stream else events, recorded=bool(asked.stream)
        )
        return EventStream(run.follow(), ping=service.ping) if asked.stream else json_reply(draft.reply)
    if asked.stream:
        return EventStream(_encoded(writing.safely(items)), ping=service.ping)
    async with aclosing(writing.of(items)) as events:
        async for _ in events:
            pass
    return json_reply(draft.reply)


async def count_response_tokens(service: Service, body: bytes, /, *, background: Background | None = None) -> Response:
    """How many tokens the input of a request would have; raises as `create_response`."""
    asked = read(CountRequest, body)
    check_model(asked.model, service.name)
    said = await talk(service, background, asked, uuid.uuid4().hex)
    context = None if said.context_id is None else await open_context(service, said.context_id)
    job = await asyncio.to_thread(_job, service.bridge.loaded, asked, said, context, 0)
    return json_reply(InputTokens(input_tokens=len(job.prompt)))


async def retrieve_response(service: Service, id: str, query: Mapping[str, str], *, background: Background) -> Response:
    """A response as it stands; with `stream` the events of one that was made so in the background, after any of them.

    Raises:
        RequestError: the query cannot be served.
        Fault: there is no such response (404).
    """
    asked = read_query(RetrieveRequest, query)
    after = -1 if asked.starting_after is None else asked.starting_after
    run = background.find(id)
    if not asked.stream:
        return json_reply(run.draft.reply if run is not None else (await kept(service, id)).response)
    if run is not None and run.recorded:
        return EventStream(run.follow(after), ping=service.ping)
    if run is None:
        await kept(service, id)
    record = await service.store.get(EVENTS, id)
    if record is None:
        raise RequestError("only what was made with background and stream can be streamed again", param="stream")
    return EventStream(_again(record["events"][after + 1 :]), ping=service.ping)


async def cancel_response(service: Service, id: str, *, background: Background) -> Response:
    """Ends a response that is made in the background; one that is over is given as it is.

    Raises:
        RequestError: it was not made in the background.
        Fault: there is no such response (404).
    """
    if (run := background.find(id)) is not None:
        await _stop(service, id, run.task)
    record = await kept(service, id)
    if not record.response.background:
        raise RequestError(f"the response {id} was not made in the background", param="response_id")
    return json_reply(record.response)


async def delete_response(service: Service, id: str, *, background: Background) -> Response:
    """Forgets a response, and ends it first if it is under way; raises Fault (404) where there is none."""
    if (run := background.find(id)) is not None:
        await _stop(service, id, run.task)
    await kept(service, id)
    await service.store.delete(RESPONSE, id)
    await service.store.delete(EVENTS, id)
    return json_reply(DeletedResponse(id=id))


async def list_input_items(service: Service, id: str, query: Mapping[str, str]) -> Response:
    """A page of what a response was given, without what came before it.

    Raises:
        RequestError: the query cannot be served.
        Fault: there is no such response (404).
    """
    asked = read_query(PageRequest, query)
    items = (await kept(service, id)).input
    if asked.order == "desc":
        items = items[::-1]
    if asked.after is not None:
        places = [place for place, item in enumerate(items) if item.id == asked.after]
        if not places:
            raise RequestError(f"after: there is no item {asked.after!r}", param="after")
        items = items[places[0] + 1 :]
    page = items[: asked.limit]
    first, last = (page[0].id, page[-1].id) if page else (None, None)
    return json_reply(InputItemList(data=page, first_id=first, last_id=last, has_more=len(page) < len(items)))


class _Writing:
    """A draft on its way to its end, and to the store where there is something `given` to keep it with."""

    def __init__(self, service: Service, draft: Draft, given: Sequence[WireItem] | None) -> None:
        self._service = service
        self._draft = draft
        self._given = given

    async def keep(self) -> None:
        """Writes it down as it is now."""
        if self._given is not None:
            await keep(self._service, self._draft.reply, self._given)

    async def of(self, items: AsyncGenerator[tuple[int, Item], None]) -> AsyncGenerator[Numbered, None]:
        """The events of the items."""
        async with aclosing(items):
            for event in self._draft.begin():
                yield event
            async for _, item in items:
                told = self._draft.push(item)
                if self._draft.over:
                    await self.keep()
                for event in told:
                    yield event

    async def safely(self, items: AsyncGenerator[tuple[int, Item], None]) -> AsyncGenerator[Numbered, None]:
        """The same, with a fault told as an event."""
        try:
            async with aclosing(self.of(items)) as events:
                async for event in events:
                    yield event
        except Exception as error:  # the boundary: the status is sent, so the stream tells the fault
            told = self._draft.fail(fault_of(error))
            await self.keep()
            for event in told:
                yield event


def _job(loaded: Loaded, asked: ResponseInput, said: Talk, context: Context | None, priority: int) -> Job:
    """The one job of a request; of one that only counts, a job that says nothing."""
    sampling: dict[str, Any] = {}
    most: int | None = 0
    effort: str | None = None
    if isinstance(asked, ResponseRequest):
        sampling, most = asked.chosen(), asked.max_output_tokens
        effort = asked.reasoning.effort if asked.reasoning else None
    question = Question(
        messages=plain_items(said.items, asked.instructions),
        context=context,
        tools=asked.wrapped_tools(),
        tool_choice=asked.choice(),
        parallel_tool_calls=asked.parallel_tool_calls is not False,
        form=asked.form(),
        effort=effort,
        sampling=sampling,
        max_tokens=most,
        max_tokens_name="max_output_tokens",
        param="input",
        priority=priority,
    )
    [job] = jobs(loaded, question)
    return job


def _empty(service: Service, loaded: Loaded, asked: ResponseRequest, id: str, context_id: str | None) -> ResponseReply:
    """The response before anything of it is made; it says what holds for it, asked for or not."""
    own = loaded.defaults

    def chosen(name: str) -> float:
        value = getattr(asked, name)
        return float(getattr(own, name) if value is None else value)

    return ResponseReply(
        id=id,
        created_at=int(time.time()),
        status="queued" if asked.background else "in_progress",
        background=bool(asked.background),
        instructions=asked.instructions,
        max_output_tokens=asked.max_output_tokens,
        max_tool_calls=asked.max_tool_calls,
        model=service.name,
        parallel_tool_calls=asked.parallel_tool_calls is not False,
        previous_response_id=asked.previous_response_id,
        prompt_cache_key=asked.prompt_cache_key,
        reasoning=ReasoningConfig(effort=asked.reasoning.effort if asked.reasoning else None),
        safety_identifier=asked.safety_identifier,
        store=asked.store is not False,
        temperature=chosen("temperature"),
        top_p=chosen("top_p"),
        presence_penalty=chosen("presence_penalty"),
        frequency_penalty=chosen("frequency_penalty"),
        text=TextConfig(format=(asked.text.format if asked.text else None) or TextFormat(), verbosity="medium"),
        tool_choice=asked.tool_choice or "auto",
        tools=asked.tools or [],
        top_logprobs=asked.top_logprobs or 0,
        user=asked.user,
        metadata=asked.metadata or {},
        context_id=context_id,
    )


async def _recorded(
    service: Service, draft: Draft, events: AsyncGenerator[Numbered, None]
) -> AsyncGenerator[Numbered, None]:
    """The events, which are written down once all have come."""
    told = []
    async with aclosing(events):
        async for event in events:
            told.append(event)
            yield event
    record = {"events": [event.encode().decode() for event in told]}
    await service.store.put(EVENTS, draft.reply.id, record)


async def _encoded(events: AsyncGenerator[Numbered, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        async for event in events:
            yield event.encode()


async def _again(events: Sequence[str]) -> AsyncGenerator[bytes, None]:
    for event in events:
        yield event.encode()


async def _stop(service: Service, id: str, task: asyncio.Task[None]) -> None:
    """Ends a run and waits until what is left of it is kept."""
    service.registry.cancel(id)
    await asyncio.wait({task})
