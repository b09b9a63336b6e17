"""`fingerprint`: one short name for what a model computes, so that what it remembered goes to no other.

In: a folder with a checkpoint. Out: 64 hex digits over the architecture, the weights and the tokenizer's vocabulary.
Reads no tensor as a tensor and little of a large file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from minimax_m1.config import MiniMaxM1Config
from minimax_m1.errors import CheckpointError
from minimax_m1.model.checkpoint import shard_files

# Keys that training and generation read, and that change nothing in what a token does to the state.
_NOT_COMPUTED = frozenset(
    """initializer_range router_aux_loss_coef router_jitter_noise max_position_embeddings bos_token_id
    eos_token_id""".split()
)
_VOCABULARY = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json")
_WHOLE = 2**28  # bytes; checkpoints up to this size are read whole
_SAMPLE = 256  # bytes at the start, in the middle and at the end of each tensor of a larger one


def fingerprint(folder: Path, tokenizer: Path | None = None) -> str:
    """Hex digits that change with the model in `folder`; `tokenizer` is where that lies, if elsewhere.

    Catches another architecture, other names, shapes or dtypes of tensors, another vocabulary, and any change in
    the weights of a checkpoint of up to 256 MiB. Of a larger one it reads three samples of each tensor, which catches
    retrained, merged and requantised weights, but not a few values edited between the samples. What a run turns the
    weights into (its dtype) is not in it. The folder's name and the time of its files do not matter.

    Raises:
        CheckpointError, ConfigError: files are missing or cut.
    """
    digest = hashlib.sha256()

    def add(name: str, data: bytes) -> None:
        digest.update(f"{name}\0{len(data)}\0".encode())
        digest.update(data)

    config = asdict(MiniMaxM1Config.from_file(folder / "config.json"))
    # What equals the default is left out: a field that a later version adds then leaves old fingerprints alone.
    usual = asdict(MiniMaxM1Config())
    told = {key: value for key, value in config.items() if key not in _NOT_COMPUTED and value != usual[key]}
    add("config", json.dumps(told, sort_keys=True).encode())
    shards = shard_files(folder)
    whole = sum(shard.stat().st_size for shard in shards) <= _WHOLE
    for shard in shards:
        for name, data in _samples(shard, whole):
            add(name, data)
    for name in _VOCABULARY:
        path = (tokenizer or folder) / name
        if path.is_file():
            add(name, path.read_bytes())
    return digest.hexdigest()


def _samples(shard: Path, whole: bool) -> Iterator[tuple[str, bytes]]:
    """Each tensor's name, dtype and shape with its bytes, or some of them, in the order of the names."""
    with shard.open("rb") as file:
        start, tensors = _header(shard, file)
        for name in sorted(tensors):
            entry = tensors[name]
            begin, end = (start + place for place in entry["data_offsets"])
            stretches = [(begin, end)]
            if not whole and end - begin > 3 * _SAMPLE:
                middle = (begin + end) // 2
                stretches = [(begin, begin + _SAMPLE), (middle, middle + _SAMPLE), (end - _SAMPLE, end)]
            data = b""
            for first, last in stretches:
                file.seek(first)
                data += file.read(last - first)
            if len(data) != sum(last - first for first, last in stretches):
                raise CheckpointError(f"{shard} is cut or damaged: it ends before {name} does")
            yield f"{name} {entry['dtype']} {entry['shape']}", data


def _header(shard: Path, file: BinaryIO) -> tuple[int, dict[str, Any]]:
    """Where a safetensors file's values start, and its tensors by name."""
    try:
        length = int.from_bytes(file.read(8), "little")
        if length > 100 * 2**20:  # safetensors' own limit
            raise ValueError
        tensors = json.loads(file.read(length))
        tensors.pop("__metadata__", None)
        good = all({"dtype", "shape", "data_offsets"} <= entry.keys() for entry in tensors.values())
    except (ValueError, AttributeError):
        good = False
    if not good:
        raise CheckpointError(f"{shard} is cut or damaged: it has no safetensors header")
    return 8 + length, tensors
