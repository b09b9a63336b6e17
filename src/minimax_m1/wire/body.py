"""A stranger's bytes become a checked model, or one sentence about the first thing wrong with them.

In: the bytes of a request body and the pydantic model it should be.
Out: the model, or a RequestError whose `param` is the path of the field at fault.
Owns the two bases of every request model and the number types they use.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import pydantic_core
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from minimax_m1.errors import RequestError

M = TypeVar("M", bound=BaseModel)


class Closed(BaseModel):
    """A model that refuses fields it does not know."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


class Open(BaseModel):
    """A model that ignores fields it does not know, as OpenAI's own peers do."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, frozen=True)


def _integral(value: Any) -> Any:
    """JSON has one kind of number, so 1e9 and 16.0 are integers; 0.5 is left to be refused."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Integer = Annotated[int, BeforeValidator(_integral)]
Count = Annotated[int, BeforeValidator(_integral), Field(ge=1)]
Stop = Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(_listed), Field(max_length=16)]


def read(model: type[M], data: bytes) -> M:
    """Parses and checks one request body.

    Raises:
        RequestError: the bytes are not a JSON object (NaN and Infinity are not JSON), or a field is wrong.
    """
    try:
        body = pydantic_core.from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise RequestError(f"the body must be a JSON object, got {_shown(body)}")
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise _refusal(error, body) from None


def read_query(model: type[M], query: Mapping[str, str]) -> M:
    """The same of a query's parameters, whose numbers come as text; raises as `read`."""
    return read(model, pydantic_core.to_json(dict(query)))


def unset(value: object) -> bool:
    """For a reply's fields that are left out of the JSON where they are None: `Field(exclude_if=unset)`."""
    return value is None


def given(model: BaseModel, names: Iterable[str]) -> dict[str, Any]:
    """Those of the named fields that the client set, null not counting."""
    return {name: value for name in names if (value := getattr(model, name)) is not None}


def _refusal(error: ValidationError, body: Mapping[str, Any]) -> RequestError:
    first = max(error.errors(include_url=False), key=lambda each: len(each["loc"]))  # the deepest says most
    kind, path = first["type"], _path(first["loc"], body)
    if kind == "extra_forbidden":
        return RequestError(f"unknown field {path!r}", param=path)
    if kind == "missing":
        field = ".".join(filter(None, (path, str(first["loc"][-1]))))
        return RequestError(f"{field} is required", param=field)
    if kind == "value_error" and isinstance(cause := first.get("ctx", {}).get("error"), RequestError):
        return cause
    said = first["msg"][:1].lower() + first["msg"][1:]
    return RequestError(f"{path}: {said}, got {_shown(first['input'])}", param=path or None)


def _path(loc: Sequence[int | str], body: Any) -> str:
    """The steps of `loc` that exist in the body; pydantic's names for branches of a union do not."""
    steps: list[str] = []
    for step in loc:
        there = step in body if isinstance(body, Mapping) else isinstance(body, list) and isinstance(step, int)
        if there:
            body = body[step]
            steps.append(str(step))
    return ".".join(steps)


def _shown(value: Any) -> str:
    text = pydantic_core.to_json(value, inf_nan_mode="constants").decode()
    return text if len(text) <= 60 else f"{text[:57]}..."
