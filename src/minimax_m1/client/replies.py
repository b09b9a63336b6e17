"""The bytes of an answer become a model of the wire, or an error that says that they are not one."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from minimax_m1.client.errors import UnreadableReply

M = TypeVar("M", bound=BaseModel)


def parsed(model: type[M], data: bytes | str) -> M:
    """`data` as the model; fields that it does not know are read past, so that a newer server may say more.

    Raises:
        UnreadableReply: it is something else.
    """
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise UnreadableReply(f"the server's answer is no {model.__name__}: {place}: {first['msg']}") from None
