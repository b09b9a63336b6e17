"""Every exception that the package raises for somebody else's mistake; our own mistakes are asserts.

MiniMaxError
├─ ConfigError            a configuration that describes no model of the family
├─ CheckpointError        files that are missing, cut, or do not fit the model
│  └─ ModelNotFound       a name that is neither "nano", nor a folder, nor a cached hub id
├─ TokenizerError         tokenizer files that are missing or broken
├─ DataError              training data or a run folder that cannot be used
└─ RequestError           one request that cannot be served (`param` names the field at fault)
   ├─ ContextLengthExceeded
   └─ ServerBusy

Each message is one sentence that names the value and the limit.
"""

from __future__ import annotations


class MiniMaxError(Exception):
    """Base of every error that a user of the package can cause."""


class ConfigError(MiniMaxError, ValueError):
    """The configuration describes no model of the family."""


class CheckpointError(MiniMaxError):
    """Weights are missing, cut, or do not fit the model."""


class ModelNotFound(CheckpointError):
    """The name is neither "nano", nor a folder, nor a hub id whose files are cached."""


class TokenizerError(MiniMaxError):
    """Tokenizer files are missing or broken."""


class DataError(MiniMaxError):
    """Training data or a run folder cannot be used."""


class RequestError(MiniMaxError, ValueError):
    """One request cannot be served as it stands."""

    code = "invalid_request"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextLengthExceeded(RequestError):
    """Input plus output would not fit the context window."""

    code = "context_length_exceeded"


class ServerBusy(RequestError):
    """The queue is full; try again later."""

    code = "server_busy"
