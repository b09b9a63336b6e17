"""When to try again: after a failed connection, 408, 429 and every 5xx; not after a timeout.

In: what became of one attempt. Out: the seconds to wait before the next, or the error, raised. Knows no transport.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from minimax_m1.client.errors import APIError, ConnectionFailed, TimedOut

_AGAIN = (408, 429)  # and all from 500 up
_MOST = 8.0  # seconds between two attempts where the server names none
_PATIENCE = 60.0  # seconds; a server that asks for more is not waited for


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """`most` more attempts than one; pauses double from `first` seconds on, each cut by up to half by chance."""

    most: int
    first: float = 0.5

    def pause(self, attempt: int, error: APIError | ConnectionFailed, dice: random.Random) -> float:
        """Seconds to wait after the attempt of this number, from 0 up, ended in `error`, which is raised where that was
        the last. A server's Retry-After counts for more than our own plan.
        """
        if attempt >= self.most or isinstance(error, TimedOut):
            raise error
        if isinstance(error, APIError):
            if error.status < 500 and error.status not in _AGAIN:
                raise error
            if error.retry_after is not None:
                if error.retry_after > _PATIENCE:
                    raise error
                return error.retry_after
        return min(_MOST, self.first * 2.0**attempt) * (1 - dice.random() / 2)
