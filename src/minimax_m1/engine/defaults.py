"""A model's own sampling settings: what its folder says about how it likes to answer.

In: the folder of a checkpoint. Out: `SamplingParams`, for the server, `LLM` and the command line alike.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from minimax_m1.engine.request import SamplingParams
from minimax_m1.errors import CheckpointError, RequestError

# MiniMax-M1's two checkpoints are named for how long they may think. Their K is 1,024, as in the lengths that MiniMax's
# own long-context test names: 10240, 204800, 1024000.
_BUDGET = re.compile(r"(?<!\d)(40|80)k(-hf)?/?\Z", re.IGNORECASE)
_HUB_FOLDER = re.compile(r"models--.+--(.+)")  # of the Hugging Face cache, which names a model two folders up


def defaults(folder: Path, limit: int) -> SamplingParams:
    """Sampling settings from the folder's `generation_config.json`; without one, vLLM's defaults.

    `do_sample` false is temperature 0. `max_new_tokens` is how long a chat answer may become where the request does
    not say; without it, `limit`, the context window in tokens. `thinking_budget` is the most tokens of a thought;
    without it a model whose name (its folder's, its hub id's or `_name_or_path` in its config.json) ends in 40k or 80k,
    with or without -hf, has 40,960 or 81,920, and any other has none.

    Raises:
        CheckpointError: a file is no JSON object, or holds settings out of range.
    """
    path = folder / "generation_config.json"
    keys = _object(path)
    try:
        return SamplingParams(
            temperature=keys.get("temperature", 1.0) if keys.get("do_sample", True) else 0.0,
            top_p=keys.get("top_p", 1.0),
            top_k=keys.get("top_k", 0),
            min_p=keys.get("min_p", 0.0),
            repetition_penalty=keys.get("repetition_penalty", 1.0),
            max_tokens=min(_at_least_one(keys.get("max_new_tokens", limit)), limit),
            thinking_budget=keys.get("thinking_budget", _budget(folder)),
        )
    except RequestError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: not the settings of a model ({error})") from None


def _at_least_one(tokens: int) -> int:
    if tokens < 1:
        raise RequestError(f"max_new_tokens must be at least 1, got {tokens}", param="max_new_tokens")
    return tokens


def _budget(folder: Path) -> int | None:
    place = folder.absolute()
    hub = [match[1] for parent in place.parents[:2] if (match := _HUB_FOLDER.fullmatch(parent.name))]
    for name in (place.name, *hub, str(_object(folder / "config.json").get("_name_or_path", ""))):
        if match := _BUDGET.search(name):
            return int(match[1]) * 1024
    return None


def _object(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return value
