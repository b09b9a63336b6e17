"""A model as a folder of its own that this package, vLLM and transformers read: safetensors, in another dtype or int8.

In: a model's name or folder, a path, what weights are held in. Out: the folder, with tokenizer, chat template and
sampling settings, ready to serve, and what was written. Weights go through memory as a whole, at their new size.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from minimax_m1.engine.defaults import defaults
from minimax_m1.errors import RequestError
from minimax_m1.location import locate
from minimax_m1.model.checkpoint import header_shapes, shard_files
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer

_SETTINGS = "generation_config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedFolder:
    """What was written: the folder, the dtype of its floating-point weights, its quantisation, tensors, bytes."""

    folder: Path
    dtype: str
    quantization: str | None
    tensors: int
    bytes: int


def export_folder(
    model: str | Path,
    out: Path | None = None,
    *,
    dtype: str = "auto",
    quantization: str | None = None,
    progress: bool = True,
) -> ExportedFolder:
    """Writes a model as a folder; its config.json comes last, so a folder that has one is whole.

    `model` is "nano", a folder or a hub id; `out` None is `NAME-int8`, or `NAME-DTYPE`, here; `dtype` "auto" and
    `quantization` None keep what the checkpoint has.

    Raises ModelNotFound, CheckpointError, ConfigError, TokenizerError; RequestError where `out` holds a model already.
    """
    source = locate(model)
    if out is not None:
        _check_free(out)
    words = MiniMaxM1Tokenizer.from_pretrained(source)
    loaded = MiniMaxM1ForCausalLM.from_pretrained(source, dtype=dtype, quantization=quantization, progress=progress)
    held, kept = str(loaded.dtype).removeprefix("torch."), loaded.config.quantization
    if out is None:
        out = Path(f"{source.resolve().name}-{kept or held}")
        _check_free(out)
    words.save_pretrained(out)
    _copy_settings(source, out, loaded.config.max_position_embeddings)
    loaded.save_pretrained(out)
    return ExportedFolder(
        folder=out,
        dtype=held,
        quantization=kept,
        tensors=len(header_shapes(out)),
        bytes=sum(shard.stat().st_size for shard in shard_files(out)),
    )


def _check_free(out: Path) -> None:
    if (out / "config.json").exists():
        raise RequestError(f"{out} holds a model already; give another folder, or remove it first", param="out")
    if out.exists() and not out.is_dir():
        raise RequestError(f"{out} is a file; safetensors go into a folder", param="out")


def _copy_settings(source: Path, out: Path, limit: int) -> None:
    """The sampling settings, with the thinking budget that so far only the model's name may have told."""
    budget = defaults(source, limit).thinking_budget
    path = source / _SETTINGS
    keys = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    if budget is not None:
        keys["thinking_budget"] = budget
    if keys:
        (out / _SETTINGS).write_text(json.dumps(keys, indent=2) + "\n", "utf-8")
