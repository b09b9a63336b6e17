"""`EngineConfig`: how much the engine may hold and how much it does at once. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from minimax_m1.errors import RequestError

_ON_A_GPU = {"max_num_seqs": 64, "max_num_batched_tokens": 4096, "prefill_tokens": 16_384, "checkpoint_every": 16_384}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Limits of one engine; names are vLLM's where it has them.

    max_num_seqs: most requests that hold a state at once; `max_queue` more may wait.
    max_num_batched_tokens: most tokens a step runs while somebody's reply is under way, so that no stream waits long;
    `prefill_tokens` is the same where all only read.
    kv_cache_bytes: room for the keys and values of softmax layers, running and cached, in pages of `page_size` tokens;
    0 takes a gibibyte, or what one sequence of full length needs if that is more, but never more than half of the
    memory that is free nor than all sequences need. Memory is taken as it is used.
    enable_prefix_caching: keep what was read, and do not read it again; `checkpoint_bytes` is the room for the
    lightning states of that, one kept every `checkpoint_every` tokens, at the end of each prompt and reply, and where
    two prompts part; 0 takes half a gibibyte, or what 32 of them need if that is more, but never more than a quarter of
    the memory that is free.
    enforce_eager: on a GPU, launch each decode step kernel by kernel instead of replaying it as a CUDA graph.

    Raises:
        RequestError: a value is out of its range; `param` names the field.
    """

    max_num_seqs: int = 32
    max_queue: int = 1024
    max_num_batched_tokens: int = 512
    prefill_tokens: int = 2048
    kv_cache_bytes: int = 0
    page_size: int = 256
    enable_prefix_caching: bool = True
    checkpoint_bytes: int = 0
    checkpoint_every: int = 2048
    enforce_eager: bool = False

    @classmethod
    def on(cls, device: str, **limits: Any) -> Self:
        """The limits given, the others as they suit "cpu", "cuda" or another kind: a GPU does more at once."""
        return cls(**{**(_ON_A_GPU if device == "cuda" else {}), **limits})

    def __post_init__(self) -> None:
        for name, least in (
            ("max_num_seqs", 1),
            ("max_queue", 0),
            ("max_num_batched_tokens", 1),
            ("prefill_tokens", 1),
            ("kv_cache_bytes", 0),
            ("page_size", 1),
            ("checkpoint_bytes", 0),
            ("checkpoint_every", 1),
        ):
            if getattr(self, name) < least:
                raise RequestError(f"{name} must be at least {least}, got {getattr(self, name)}", param=name)
