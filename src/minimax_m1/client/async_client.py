"""`AsyncClient`: `Client` for coroutines. What is sent and how it is read is told in `calls.py`, for both."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self, Unpack

import httpx2

from minimax_m1.client import calls
from minimax_m1.client.connection import AsyncConnection
from minimax_m1.client.contexts import AsyncContexts
from minimax_m1.client.events import Event
from minimax_m1.client.fields import ChatFields, GenerateFields, TokenizeFields, Turn
from minimax_m1.client.requests import AsyncRequests
from minimax_m1.client.settings import Settings
from minimax_m1.client.stream import AsyncStream
from minimax_m1.wire.native import GenerateReply
from minimax_m1.wire.openai import ChatChunk, ChatReply, Health, ModelCard
from minimax_m1.wire.words import TokenizeReply


class AsyncClient:
    """`Client` for the coroutines of one event loop; a cancelled call ends its request at the server at once."""

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float | None = 600.0,
        silence: float | None = 60.0,
        max_retries: int = 2,
        http: httpx2.AsyncClient | None = None,
    ) -> None:
        settings = Settings.of(base_url, api_key, timeout=timeout, silence=silence, max_retries=max_retries)
        self._connection = AsyncConnection(settings, http)
        self.contexts = AsyncContexts(self._connection)
        self.requests = AsyncRequests(self._connection)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """As `Client.close`."""
        await self._connection.aclose()

    async def generate(self, **fields: Unpack[GenerateFields]) -> GenerateReply:
        """As `Client.generate`."""
        return await self._connection.call(calls.generate(fields))

    def stream(self, **fields: Unpack[GenerateFields]) -> AsyncStream[Event, GenerateReply]:
        """As `Client.stream`."""
        return self._connection.stream(calls.generate_live(fields))

    async def chat(self, messages: Sequence[Turn], **fields: Unpack[ChatFields]) -> ChatReply:
        """As `Client.chat`."""
        return await self._connection.call(calls.chat(messages, fields))

    def chat_stream(self, messages: Sequence[Turn], **fields: Unpack[ChatFields]) -> AsyncStream[ChatChunk, ChatReply]:
        """As `Client.chat_stream`."""
        return self._connection.stream(calls.chat_live(messages, fields))

    async def models(self) -> list[ModelCard]:
        """As `Client.models`."""
        return await self._connection.call(calls.models())

    async def health(self) -> Health:
        """As `Client.health`."""
        return await self._connection.call(calls.health())

    async def tokenize(self, prompt: str | None = None, **fields: Unpack[TokenizeFields]) -> TokenizeReply:
        """As `Client.tokenize`."""
        return await self._connection.call(calls.tokenize(prompt, fields))

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """As `Client.detokenize`."""
        return await self._connection.call(calls.detokenize(tokens))
