"""Where the server is, with what key to come, and how long to wait: given, or from the environment.

In: arguments of a client, MINIMAX_M1_BASE_URL, MINIMAX_M1_API_KEY. Out: `Settings`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import httpx2

from minimax_m1.client.retry import Retries
from minimax_m1.errors import RequestError

LOCAL = "http://127.0.0.1:8000"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One client's settings; times are seconds.

    `timeout` is the longest wait for an answer to come or a stream to begin, `silence` the longest between two signs
    of life of a stream: the server sends a ping every few seconds while it reads or thinks. None waits for ever.
    """

    base_url: str
    api_key: str | None = field(repr=False)
    connect: float = 5.0
    timeout: float | None
    silence: float | None
    retries: Retries

    @classmethod
    def of(
        cls,
        base_url: str | None,
        api_key: str | None,
        *,
        timeout: float | None,
        silence: float | None,
        max_retries: int,
    ) -> Settings:
        """Settings from a client's arguments; None is the environment's value, or the default.

        Raises:
            RequestError: an argument is out of its range.
        """
        url = os.environ.get("MINIMAX_M1_BASE_URL") or LOCAL if base_url is None else base_url
        if not url.startswith(("http://", "https://")):
            raise RequestError(f"base_url must begin with http:// or https://, got {url!r}", param="base_url")
        try:
            host = httpx2.URL(url).host
        except httpx2.InvalidURL as error:
            raise RequestError(f"base_url {url!r} is no address: {error}", param="base_url") from None
        if not host:
            raise RequestError(f"base_url {url!r} names no host", param="base_url")
        key = os.environ.get("MINIMAX_M1_API_KEY") or None if api_key is None else api_key
        if key is not None and not (key.isascii() and key.isprintable()):
            raise RequestError("api_key must be printable ASCII", param="api_key")
        for name, value in {"timeout": timeout, "silence": silence}.items():
            if value is not None and not value > 0:
                raise RequestError(f"{name} must be above 0 seconds, got {value}", param=name)
        if max_retries < 0:
            raise RequestError(f"max_retries must be at least 0, got {max_retries}", param="max_retries")
        return cls(
            base_url=url.rstrip("/").removesuffix("/v1"),  # OpenAI's clients want it with /v1, so both will do
            api_key=key,
            timeout=timeout,
            silence=silence,
            retries=Retries(most=max_retries),
        )
