"""A folder becomes a model that can answer: weights, tokenizer and the model's own sampling settings.

In: the folder of a checkpoint. Out: `Loaded`. The only file of the server that touches torch.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from minimax_m1.engine.engine import ModelEngine
from minimax_m1.engine.request import SamplingParams
from minimax_m1.errors import CheckpointError, RequestError
from minimax_m1.kernels.ops import Ops
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.serve.bridge import Loaded
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer

_CHUNK = 512  # prompt tokens a step; while a long prompt is read, everybody else's next token waits for one step


def load(folder: Path, *, dtype: str, device: str, max_model_len: int | None) -> Loaded:
    """Loads the model in `folder`; dtype "auto" is the checkpoint's, max_model_len None the model's own limit.

    Raises:
        ModelNotFound, CheckpointError, ConfigError, TokenizerError: it cannot be loaded.
        RequestError: max_model_len is beyond the model's limit, or there is no such device.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RequestError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}", param="device") from None
    tokenizer = MiniMaxM1Tokenizer.from_pretrained(folder)
    ops = Ops.fastest(torch.device(device))
    model = MiniMaxM1ForCausalLM.from_pretrained(folder, dtype=dtype, device=device, ops=ops)
    limit = model.config.max_position_embeddings if max_model_len is None else max_model_len
    engine = ModelEngine(
        model,
        eos_ids={token for token in (tokenizer.eos_token_id, model.config.eos_token_id) if token is not None},
        max_model_len=limit,
        prefill_chunk=_CHUNK,
    )
    return Loaded(engine=engine, tokenizer=tokenizer, defaults=defaults(folder, limit), kernels=ops.name)


def defaults(folder: Path, limit: int) -> SamplingParams:
    """Sampling settings from the folder's `generation_config.json`; without one, vLLM's defaults.

    `do_sample` false is temperature 0. `max_new_tokens` is how long a chat answer may become where the
    request does not say; without it, `limit`, the context window in tokens.

    Raises:
        CheckpointError: the file is no JSON object, or holds settings out of range.
    """
    path = folder / "generation_config.json"
    if not path.is_file():
        return SamplingParams(max_tokens=limit)
    try:
        keys = json.loads(path.read_text("utf-8"))
        sampled = keys.get("do_sample", True)
        return SamplingParams(
            temperature=keys.get("temperature", 1.0) if sampled else 0.0,
            top_p=keys.get("top_p", 1.0),
            top_k=keys.get("top_k", 0),
            max_tokens=min(keys.get("max_new_tokens", limit), limit),
        )
    except (ValueError, AttributeError, TypeError) as error:
        said = str(error) if isinstance(error, RequestError) else f"not the settings of a model ({error})"
        raise CheckpointError(f"{path}: {said}") from None
