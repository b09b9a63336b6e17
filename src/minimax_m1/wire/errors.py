"""Exception <-> status <-> body, in OpenAI's shape: {"error": {"message", "type", "param", "code"}}.

In: any exception that ended a request. Out: a `Fault`, which knows its status and its body.
`Fault.read` is the way back, for clients.
"""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ValidationError

from minimax_m1.errors import MiniMaxError, RequestError, ServerBusy


class ErrorBody(BaseModel):
    """What went wrong; `param` is the field at fault."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorReply(BaseModel):
    """The whole body of an error."""

    error: ErrorBody


class Fault(MiniMaxError):
    """A request that ends with an HTTP status, from 400 up."""

    def __init__(self, status: int, message: str, *, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """The fault that tells `error`; what is not the caller's doing tells nothing but that."""
        if isinstance(error, cls):
            return error
        if isinstance(error, RequestError):
            status = 503 if isinstance(error, ServerBusy) else 400
            return cls(status, str(error), code=error.code, param=error.param)
        return cls(500, "the server failed on this request; its log says why", code="internal_error")

    @classmethod
    def read(cls, status: int, data: bytes) -> Self:
        """The fault that a reply tells; a body in another shape becomes its message."""
        try:
            body = ErrorReply.model_validate_json(data).error
        except ValidationError:
            return cls(status, data.decode("utf-8", "replace"), code="unknown")
        return cls(status, body.message, code=body.code or "unknown", param=body.param)

    @property
    def reply(self) -> ErrorReply:
        """The body to send."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return ErrorReply(error=ErrorBody(message=str(self), type=kind, param=self.param, code=self.code))


def check_model(asked: str | None, served: str) -> None:
    """Raises Fault (404) where a request names another model than the one served; none named will do."""
    if asked not in (None, served):
        message = f"there is no model {asked!r} here, only {served!r}"
        raise Fault(404, message, code="model_not_found", param="model")
