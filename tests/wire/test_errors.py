"""Exceptions as statuses and bodies, and back."""

from __future__ import annotations

import pytest

from minimax_m1.errors import ContextLengthExceeded, ModelNotFound, RequestError, ServerBusy
from minimax_m1.wire.errors import Fault, check_model


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (RequestError("no", param="top_p"), 400, "invalid_request_error", "invalid_request"),
        (ContextLengthExceeded("long", param="messages"), 400, "invalid_request_error", "context_length_exceeded"),
        (ServerBusy("later"), 503, "server_error", "server_busy"),
        (Fault(413, "big", code="body_too_large"), 413, "invalid_request_error", "body_too_large"),
        (KeyError("secret"), 500, "server_error", "internal_error"),
        (ModelNotFound("secret path"), 500, "server_error", "internal_error"),
    ],
)
def test_each_exception_has_its_status_and_body(error: Exception, status: int, kind: str, code: str) -> None:
    fault = Fault.of(error)
    body = fault.reply.error
    assert (fault.status, body.type, body.code) == (status, kind, code)
    assert body.param == getattr(error, "param", None)
    assert "secret" not in body.message


def test_a_fault_survives_the_wire() -> None:
    sent = Fault(400, "top_p must be at most 1, got 2", code="invalid_request", param="top_p")
    got = Fault.read(400, sent.reply.model_dump_json().encode())
    assert (got.status, str(got), got.code, got.param) == (400, str(sent), sent.code, sent.param)


def test_a_strange_body_becomes_the_message() -> None:
    got = Fault.read(502, b"<h1>Bad gateway</h1>")
    assert (got.status, str(got), got.code) == (502, "<h1>Bad gateway</h1>", "unknown")


def test_only_another_model_is_unknown() -> None:
    check_model(None, "nano")
    check_model("nano", "nano")
    with pytest.raises(Fault, match="there is no model 'gpt' here, only 'nano'") as caught:
        check_model("gpt", "nano")
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")
