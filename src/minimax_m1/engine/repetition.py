"""`Repetition`: sees a reply loop. In: a `RepetitionStop`, then each new id with its log-probability. Out: stop or not.

It remembers, for each period, for how many of the ids that the model was sure of the text has repeated with it. Where
the last `window` ids were all sure, those are the newest ids of the reply.
"""

from __future__ import annotations

import math

import numpy as np

from minimax_m1.engine.request import RepetitionStop

_ROOM = 1024  # ids that come before the recent ones are moved: more room, fewer moves


class Repetition:
    """One reply under one rule; a token takes time and memory in proportion to `max_period`."""

    __slots__ = ("_at", "_ids", "_need", "_rule", "_runs", "_sure")

    def __init__(self, rule: RepetitionStop) -> None:
        self._rule = rule
        self._sure = 0  # how many ids in a row the model was sure of, up to now
        periods = rule.max_period or 0
        self._ids = np.full(_ROOM + periods, -1, dtype=np.int64)  # the newest at `_at`, older ones after it
        self._at = _ROOM
        self._runs = np.zeros(periods, dtype=np.int64)  # for each period: how many ids in a row equal the one before
        self._need = rule.window - np.arange(1, periods + 1)  # the first period of the window has nothing before it

    def push(self, token: int, logprob: float | None) -> bool:
        """Takes the next id; True where the rule is met. An id that was forced, without logprob, counts as sure."""
        if logprob is not None and math.exp(logprob) <= self._rule.probability:
            self._sure = 0
            return False
        self._sure += 1
        periods = len(self._runs)
        if not periods:
            return self._sure >= self._rule.window
        if self._at == 0:
            self._ids[_ROOM:] = self._ids[:periods]
            self._at = _ROOM
        self._runs += 1
        self._runs *= self._ids[self._at : self._at + periods] == token
        self._at -= 1
        self._ids[self._at] = token
        return self._sure >= self._rule.window and bool((self._runs >= self._need).any())
