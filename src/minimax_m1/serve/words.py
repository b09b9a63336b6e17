"""Text to ids and back, as this server's model reads them. All of it off the event loop: a text may be long."""

from __future__ import annotations

import asyncio
from typing import Any

from minimax_m1.errors import RequestError, TokenizerError
from minimax_m1.serve.bridge import Loaded
from minimax_m1.serve.logprobs import spelled
from minimax_m1.serve.service import Service
from minimax_m1.text.chat import encode_chat, render
from minimax_m1.wire.body import read
from minimax_m1.wire.errors import check_model
from minimax_m1.wire.messages import Message, Tool, plain, plain_tools
from minimax_m1.wire.words import (
    DetokenizeReply,
    DetokenizeRequest,
    TemplateReply,
    TemplateRequest,
    TokenizeReply,
    TokenizeRequest,
    TokenizerInfo,
)

_Said = list[dict[str, Any]]


async def tokenize(service: Service, body: bytes) -> TokenizeReply:
    """The ids of a text or a conversation; raises RequestError, Fault (404)."""
    asked = read(TokenizeRequest, body)
    check_model(asked.model, service.name)
    return await asyncio.to_thread(_tokenize, service.bridge.loaded, asked)


async def detokenize(service: Service, body: bytes) -> DetokenizeReply:
    """The text of ids; raises RequestError where one is none of the model's, Fault (404)."""
    asked = read(DetokenizeRequest, body)
    check_model(asked.model, service.name)
    return await asyncio.to_thread(_detokenize, service.bridge.loaded, asked)


async def apply_template(service: Service, body: bytes) -> TemplateReply:
    """A conversation as the model reads it; raises RequestError, Fault (404)."""
    asked = read(TemplateRequest, body)
    check_model(asked.model, service.name)
    tokenizer = service.bridge.loaded.tokenizer
    prompt = await asyncio.to_thread(
        render, *_spoken(asked.messages, asked.tools), asked.add_generation_prompt, template=tokenizer.chat_template
    )
    return TemplateReply(prompt=prompt)


async def tokenizer_info(service: Service) -> TokenizerInfo:
    """Its special tokens and its chat template."""
    tokenizer = service.bridge.loaded.tokenizer
    return TokenizerInfo(
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        chat_template=tokenizer.chat_template,
    )


def _tokenize(loaded: Loaded, asked: TokenizeRequest) -> TokenizeReply:
    tokenizer = loaded.tokenizer
    if asked.messages is None:
        ids = tokenizer.encode(asked.prompt or "")
    else:
        ids = encode_chat(tokenizer, *_spoken(asked.messages, asked.tools), asked.add_generation_prompt)
    strings = [spelled(tokenizer, id).decode("utf-8", "replace") for id in ids] if asked.return_token_strs else None
    return TokenizeReply(count=len(ids), max_model_len=loaded.engine.max_model_len, tokens=ids, token_strs=strings)


def _detokenize(loaded: Loaded, asked: DetokenizeRequest) -> DetokenizeReply:
    try:
        return DetokenizeReply(prompt=str(loaded.tokenizer.decode(asked.tokens)))
    except TokenizerError as error:
        raise RequestError(str(error), param="tokens") from None


def _spoken(messages: list[Message], tools: list[Tool] | None) -> tuple[_Said, _Said | None]:
    """What the template takes."""
    return plain(messages), plain_tools(tools) if tools else None
