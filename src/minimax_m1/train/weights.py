"""The weights of a run: where they come from, how a checkpoint keeps them, how the finished model leaves.

In: the model that a recipe starts from, and perhaps adapters beside it (LoRA). Out: models, and folders that hold
weights, tokenizer and, once finished, the settings it answers with.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from minimax_m1.location import locate
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.lora import add_lora, load_lora, merge, save_lora

# How a model made from nothing answers where nobody says otherwise: its tasks have one right answer each.
_ANSWERS = {"do_sample": False, "max_new_tokens": 2048}
_GENERATION = "generation_config.json"


def started(
    start: str, device: torch.device | str, rank: int, alpha: float, targets: Sequence[str]
) -> MiniMaxM1ForCausalLM:
    """The model to go on from, in float32; with a `rank`, frozen as it is, with adapters."""
    dtype: torch.dtype | str = "auto" if rank else torch.float32  # frozen under adapters, weights stay as they are
    model = _opened(start, dtype, device)
    if rank:
        add_lora(model, rank, alpha, targets)
    return model


def kept(folder: Path, start: str, device: torch.device | str, rank: int) -> MiniMaxM1ForCausalLM:
    """The model that `keep` wrote."""
    if not rank:
        return _opened(folder, torch.float32, device)
    model = _opened(start, "auto", device)
    load_lora(model, folder)
    return model


def _opened(name: str | Path, dtype: torch.dtype | str, device: torch.device | str) -> MiniMaxM1ForCausalLM:
    """Loaded to where it trains."""
    return MiniMaxM1ForCausalLM.from_pretrained(name, dtype=dtype, device=device, progress=False)


def keep(model: MiniMaxM1ForCausalLM, tokenizer: MiniMaxM1Tokenizer, folder: Path, start: str, rank: int) -> None:
    """Writes what a checkpoint needs of the model: of an adapted one the adapters alone."""
    if rank:
        save_lora(model, folder, start)
    else:
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def finish(model: MiniMaxM1ForCausalLM, tokenizer: MiniMaxM1Tokenizer, folder: Path, start: str, rank: int) -> None:
    """Writes the model as anyone opens it: adapters merged into their weights, and beside them in `adapter`.

    It answers with the settings of the model that it started from, `start`, or greedily.
    """
    if rank:
        save_lora(model, folder / "adapter", start)
        merge(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = locate(start) / _GENERATION if start else None
    if settings is not None and settings.is_file():
        shutil.copyfile(settings, folder / _GENERATION)  # not its mode, which may forbid to write
    else:
        (folder / _GENERATION).write_text(json.dumps(_ANSWERS, indent=2) + "\n", "utf-8")
