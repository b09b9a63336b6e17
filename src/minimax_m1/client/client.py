"""`Client`: this API for code that waits for each answer; `AsyncClient` is the same for coroutines.

In: questions, with the fields of the wire's models by name. Out: the wire's replies, or a `Stream` of events.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self, Unpack

import httpx2

from minimax_m1.client import calls
from minimax_m1.client.connection import Connection
from minimax_m1.client.contexts import Contexts
from minimax_m1.client.events import Event
from minimax_m1.client.fields import ChatFields, GenerateFields, TokenizeFields, Turn
from minimax_m1.client.requests import Requests
from minimax_m1.client.settings import Settings
from minimax_m1.client.stream import Stream
from minimax_m1.wire.native import GenerateReply
from minimax_m1.wire.openai import ChatChunk, ChatReply, Health, ModelCard
from minimax_m1.wire.words import TokenizeReply


class Client:
    """A server's API; may be shared by threads. Every method raises what `client.errors` lists.

    Args:
        base_url: where the server listens; by default MINIMAX_M1_BASE_URL, or http://127.0.0.1:8000.
        api_key: sent as a bearer token; by default MINIMAX_M1_API_KEY, if there is one.
        timeout: most seconds to wait for an answer, or for a stream to begin; None waits for ever.
        silence: most seconds between two signs of life of a stream; a server that reads or thinks sends pings.
        max_retries: how often to try again after a failed connection, 408, 429 or 5xx. Each POST that does not stream
            keeps its Idempotency-Key, so that the server does it once.
        http: a client of your own, for proxies or certificates; you close it.

    Raises:
        RequestError: an argument is out of its range.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float | None = 600.0,
        silence: float | None = 60.0,
        max_retries: int = 2,
        http: httpx2.Client | None = None,
    ) -> None:
        settings = Settings.of(base_url, api_key, timeout=timeout, silence=silence, max_retries=max_retries)
        self._connection = Connection(settings, http)
        self.contexts = Contexts(self._connection)
        self.requests = Requests(self._connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends its connections."""
        self._connection.close()

    def generate(self, **fields: Unpack[GenerateFields]) -> GenerateReply:
        """Answers `input=`, one user's message, or `messages=`, with text, thought, usage and the experts' report."""
        return self._connection.call(calls.generate(fields))

    def stream(self, **fields: Unpack[GenerateFields]) -> Stream[Event, GenerateReply]:
        """`generate` as it comes: `Progress`, `Reasoning`, `Text`, `ToolCall`, `Done` of `client.events`."""
        return self._connection.stream(calls.generate_live(fields))

    def chat(self, messages: Sequence[Turn], **fields: Unpack[ChatFields]) -> ChatReply:
        """Answers a conversation in OpenAI's shape; a reply's message may go into the next call as it is."""
        return self._connection.call(calls.chat(messages, fields))

    def chat_stream(self, messages: Sequence[Turn], **fields: Unpack[ChatFields]) -> Stream[ChatChunk, ChatReply]:
        """`chat` as it comes, in OpenAI's chunks."""
        return self._connection.stream(calls.chat_live(messages, fields))

    def models(self) -> list[ModelCard]:
        """The models that this server answers with."""
        return self._connection.call(calls.models())

    def health(self) -> Health:
        """That the server can answer, and as which model; raises Unavailable while it cannot."""
        return self._connection.call(calls.health())

    def tokenize(self, prompt: str | None = None, **fields: Unpack[TokenizeFields]) -> TokenizeReply:
        """The ids of a text, or of `messages=` as the chat template writes them, and their `count`."""
        return self._connection.call(calls.tokenize(prompt, fields))

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of ids."""
        return self._connection.call(calls.detokenize(tokens))
