"""Tensors in a safetensors file whose layout is known beforehand: written in one pass, read through a memory map.

In: names, shapes and dtypes, in order. Out: the file, or views of its values. The header follows from the layout,
so a reader compares it byte for byte instead of trusting it; any safetensors library reads the files too.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from minimax_m1.errors import CheckpointError

_CODES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "float64": "F64", "int32": "I32"}
_ALIGN = 64  # bytes; the header is padded so that values begin on a cache line


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """Shape and dtype of one tensor, the dtype by torch's name."""

    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def of(cls, tensor: Tensor) -> TensorSpec:
        """That of a tensor at hand."""
        return cls(shape=tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.torch_dtype.itemsize

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch knows it."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype


def known_dtype(name: str) -> bool:
    """Whether files of this kind may hold values of the dtype."""
    return name in _CODES


def pieces(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The whole file: its header, then the values in order, without a copy where they are contiguous."""
    yield _header({name: TensorSpec.of(tensor) for name, tensor in tensors.items()})
    for tensor in tensors.values():
        if tensor.numel():
            yield tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data


class TensorFile:
    """A file mapped into memory: `sha256` reads it through, `tensor` gives views that stay good after it is removed.

    Raises:
        CheckpointError: the file is missing, or has another size or layout; the message names it.
    """

    def __init__(self, path: Path, layout: Mapping[str, TensorSpec], size: int) -> None:
        self._path, self._layout = path, layout
        try:
            with path.open("rb") as file:
                found = file.seek(0, 2)
                if found != size:
                    raise CheckpointError(f"{path} has {found:,} bytes, its manifest says {size:,}")
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except FileNotFoundError:
            raise CheckpointError(f"{path} is missing") from None
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
        header = _header(layout)
        self._start = len(header)
        if self._bytes[: self._start] != header or self._start + _total(layout) != size:
            raise CheckpointError(f"{path} does not hold the tensors that its manifest names")

    def check(self, sha256: str) -> None:
        """Reads every byte; raises CheckpointError where they are not those that were written."""
        if hashlib.sha256(self._bytes).hexdigest() != sha256:
            raise CheckpointError(f"{self._path} was altered: its sha256 is not the one in the manifest")

    def tensor(self, name: str) -> Tensor:
        """A view of one tensor; writing to it changes this process's copy alone."""
        spec, place = self._layout[name], self._start
        for other, its in self._layout.items():
            if other == name:
                break
            place += its.nbytes
        if spec.nbytes == 0:
            return torch.empty(spec.shape, dtype=spec.torch_dtype)
        count = math.prod(spec.shape)
        return torch.frombuffer(self._bytes, dtype=spec.torch_dtype, count=count, offset=place).view(spec.shape)


def _total(layout: Mapping[str, TensorSpec]) -> int:
    return sum(spec.nbytes for spec in layout.values())


def _header(layout: Mapping[str, TensorSpec]) -> bytes:
    """Eight bytes of length and a JSON object, as safetensors has it."""
    entries, place = {}, 0
    for name, spec in layout.items():
        entries[name] = {
            "dtype": _CODES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [place, place + spec.nbytes],
        }
        place += spec.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _ALIGN)
    return len(text).to_bytes(8, "little") + text
