"""What an engine tells of itself: `Holdings`, what it holds now, and `Counts`, what it has done so far. No torch.

Out: plain numbers, which another thread may read while the engine runs; at worst one is a step older than another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What an engine holds at one moment: requests, pages of keys and values, checkpoints of prefixes.

    `pages_free` are held by nobody; `pages_available` are those and the ones that only cached prefixes hold.
    """

    running: int
    waiting: int
    pages: int
    pages_free: int
    pages_available: int
    checkpoints: int
    checkpoint_bytes: int


@dataclass(slots=True, kw_only=True)
class Counts:
    """What became of the requests that were let in; every number only grows.

    `queried` are the tokens of prompts for which the prefix cache was asked, `cached` those that it gave.
    `hits` and `misses` are requests: those that began behind a kept state, and those for which there was none.
    `replayed` tokens were read before, but lay behind the last state that was kept, so they were read again.
    `loads` are pasts taken up from outside the engine, `loaded` their tokens, and `load_seconds` the time it took.
    `preemptions` are requests that were parked to make room.
    """

    queried: int = 0
    cached: int = 0
    hits: int = 0
    misses: int = 0
    replayed: int = 0
    loads: int = 0
    loaded: int = 0
    load_seconds: float = 0.0
    preemptions: int = 0


@runtime_checkable
class Holder(Protocol):
    """An engine that tells both."""

    @property
    def holdings(self) -> Holdings:
        """What it holds now."""
        ...

    @property
    def counts(self) -> Counts:
        """What it has done since it was made, or since it last forgot."""
        ...
