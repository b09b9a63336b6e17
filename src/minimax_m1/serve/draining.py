"""A server that stops gently: it takes nothing new, and what is open has some seconds to end.

In: the application and the seconds. Out: a uvicorn server. What is not done by then is told so in its own dialect's
form, since the engine's side ends it and not the connection's.
"""

from __future__ import annotations

from types import FrameType

import uvicorn
from fastapi import FastAPI

_TELL = 3  # more seconds, for those whose time is up to be told so


def draining_server(app: FastAPI, seconds: float) -> uvicorn.Server:
    """A server whose requests have `seconds` to end once it is asked to stop; asked twice, it stops at once."""
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=int(seconds) + _TELL)
    return _Draining(config, app, seconds)


class _Draining(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, app: FastAPI, seconds: float) -> None:
        super().__init__(config)
        self._app = app
        self._seconds = seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._app.state.drain(self._seconds)
