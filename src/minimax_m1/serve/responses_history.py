"""What came before a response: those that are kept, the chain it goes on from, items named by reference.

In: the server's store, and what a request says of its input. Out: `Talk`, all items of a conversation in order; or a
Fault: 404 for what is not kept, 409 for what is still being made.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from minimax_m1.errors import RequestError
from minimax_m1.serve.responses_background import Background
from minimax_m1.serve.service import Service
from minimax_m1.wire.errors import Fault
from minimax_m1.wire.responses import ResponseFailure, ResponseInput, ResponseReply, StoredResponse
from minimax_m1.wire.responses_items import CallItem, CallOutputItem, GivenItem, GivenMessage, Item, ItemReference

RESPONSE = "response"  # the store's kinds of record
EVENTS = "response_events"
_ITEM_ID = re.compile(r"[a-z]+_([0-9a-f]{32})_i?\d+")  # as they are made here and in `Draft`


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """A conversation: all its items, those `given` with this request at the end, behind a context if there is one."""

    items: Sequence[Item]
    given: Sequence[Item]
    context_id: str | None


async def keep(service: Service, reply: ResponseReply, given: Sequence[Item]) -> None:
    """Writes a response and its input down, as they are now."""
    record = StoredResponse(response=reply, input=list(given))
    await service.store.put(RESPONSE, reply.id, record.model_dump(mode="json", by_alias=True))


async def kept(service: Service, id: str) -> StoredResponse:
    """A response that is not under way.

    Where its record says that it is, the server that made it has stopped, so it counts as failed.

    Raises:
        Fault: there is none (404).
    """
    value = await service.store.get(RESPONSE, id)
    if value is None:
        raise Fault(404, f"there is no response {id!r}", code="response_not_found", param="response_id")
    record = StoredResponse.model_validate(value)
    if record.response.status not in ("queued", "in_progress"):
        return record
    failure = ResponseFailure(code="server_error", message="the server stopped before this response was complete")
    reply = record.response.model_copy(update={"status": "failed", "error": failure})
    return record.model_copy(update={"response": reply})


async def talk(service: Service, background: Background | None, asked: ResponseInput, key: str) -> Talk:
    """The conversation that a request asks to continue; `key` goes into the ids of its own items.

    Raises:
        RequestError: an output answers no call, or the request names another context than the one it goes on from.
        Fault: a response or item that it names is not kept (404), or still being made (409).
    """
    given = await _given(service, asked.input, key)
    before, context_id = await _before(service, background, asked.previous_response_id)
    if asked.context_id is not None and context_id not in (None, asked.context_id):
        raise RequestError(f"the response before goes on from the context {context_id!r}", param="context_id")
    if context_id is None and asked.context_id is not None and before:
        raise RequestError("the response before goes on from no context", param="context_id")
    items = [*before, *given]
    context_id = asked.context_id or context_id
    calls = {item.call_id for item in items if isinstance(item, CallItem)}
    for item in items:
        if isinstance(item, CallOutputItem) and item.call_id not in calls and context_id is None:
            raise RequestError(f"no function call has the call_id {item.call_id!r}", param="input")
    return Talk(items=items, given=given, context_id=context_id)


async def _given(service: Service, given: str | Sequence[GivenItem] | None, key: str) -> list[Item]:
    if given is None:
        return []
    if isinstance(given, str):
        given = [GivenMessage(role="user", content=given)]
    items: list[Item] = []
    for index, each in enumerate(given):
        if isinstance(each, ItemReference):
            items.append(await _named(service, each.id))
        else:
            items.append(each.item(f"in_{key}_i{index}"))
    return items


async def _named(service: Service, id: str) -> Item:
    """The item of this id, which says in which response to look."""
    missing = Fault(404, f"there is no item {id!r}", code="item_not_found", param="input")
    match = _ITEM_ID.fullmatch(id)
    if match is None:
        raise missing
    try:
        record = await kept(service, f"resp_{match[1]}")
    except Fault:
        raise missing from None
    for item in (*record.input, *record.response.output):
        if item.id == id:
            return item
    raise missing


async def _before(service: Service, background: Background | None, id: str | None) -> tuple[list[Item], str | None]:
    """The items of a response and of all before it, in order, and the context that they go on from."""
    links: list[StoredResponse] = []
    while id is not None:
        if background is not None and background.find(id) is not None:
            raise Fault(409, f"the response {id} is still being made", code="response_in_progress", param=_PARAM)
        try:
            record = await kept(service, id)
        except Fault:
            raise Fault(
                404, f"there is no response {id!r} to go on from", code="previous_response_not_found", param=_PARAM
            ) from None
        if record.response.status not in ("completed", "incomplete"):
            raise RequestError(f"the response {id} is {record.response.status}, so it cannot go on", param=_PARAM)
        links.append(record)
        id = record.response.previous_response_id
    items: list[Item] = []
    for link in reversed(links):
        items += [*link.input, *link.response.output]
    return items, links[0].response.context_id if links else None


_PARAM = "previous_response_id"
