"""What a model is and costs, told from its configuration and file headers; no weight is ever read.

In: a preset's name, "nano", a folder or a hub id. Out: a `Report`, and `render` for its plain text.
The model is built on torch's meta device, so 456B parameters take no memory; where there are files,
their headers are compared with the published layout.

FLOPs a generated token, the convention: a multiply-add is 2 FLOPs. Counted are every active weight once
(the output head too, the embedding look-up not), in each softmax layer 4·heads·head_dim·L for scores and
mix over L tokens of context, in each lightning layer 5·heads·head_dim² (decay 1, update 2, read 2).
Norms, rotations, softmax and the choice of experts are left out: together under a thousandth.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

from minimax_m1.config import MiniMaxM1Config
from minimax_m1.errors import CheckpointError
from minimax_m1.location import locate
from minimax_m1.model.checkpoint import header, with_shared_width
from minimax_m1.model.names import GATE, is_scale, published_tensors, quantizable
from minimax_m1.presets import PRESETS

CONTEXTS = (8_192, 32_768, 65_536, 131_072, 262_144, 524_288, 1_048_576)
MILLION = 1_048_576

_Header = tuple[tuple[int, ...], str]  # shape and dtype

# sha256 of the 8,243 sorted names, a line each, in MiniMax-M1's model.safetensors.index.json.
OFFICIAL_NAMES = "3d20d6112af29f8b2de4b84dccffc240d0824fa487e280b17132c645f970c9a0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """How a folder's safetensors differ from the published layout; with only an index, names alone are known."""

    shards: int  # files whose headers were read; 0: only the index is there
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]  # "name: has (2, 3), needs (3, 2)"
    dtypes: dict[str, int]  # dtype -> tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Counts are parameters, memory is bytes of one model or one sequence."""

    name: str
    folder: str | None
    layers: str
    tensors: int
    official_names: bool  # the names are those of the published MiniMax-M1 index
    parameters: int
    built_parameters: int  # counted on the model built without memory; equals `parameters`
    active: int  # weights that one token meets, without embedding and head
    active_with_head: int
    active_with_head_and_embedding: int
    weight_bytes: dict[str, int]
    lightning_state_bytes: int
    kv_bytes_per_token: dict[str, int]
    kv_bytes_at_1m: dict[str, int]
    flops_per_token: dict[int, int]  # tokens of context -> FLOPs
    files: Files | None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def inspect_model(name: str | Path) -> Report:
    """Measures the model called `name` (a key of `PRESETS`, "nano", a folder, a hub id).

    Raises:
        ModelNotFound: the name leads nowhere.
        ConfigError: its config.json describes no model.
        CheckpointError: a safetensors file is cut or is not one.
    """
    folder, shards, stored = None, 0, dict[str, _Header | None]()
    if name in PRESETS and name != "nano":  # nano's files are here, so those are inspected
        config = PRESETS[str(name)]()
    else:
        folder = locate(name, weights=False)
        shards, stored = _stored(folder)
        headers = {tensor: told for tensor, told in stored.items() if told is not None}
        config = with_shared_width(MiniMaxM1Config.from_file(folder / "config.json"), headers)
    shapes = published_tensors(config)
    sizes = {tensor: prod(shape) for tensor, shape in shapes.items() if not is_scale(tensor)}

    total = sum(sizes.values())
    table = config.vocab_size * config.hidden_size
    tables = table if config.tie_word_embeddings else 2 * table
    experts = sum(size for tensor, size in sizes.items() if ".experts." in tensor)
    gates = sum(size for tensor, size in sizes.items() if tensor.endswith(GATE))
    idle = experts // config.num_local_experts * (config.num_local_experts - config.num_experts_per_tok)
    active = total - tables - idle

    softmax, lightning = len(config.softmax_layers), len(config.lightning_layers)
    width = config.num_attention_heads * config.head_dim
    kv = 2 * softmax * config.num_key_value_heads * config.head_dim
    lightning_state = lightning * width * config.head_dim
    return Report(
        name=str(name),
        folder=None if folder is None else str(folder),
        layers=f"{config.num_hidden_layers}: {lightning} lightning, {softmax} softmax",
        tensors=len(shapes),
        official_names=_fingerprint(shapes) == OFFICIAL_NAMES,
        parameters=total,
        built_parameters=_built(config, shapes),
        active=active,
        active_with_head=active + table,
        active_with_head_and_embedding=active + 2 * table,
        weight_bytes={
            "bf16": 2 * total + 2 * gates,  # gates are stored in fp32
            "experts int8, rest bf16": 2 * total + 2 * gates - _saved(shapes, ".experts."),
            "int8": 2 * total + 2 * gates - _saved(shapes, ""),  # as `quantization="int8"` holds a bf16 model
        },
        lightning_state_bytes=4 * lightning_state,
        kv_bytes_per_token={"bf16": 2 * kv, "int8": kv},
        kv_bytes_at_1m={"bf16": 2 * kv * MILLION, "int8": kv * MILLION},
        flops_per_token={
            context: 2 * (active + table) + 4 * width * softmax * context + 5 * lightning_state for context in CONTEXTS
        },
        files=_compare(shards, stored, shapes) if stored else None,
    )


def _saved(shapes: dict[str, tuple[int, ...]], part: str) -> int:
    """Bytes that int8 takes less than bf16 in the tensors named so: one a weight, less four a row for its scale."""
    return sum(prod(shape) - 4 * shape[0] for name, shape in shapes.items() if part in name and quantizable(name))


def _fingerprint(names: Iterable[str]) -> str:
    return sha256("".join(f"{name}\n" for name in sorted(names)).encode()).hexdigest()


def _built(config: MiniMaxM1Config, shapes: dict[str, tuple[int, ...]]) -> int:
    """Parameters of the real model, built on the meta device; its tensors must be the published ones."""
    import torch

    from minimax_m1.model.transformer import MiniMaxM1ForCausalLM

    with torch.device("meta"):
        model = MiniMaxM1ForCausalLM(config)
    tensors = model.state_dict()
    built = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if config.tie_word_embeddings:
        built.pop("lm_head.weight", None)  # one tensor under two names
    differ = sorted(set(built.items()) ^ set(shapes.items()))
    assert not differ, f"built and published tensors differ: {differ[:4]}"
    return sum(tensors[name].numel() for name in built if not is_scale(name))


def _stored(folder: Path) -> tuple[int, dict[str, _Header | None]]:
    """How many files the folder holds, and their tensors; of a tensor that only the index names, nothing is known."""
    index = folder / "model.safetensors.index.json"
    indexed = _weight_map(index) if index.is_file() else {}
    named = sorted(set(indexed.values())) or ["model.safetensors"]
    shards = [folder / shard for shard in named if (folder / shard).is_file()]
    if not shards:
        return 0, dict.fromkeys(indexed)
    return len(shards), {name: told for shard in shards for name, told in header(shard).items()}


def _compare(shards: int, stored: dict[str, _Header | None], shapes: dict[str, tuple[int, ...]]) -> Files:
    """What the folder holds beside the published layout."""
    known = {name: told for name, told in stored.items() if told is not None}
    return Files(
        shards=shards,
        missing=tuple(name for name in shapes if name not in stored),
        unexpected=tuple(sorted(stored.keys() - shapes.keys())),
        misshapen=tuple(
            f"{name}: has {known[name][0]}, needs {shape}"
            for name, shape in shapes.items()
            if name in known and known[name][0] != shape
        ),
        dtypes=dict(Counter(dtype for _, dtype in known.values())),
    )


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(index.read_text("utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{index} is not a safetensors index: {error}") from None
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CheckpointError(f"{index} is not a safetensors index: weight_map must map names to file names")
    return weight_map


def render(report: Report) -> str:
    """The report as plain text, for a terminal or a log."""
    weights, names = report.weight_bytes, " (the names of the published index)" if report.official_names else ""
    rows = [
        ("layers", report.layers),
        ("tensors", f"{report.tensors:,}{names}"),
        ("parameters", f"{report.parameters:,}"),
        ("built without memory", f"{report.built_parameters:,}"),
        ("active a token", f"{report.active:,} without embedding and head"),
        ("", f"{report.active_with_head:,} with head"),
        ("", f"{report.active_with_head_and_embedding:,} with both"),
        *_section("weights", {f"{kind}, {size / 1e9:,.1f} GB": _bytes(size) for kind, size in weights.items()}),
        ("state, any length", f"{_bytes(report.lightning_state_bytes)} a sequence (lightning, fp32)"),
        *_section("KV a token", {kind: f"{size:,} B" for kind, size in report.kv_bytes_per_token.items()}),
        *_section("KV at 1M tokens", {kind: _bytes(size) for kind, size in report.kv_bytes_at_1m.items()}),
        *_section(
            "FLOPs a new token",
            {f"at {_context(context):>4}": _flops(count) for context, count in report.flops_per_token.items()},
        ),
        *_file_rows(report.files),
    ]
    title = report.name if report.folder is None else f"{report.name}  ({report.folder})"
    notes = (
        "The router stays fp32; int8 counts its scales, and leaves embedding and head in bf16.\n"
        "FLOPs: a multiply-add is 2; every active weight once, with the head; softmax layers\n"
        "4·heads·head_dim·context; lightning layers 5·heads·head_dim²; norms, rotations and softmax left out."
    )
    return "\n".join([title, "", *(f"{label:<21} {value}".rstrip() for label, value in rows), "", notes])


def _section(label: str, values: dict[str, str]) -> list[tuple[str, str]]:
    return [(label if i == 0 else "", f"{value:>11}  {key}") for i, (key, value) in enumerate(values.items())]


def _file_rows(files: Files | None) -> list[tuple[str, str]]:
    if files is None:
        return []
    source = f"{files.shards} safetensors" if files.shards else "the index only"
    held = ", ".join(f"{count:,} {dtype}" for dtype, count in files.dtypes.items())
    rows = [("files", f"{source}: {held}" if held else source)]
    for label, names in (("missing", files.missing), ("unexpected", files.unexpected), ("misshapen", files.misshapen)):
        rows += [(label if i == 0 else "", name) for i, name in enumerate(names[:8])]
        if len(names) > 8:
            rows.append(("", f"and {len(names) - 8:,} more"))
    if not (files.missing or files.unexpected or files.misshapen):
        rows.append(("", "every name and shape as published" if files.shards else "every name as published"))
    return rows


def _context(tokens: int) -> str:
    return f"{tokens // 1024}K" if tokens < MILLION else f"{tokens // MILLION}M"


def _bytes(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:,.2f} {unit}"
    return f"{count} B"


def _flops(count: int) -> str:
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6)):
        if count >= size:
            return f"{count / size:,.2f} {unit}"
    return f"{count:,}"
