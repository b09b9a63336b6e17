"""Every request of this API as a `Call` or a `LiveCall`, made once for both clients.

In: the fields of a method. Out: what to send and how to read the answer. A wrong field raises RequestError here,
before anything is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel

from minimax_m1.client.call import Call, Decoder, LiveCall, Outgoing, body
from minimax_m1.client.chunks import ChatDecoder
from minimax_m1.client.events import Event, GenerateDecoder
from minimax_m1.client.fields import Turn
from minimax_m1.client.replies import parsed
from minimax_m1.errors import RequestError
from minimax_m1.wire.native import GenerateReply, GenerateRequest
from minimax_m1.wire.openai import ChatChunk, ChatReply, ChatRequest, Health, ModelCard, ModelList
from minimax_m1.wire.words import DetokenizeReply, DetokenizeRequest, TokenizeReply, TokenizeRequest

E = TypeVar("E")
M = TypeVar("M", bound=BaseModel)
R = TypeVar("R")

_GENERATE, _CHAT = "/v1/minimax-m1/generate", "/v1/chat/completions"


def generate(fields: Mapping[str, Any]) -> Call[GenerateReply]:
    """One answer in the native dialect; `fields` are those of `GenerateRequest`."""
    return post(_GENERATE, body(GenerateRequest, fields, {"stream": False}), GenerateReply)


def generate_live(fields: Mapping[str, Any]) -> LiveCall[Event, GenerateReply]:
    """The same, as it comes."""
    return live(_GENERATE, body(GenerateRequest, fields, {"stream": True}), GenerateDecoder)


def chat(messages: Sequence[Turn], fields: Mapping[str, Any]) -> Call[ChatReply]:
    """One answer, or several, in OpenAI's dialect; `fields` are those of `ChatRequest`."""
    own = {"messages": messages, "stream": False, "stream_options": None}
    return post(_CHAT, body(ChatRequest, fields, own), ChatReply)


def chat_live(messages: Sequence[Turn], fields: Mapping[str, Any]) -> LiveCall[ChatChunk, ChatReply]:
    """The same, as it comes, with its usage at the end."""
    own = {"messages": messages, "stream": True, "stream_options": {"include_usage": True}}
    return live(_CHAT, body(ChatRequest, fields, own), ChatDecoder)


def models() -> Call[list[ModelCard]]:
    """What the server answers with."""
    return Call(out=Outgoing(method="GET", path="/v1/models"), read=lambda data: parsed(ModelList, data).data)


def health() -> Call[Health]:
    """Whether the server can answer."""
    return get("/health", Health)


def tokenize(prompt: str | None, fields: Mapping[str, Any]) -> Call[TokenizeReply]:
    """The ids of a text or a conversation; `fields` are those of `TokenizeRequest`."""
    return post("/tokenize", body(TokenizeRequest, {**fields, "prompt": prompt}), TokenizeReply)


def detokenize(tokens: Sequence[int]) -> Call[str]:
    """The text of ids."""
    asked = Outgoing(method="POST", path="/detokenize", body=body(DetokenizeRequest, {"tokens": tokens}))
    return Call(out=asked, read=lambda data: parsed(DetokenizeReply, data).prompt)


def place(folder: str, id: str, action: str = "") -> str:
    """The path of what has an id; one of dots alone would be another path."""
    if not id.strip("."):
        raise RequestError(f"{id!r} is no id", param="id")
    return f"{folder}/{quote(id, safe='')}{action}"


def post(path: str, data: bytes, reply: type[M]) -> Call[M]:
    """JSON to a path, answered by a model of the wire."""
    return Call(out=Outgoing(method="POST", path=path, body=data), read=partial(parsed, reply))


def get(path: str, reply: type[M], *, method: str = "GET") -> Call[M]:
    """A request without a body, answered by a model of the wire."""
    return Call(out=Outgoing(method=method, path=path), read=partial(parsed, reply))


def live(path: str, data: bytes, decoder: Callable[[], Decoder[E, R]]) -> LiveCall[E, R]:
    """JSON to a path, answered by a stream."""
    return LiveCall(out=Outgoing(method="POST", path=path, body=data), decoder=decoder)
