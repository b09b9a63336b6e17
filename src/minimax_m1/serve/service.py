"""`Service`: all that a dialect needs to answer, made once by app.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from minimax_m1.serve.bridge import Bridge
from minimax_m1.serve.registry import Registry
from minimax_m1.serve.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The engine's bridge and what lies round it.

    `name` is what clients call the model; `ping` the seconds of silence in a stream before a ping; `home` the folder
    of what outlives the process, where contexts, files and the store lie.
    """

    bridge: Bridge
    name: str
    ping: float
    registry: Registry
    store: Store
    home: Path
