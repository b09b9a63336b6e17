"""`Client` and `AsyncClient`: the Python SDK of our own HTTP API; their errors are in `client.errors`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minimax_m1.client.async_client import AsyncClient
    from minimax_m1.client.client import Client

__all__ = ["AsyncClient", "Client"]

_HOMES = {"AsyncClient": "minimax_m1.client.async_client", "Client": "minimax_m1.client.client"}


def __getattr__(name: str) -> object:
    """Imports a client when it is first asked for, so that a missing httpx2 is told in one sentence."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        import_module("httpx2")
    except ModuleNotFoundError:
        raise ImportError("minimax_m1.client needs httpx2; install it with: pip install 'minimax-m1[serve]'") from None
    value: object = getattr(import_module(_HOMES[name]), name)
    return value
