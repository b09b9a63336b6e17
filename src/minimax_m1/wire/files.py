"""OpenAI's contract of files: what an upload's form may say, and what is told of a file.

In: the form's fields and the query of a list, both strings by nature. Out: `FileObject`, `FileList`, `FileDeleted`.
Owns `Expiry` and the query of a list, which batches have too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

from minimax_m1.wire.body import Closed, Integer, Open, read

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
DAY = 86_400  # seconds


class Expiry(Closed):
    """When a file goes by itself: so many seconds, an hour to 30 days, after it was made."""

    anchor: Literal["created_at"]
    seconds: Annotated[Integer, Field(ge=3600, le=30 * DAY)]

    model_config = ConfigDict(strict=False)  # in a form everything is a string


class FileForm(Open):
    """The fields beside the file."""

    purpose: Purpose
    expires_after: Expiry | None = None


class PageQuery(Open):
    """Which part of a list: at most `limit` entries, those that come after the entry `after`."""

    after: str | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20

    model_config = ConfigDict(strict=False)


class FileQuery(PageQuery):
    """The same for files; `desc` is the newest first."""

    limit: Annotated[int, Field(ge=1, le=10_000)] = 10_000
    order: Literal["asc", "desc"] = "desc"
    purpose: str | None = None


class FileObject(BaseModel):
    """A file. `created_at` and `expires_at` are seconds since 1970; `bytes` is its size."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: Purpose | Literal["batch_output"]
    status: Literal["processed"] = "processed"
    status_details: None = None


class FileList(BaseModel):
    """One page of files."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(BaseModel):
    """What is told of a file that is gone."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


def read_form(fields: Mapping[str, str]) -> FileForm:
    """The form, whose `expires_after` comes as `expires_after[anchor]` and `expires_after[seconds]`.

    Raises:
        RequestError: a field is missing or wrong.
    """
    form: dict[str, object] = {name: value for name, value in fields.items() if "[" not in name}
    inner = "expires_after["
    expiry = {name[len(inner) : -1]: value for name, value in fields.items() if name.startswith(inner)}
    return read(FileForm, to_json({**form, "expires_after": expiry} if expiry else form))
