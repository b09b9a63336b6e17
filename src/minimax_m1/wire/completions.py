"""OpenAI's contract of plain completions: a prompt goes on, without a chat template.

In: `CompletionRequest`, whose prompt is text, ids, or a list of either. Out: `CompletionReply`, or chunks of the same
shape. With `echo` and `logprobs` the log-probabilities of the prompt come too, as evaluation harnesses want them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from minimax_m1.errors import RequestError
from minimax_m1.wire.body import Integer, Open, unset
from minimax_m1.wire.openai import ChatUsage, Formed, PromptLogprobs, StreamOptions
from minimax_m1.wire.sampling import Sampling

_MOST = 256  # prompts of one request


class CompletionRequest(Open, Sampling, Formed):
    """One or several prompts, `n` answers each; `max_tokens` 0 with `echo` only reads them."""

    model: str | None = None
    prompt: str | list[str] | list[Integer] | list[list[Integer]]
    max_tokens: Annotated[Integer, Field(ge=0)] | None = 16
    n: Annotated[Integer, Field(ge=1, le=8)] | None = None
    best_of: Integer | None = None
    echo: bool | None = None
    logprobs: Annotated[Integer, Field(ge=0, le=20)] | None = None
    prompt_logprobs: Annotated[Integer, Field(ge=0, le=20)] | None = None
    suffix: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_token_ids: bool = False
    user: str | None = None

    @model_validator(mode="after")
    def _served(self) -> Self:
        if self.suffix:
            raise RequestError("suffix is not supported: this model writes forwards only", param="suffix")
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise RequestError(f"best_of {self.best_of} is not supported; it must be n", param="best_of")
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options is only allowed when stream is true", param="stream_options")
        if self.stream and self.echo:
            raise RequestError("echo is not supported in a stream", param="echo")
        if self.max_tokens == 0 and not self.echo and self.prompt_logprobs is None:
            raise RequestError("max_tokens 0 makes nothing unless echo is true", param="max_tokens")
        if not self.prompt or len(self.prompts()) > _MOST:
            raise RequestError(
                f"a request has 1 to {_MOST} prompts, got {len(self.prompts()) if self.prompt else 0}", param="prompt"
            )
        return self

    def prompts(self) -> list[str | list[int]]:
        """All prompts; a list of numbers is one."""
        given = self.prompt
        if isinstance(given, str):
            return [given]
        numbers = [each for each in given if isinstance(each, int)]
        return [numbers] if numbers else [each for each in given if not isinstance(each, int)]

    def chosen(self) -> dict[str, Any]:
        """As `Sampling.chosen`, with the log-probabilities; `echo` asks for the prompt's as well."""
        values = super().chosen()
        if self.logprobs is not None:
            values["logprobs"] = self.logprobs
        if self.prompt_logprobs is not None:
            values["prompt_logprobs"] = self.prompt_logprobs
        elif self.logprobs is not None and self.echo:
            values["prompt_logprobs"] = self.logprobs
        return values


class TextLogprobs(BaseModel):
    """Four lists of one length: each token's text, its log-probability, the likeliest in its place, where it begins.

    The prompt's first token has no figures: nothing came before it. Offsets count characters from the prompt's start.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(BaseModel):
    """One answer; in a stream, a piece of it."""

    index: int
    text: str
    logprobs: TextLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None
    stop_reason: str | None = None
    token_ids: Annotated[list[int] | None, Field(exclude_if=unset)] = None
    prompt_token_ids: Annotated[list[int] | None, Field(exclude_if=unset)] = None
    prompt_logprobs: Annotated[PromptLogprobs | None, Field(exclude_if=unset)] = None


class CompletionReply(BaseModel):
    """A completion, or a piece of one; answers to the first prompt come first."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Annotated[ChatUsage | None, Field(exclude_if=unset)] = None
