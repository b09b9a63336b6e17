"""What is under way, for whoever asks, and its end for whoever wants it ended.

In: an id, the reply's or the client's own X-Request-Id. Out: `RequestCard`s.
"""

from __future__ import annotations

import time

from minimax_m1.serve.registry import Entry
from minimax_m1.serve.service import Service
from minimax_m1.wire.errors import Fault
from minimax_m1.wire.requests import Cancelled, RequestCard, RequestList


async def list_requests(service: Service) -> RequestList:
    """All open requests."""
    return RequestList(data=[_card(entry) for entry in service.registry])


async def get_request(service: Service, id: str) -> RequestCard:
    """One of them; raises Fault (404)."""
    for entry in service.registry:
        if id in (entry.id, entry.request_id):
            return _card(entry)
    raise _missing(id)


async def cancel_request(service: Service, id: str) -> Cancelled:
    """Ends it at once; its client gets a fault (409). Raises Fault (404) where nothing of this id is open."""
    count = service.registry.cancel(id)
    if not count:
        raise _missing(id)
    return Cancelled(id=id, cancelled=count)


def _missing(id: str) -> Fault:
    return Fault(404, f"no request {id!r} is open", code="request_not_found", param="id")


def _card(entry: Entry) -> RequestCard:
    return RequestCard(
        id=entry.id,
        request_id=entry.request_id,
        kind=entry.kind,
        state=entry.state,
        created=int(entry.created),
        seconds=round(time.monotonic() - entry.began, 3),
        answers=entry.answers,
        prompt_tokens=entry.prompt_tokens,
        processed=entry.processed,
        cached_tokens=entry.cached_tokens,
        output_tokens=entry.output_tokens,
        context_id=entry.context,
    )
