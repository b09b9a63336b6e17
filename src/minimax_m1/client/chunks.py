"""OpenAI's stream: chunks as the wire has them, joined to the reply that the same request gets without a stream.

In: the bytes of a stream of chat completion chunks. Out: `ChatChunk`s, and at "[DONE]" the `ChatReply`.
"""

from __future__ import annotations

from typing import Any

import pydantic_core

from minimax_m1.client.call import Decoder
from minimax_m1.client.errors import UnreadableReply, told_in_stream
from minimax_m1.client.replies import parsed
from minimax_m1.wire.openai import CallOut, ChatChunk, ChatReply, ChunkChoice
from minimax_m1.wire.sse import Event


class ChatDecoder(Decoder[ChatChunk, ChatReply]):
    """Reads a chat's stream, which must have been asked for with its usage."""

    def __init__(self) -> None:
        super().__init__()
        self._head: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}

    def text(self, event: ChatChunk) -> str:
        """As `Decoder.text`; where there are several answers, of the first."""
        return "".join(choice.delta.content or "" for choice in event.choices if choice.index == 0)

    def _event(self, told: Event) -> ChatChunk | None:
        if told.data == "[DONE]":
            choices = [self._choices[index] for index in sorted(self._choices)]
            self.reply = parsed(ChatReply, pydantic_core.to_json({**self._head, "choices": choices}))
            return None
        if told.data.startswith('{"error"'):
            raise told_in_stream(told.data)
        chunk = parsed(ChatChunk, told.data)
        self._head |= {"id": chunk.id, "created": chunk.created, "model": chunk.model}
        if chunk.usage is not None:
            self._head["usage"] = chunk.usage
        for choice in chunk.choices:
            _join(self._choices.setdefault(choice.index, _blank(choice.index)), choice)
        return chunk


def _blank(index: int) -> dict[str, Any]:
    return {"index": index, "message": {"content": None}, "logprobs": None, "finish_reason": None}


def _join(whole: dict[str, Any], more: ChunkChoice) -> None:
    """Adds a chunk's part of one answer to what came before."""
    message = whole["message"]
    for name in ("content", "reasoning_content", "reasoning"):
        if piece := getattr(more.delta, name):
            message[name] = (message.get(name) or "") + piece
    for part in more.delta.tool_calls or []:
        calls = message.setdefault("tool_calls", [])
        if isinstance(part, CallOut):
            calls.append(part.model_dump(exclude={"index"}))
        elif part.index < len(calls):
            calls[part.index]["function"]["arguments"] += part.function.arguments
        else:
            raise UnreadableReply(f"a stream told arguments of the call {part.index} before the call")
    if more.logprobs is not None:
        whole["logprobs"] = whole["logprobs"] or {"content": []}
        whole["logprobs"]["content"] += more.logprobs.content
    if more.finish_reason is not None:
        whole["finish_reason"] = more.finish_reason
        if message["content"] is None and "tool_calls" not in message:
            message["content"] = ""
