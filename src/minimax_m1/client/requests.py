"""What is under way at the server, and its end: `client.requests`."""

from __future__ import annotations

from minimax_m1.client.call import Call
from minimax_m1.client.calls import get, place
from minimax_m1.client.connection import AsyncConnection, Connection
from minimax_m1.wire.requests import Cancelled, RequestCard, RequestList

_ALL = "/v1/requests"


class Requests:
    """The open requests of a server, by a reply's id or by the X-Request-Id that a client gave."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self) -> list[RequestCard]:
        """All of them, oldest first."""
        return self._connection.call(get(_ALL, RequestList)).data

    def get(self, id: str) -> RequestCard:
        """How far one is; NotFound where it is over."""
        return self._connection.call(get(place(_ALL, id), RequestCard))

    def cancel(self, id: str) -> Cancelled:
        """Ends one at once, and whoever waits for it gets Conflict; NotFound where it is over."""
        return self._connection.call(_cancel(id))


class AsyncRequests:
    """`Requests` for coroutines."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list(self) -> list[RequestCard]:
        """As `Requests.list`."""
        return (await self._connection.call(get(_ALL, RequestList))).data

    async def get(self, id: str) -> RequestCard:
        """As `Requests.get`."""
        return await self._connection.call(get(place(_ALL, id), RequestCard))

    async def cancel(self, id: str) -> Cancelled:
        """As `Requests.cancel`."""
        return await self._connection.call(_cancel(id))


def _cancel(id: str) -> Call[Cancelled]:
    return get(place(_ALL, id), Cancelled, method="DELETE")
