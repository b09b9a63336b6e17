"""Text and ids: `/tokenize`, `/detokenize` and `/apply-template`, in the shapes of vLLM and llama.cpp."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, Field, model_validator

from minimax_m1.errors import RequestError
from minimax_m1.wire.body import Integer, Open
from minimax_m1.wire.messages import Message, Tool


class _Spoken(Open):
    """A conversation, or a text."""

    model: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    tools: list[Tool] | None = None
    add_generation_prompt: bool = True


class TokenizeRequest(_Spoken):
    """Exactly one of `prompt`, as it stands, and `messages`, through the chat template.

    `return_token_strs` asks for the text of each token beside its id.
    """

    prompt: str | None = None
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _one_text(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise RequestError('exactly one of "prompt" and "messages" must be given', param="prompt")
        return self


class TokenizeReply(BaseModel):
    """`max_model_len` is the most tokens, input and output together, that one request may use."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(Open):
    """Ids to be spelled."""

    model: str | None = None
    tokens: list[Integer]


class DetokenizeReply(BaseModel):
    """Their text."""

    prompt: str


class TemplateRequest(_Spoken):
    """A conversation to be written out."""

    messages: Annotated[list[Message], Field(min_length=1)]


class TemplateReply(BaseModel):
    """What the model would read, special tokens by name."""

    prompt: str


class TokenizerInfo(BaseModel):
    """What a harness must know of the tokenizer to speak to the model as it expects (vLLM's route)."""

    tokenizer_class: str = "MiniMaxM1Tokenizer"
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    chat_template: str
