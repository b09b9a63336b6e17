"""A model as one GGUF file for llama.cpp and what is built on it: weights, numbers, tokenizer and chat template.

In: a model's name or folder, a path, a type of weights. Out: the file, whole or not at all, and what was written.
Weights go from the checkpoint to the file one tensor at a time (a layer's experts are one), so a large model needs
little memory.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGML_QUANT_VERSION, GGMLQuantizationType, GGUFWriter, LlamaFileType, quants
from rich.console import Console
from rich.progress import Progress
from safetensors import SafetensorError, safe_open
from torch import Tensor

from minimax_m1.config import MiniMaxM1Config
from minimax_m1.errors import CheckpointError, RequestError
from minimax_m1.export.layout import ARCHITECTURE, Entry, Layout
from minimax_m1.export.words import Words
from minimax_m1.location import locate
from minimax_m1.model import checkpoint
from minimax_m1.model.names import scale_of
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer

WeightType = Literal["f32", "bf16", "q8_0"]

_TYPES = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written: the file, its type of weights, tensors, bytes; the split and loose merges of `Words`."""

    file: Path
    type: WeightType
    tensors: int
    bytes: int
    split: str
    loose_merges: int


def export_gguf(
    model: str | Path, out: Path | None = None, *, type: WeightType | None = None, progress: bool = True
) -> Exported:
    """Writes a model as GGUF; a file that was there is replaced once the new one is whole.

    `model` is "nano", a folder or a hub id; `out` None is `NAME-TYPE.gguf` here; `type` None is q8_0 for int8
    weights, bf16 for bfloat16 and f32 for all others. Norms and routers are float32 in every type, and q8_0 leaves rows
    that are no multiple of 32 in bf16.

    Raises ModelNotFound, CheckpointError, ConfigError, TokenizerError; RequestError, `param` the field of config.json
    that llama.cpp has no place for.
    """
    folder = locate(model)
    config = MiniMaxM1Config.from_file(folder / "config.json")
    shards = checkpoint.shard_files(folder)
    stored = {name: told for shard in shards for name, told in checkpoint.header(shard).items()}
    config = checkpoint.with_shared_width(config, stored)
    checkpoint.check_names({name: shape for name, (shape, _) in stored.items()}, config, folder)
    kind = type or _natural(config, stored["model.embed_tokens.weight"][1])
    if kind not in _TYPES:
        raise RequestError(f"type must be one of {', '.join(_TYPES)}, got {kind!r}", param="type")
    layout = Layout.of(config, power_of_two=kind == "bf16")
    tokenizer = MiniMaxM1Tokenizer.from_pretrained(folder)
    words = Words.of(tokenizer, config.vocab_size)
    name = folder.resolve().name
    out = out or Path(f"{name}-{kind}.gguf")
    if not out.parent.is_dir():
        raise RequestError(f"there is no folder {out.parent} to write {out.name} into", param="out")
    part = out.with_name(f"{out.name}.part")
    try:
        writer = GGUFWriter(part, ARCHITECTURE)
        _describe(writer, name, kind, layout, words, tokenizer)
        with ExitStack() as stack:
            stack.callback(writer.close)
            _write(writer, layout, kind, shards, f"writing {out.name}", stack, progress)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return Exported(
        file=out,
        type=kind,
        tensors=len(layout.tensors),
        bytes=out.stat().st_size,
        split=words.split,
        loose_merges=words.loose,
    )


def _natural(config: MiniMaxM1Config, dtype: str) -> WeightType:
    if config.quantization is not None:
        return "q8_0"
    return "bf16" if dtype == "BF16" else "f32"


def _describe(
    writer: GGUFWriter, name: str, kind: WeightType, layout: Layout, words: Words, tokenizer: MiniMaxM1Tokenizer
) -> None:
    """Everything that stands before the weights."""
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(_TYPES[kind][1])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    for key, value in layout.numbers.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_uint32(key, value)
    writer.add_tokenizer_model("gpt2")  # GGUF's name for byte-level BPE
    writer.add_tokenizer_pre(words.split)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.kinds)
    writer.add_token_merges(words.merges)
    for add, id in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if id is not None:
            add(id)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(tokenizer.chat_template)


def _write(
    writer: GGUFWriter,
    layout: Layout,
    kind: WeightType,
    shards: list[Path],
    title: str,
    stack: ExitStack,
    progress: bool,
) -> None:
    for entry in layout.tensors:
        stored = _stored(entry, kind)
        block, size = GGML_QUANT_SIZES[stored]
        count = int(np.prod(entry.shape, dtype=np.int64))
        writer.add_tensor_info(entry.name, entry.shape, np.dtype(np.void), count // block * size, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    console = Console(stderr=True)
    bar = stack.enter_context(Progress(console=console, transient=True, disable=not (progress and console.is_terminal)))
    try:
        files = [stack.enter_context(safe_open(shard, "pt")) for shard in shards]
        places = {name: file for file in files for name in file.keys()}  # noqa: SIM118  (safe_open is no mapping)
        for entry in bar.track(layout.tensors, description=title):
            writer.write_tensor_data(_encoded(_read(entry, places), _stored(entry, kind)))
    except SafetensorError as error:
        raise CheckpointError(f"{shards[0].parent} holds weights that are cut or damaged: {error}") from None


def _stored(entry: Entry, kind: WeightType) -> GGMLQuantizationType:
    if entry.small:
        return GGMLQuantizationType.F32
    if kind == "q8_0" and entry.shape[-1] % GGML_QUANT_SIZES[GGMLQuantizationType.Q8_0][0]:
        return GGMLQuantizationType.BF16
    return _TYPES[kind][0]


def _read(entry: Entry, places: dict[str, Any]) -> Tensor:
    """One tensor of the file in float32, made of its parts."""
    values = torch.empty(len(entry.parts), *entry.shape[-2:] if len(entry.parts) > 1 else entry.shape)
    for place, name in zip(values, entry.parts, strict=True):
        place.copy_(places[name].get_tensor(name))
        if (scale := scale_of(name)) in places:
            place.mul_(places[scale].get_tensor(scale))
    if entry.factor != 1:
        values.mul_(entry.factor)
    return values.view(entry.shape)


def _encoded(values: Tensor, stored: GGMLQuantizationType) -> np.ndarray[Any, Any]:
    if stored == GGMLQuantizationType.F32:
        return values.numpy()
    if stored == GGMLQuantizationType.BF16:
        return values.bfloat16().view(torch.int16).numpy()
    return quants.quantize(values.numpy(), stored)
