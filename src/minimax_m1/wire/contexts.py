"""The contract of contexts: `/v1/contexts`, what is read once, kept on disk and asked about later.

In: `CreateContext`, `ExtendContext`, `BranchContext`, `AskContext`, or the fields of a form with a file. Out: a
`ContextReply`, or, streaming, events named `progress` (`ContextProgress`), at last `done` (a `ContextReply`) or
`error`. An answer to a question is the native dialect's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import to_json

from minimax_m1.errors import RequestError
from minimax_m1.wire.body import Closed, Count, Integer, read
from minimax_m1.wire.messages import Message
from minimax_m1.wire.native import GenerateRequest
from minimax_m1.wire.openai import Formed
from minimax_m1.wire.sampling import Sampling

ContextName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$")]
SaveEvery = Annotated[Integer, Field(ge=256)]


class HowToRead(Closed):
    """How a reading is followed: to its end; as events (`stream`); or not (`background`), the reply coming at once.

    Every `save_every` tokens what was read is safe on disk.
    """

    stream: bool = False
    background: bool = False
    save_every: SaveEvery = 16_384

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.stream and self.background:
            raise RequestError("a reading is either streamed or in the background", param="background")
        return self


class ExtendContext(HowToRead):
    """More to read at the end of a context; exactly one of the sources, of the context's own kind.

    `texts` are by name, in order; `file_id` is an uploaded file's. What was cut short goes on when it is posted again.
    """

    text: Annotated[str, Field(min_length=1)] | None = None
    texts: Annotated[dict[str, str], Field(min_length=1)] | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    file_id: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(each is not None for each in (self.text, self.texts, self.messages, self.file_id)) != 1:
            raise RequestError("exactly one of text, texts, messages and file_id must be given", param="text")
        return self


class CreateContext(ExtendContext):
    """What to read into the context `name`, which becomes its id; without one it gets an id of its own.

    The same request once more goes on where the first was cut short, or finds everything there.
    """

    name: ContextName | None = None
    model: str | None = None


class ReadForm(HowToRead):
    """The fields beside the file in a form that extends a context; in a form everything is a string."""

    model_config = ConfigDict(strict=False)

    @classmethod
    def of(cls, fields: Mapping[str, str]) -> Self:
        """Those of a form; raises RequestError for one that is unknown or wrong."""
        return read(cls, to_json(dict(fields)))


class CreateForm(ReadForm):
    """The fields beside the file in a form that creates a context."""

    name: ContextName | None = None
    model: str | None = None


class BranchContext(Closed):
    """The name of the new context; without one it gets an id of its own."""

    name: ContextName | None = None


class AskContext(Closed, Sampling, Formed):
    """A question about a context; the other fields are those of `GenerateRequest`, and so is the answer."""

    question: Annotated[str, Field(min_length=1)]
    max_output_tokens: Count | None = None
    context_window: Count | None = None
    logprobs: Annotated[Integer, Field(ge=0, le=20)] | None = None
    stream: bool = False
    routing: bool = True

    def generation(self, context_id: str) -> GenerateRequest:
        """The same as a request of the native dialect."""
        given = {name: getattr(self, name) for name in self.model_fields_set - {"question"}}
        given = {name: value for name, value in given.items() if value is not None}
        return GenerateRequest(input=self.question, context_id=context_id, **given)


class ContextReply(BaseModel):
    """A context. `tokens` of the `total` are on disk, in so many `bytes`; `total` is null until it is known.

    `status`: "reading" is under way here; "ready" can be asked; "incomplete" was cut short, and goes on with the
    request that began it; "failed" is incomplete or unreadable, and `error` says why. `sources` names its texts,
    `messages` counts those of a conversation. `created` is in seconds since 1970, `model` the name that read it.
    """

    id: str
    object: Literal["context"] = "context"
    created: int
    status: Literal["reading", "ready", "incomplete", "failed"]
    kind: Literal["text", "chat"] | None
    tokens: int
    total: int | None
    bytes: int
    model: str | None
    sources: list[str]
    messages: int
    error: str | None = None


class ContextList(BaseModel):
    """All contexts, by id."""

    object: Literal["list"] = "list"
    data: list[ContextReply]


class ContextDeleted(BaseModel):
    """That a context is gone."""

    id: str
    object: Literal["context.deleted"] = "context.deleted"
    deleted: Literal[True] = True


class ContextProgress(BaseModel):
    """How many tokens of a context have been read, of how many; `total` is null while they are counted."""

    id: str
    processed: int
    total: int | None
