"""What sequences remember: a float32 matrix a head for lightning layers, keys and values for softmax layers.

A `State` is a value: running a model from it gives a new one and leaves it as it was, so it can be kept, branched
and resumed. Keys and values are appended in place behind the tokens that older states can see, and copied only
when two branches grow from the same state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


class _Buffer:
    """Storage shared by the states of one sequence: [2, capacity, G, D], of which `filled` rows are written."""

    __slots__ = ("data", "filled")

    def __init__(self, data: Tensor, filled: int) -> None:
        self.data = data
        self.filled = filled


@dataclass(frozen=True, slots=True)
class KeyValues:
    """Rotated keys and values of one sequence in one softmax layer: [L, G, D] each."""

    buffer: _Buffer
    length: int

    @classmethod
    def empty(cls, groups: int, width: int, device: torch.device, dtype: torch.dtype) -> Self:
        """No tokens yet."""
        return cls(_Buffer(torch.empty(2, 0, groups, width, device=device, dtype=dtype), 0), 0)

    @property
    def keys(self) -> Tensor:
        """Keys after rotation, [L, G, D]."""
        return self.buffer.data[0, : self.length]

    @property
    def values(self) -> Tensor:
        """Values, [L, G, D]."""
        return self.buffer.data[1, : self.length]

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values held, without spare room."""
        return 2 * self.length * self.buffer.data[0, :1].nbytes if self.length else 0

    def append(self, key: Tensor, value: Tensor) -> Self:
        """With more tokens at the end: key and value [new, G, D]. With gradients nothing is written in place."""
        new = len(key)
        if torch.is_grad_enabled() and (key.requires_grad or value.requires_grad or self.buffer.data.requires_grad):
            data = torch.stack((torch.cat((self.keys, key)), torch.cat((self.values, value))))
            return type(self)(_Buffer(data, self.length + new), self.length + new)
        buffer, length = self.buffer, self.length + new
        if buffer.filled != self.length or length > buffer.data.shape[1]:  # another branch wrote here, or it is full
            room = length if self.length == 0 else max(length, self.length * 3 // 2 + 64)
            data = buffer.data.new_empty(2, room, *buffer.data.shape[2:])
            data[:, : self.length] = buffer.data[:, : self.length]
            buffer = _Buffer(data, self.length)
        buffer.data[0, self.length : length] = key
        buffer.data[1, self.length : length] = value
        buffer.filled = length
        return type(self)(buffer, length)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The past of N sequences.

    lengths: tokens seen by each, [N]. lightning: one tensor [N, H, D, D] a lightning layer, float32 or better,
    keys index rows and values columns. softmax: for each softmax layer the `KeyValues` of each sequence.
    """

    lengths: tuple[int, ...]
    lightning: tuple[Tensor, ...]
    softmax: tuple[tuple[KeyValues, ...], ...]

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def nbytes(self) -> int:
        """Bytes of all matrices, keys and values held."""
        return sum(s.nbytes for s in self.lightning) + sum(kv.nbytes for layer in self.softmax for kv in layer)

    def row(self, index: int) -> State:
        """The state of one sequence, as a State of 1."""
        return State(
            lengths=(self.lengths[index],),
            lightning=tuple(s[index : index + 1] for s in self.lightning),
            softmax=tuple((layer[index],) for layer in self.softmax),
        )

    @staticmethod
    def concat(states: Sequence[State]) -> State:
        """The states of several runs side by side."""
        if len(states) == 1:
            return states[0]
        return State(
            lengths=tuple(n for s in states for n in s.lengths),
            lightning=tuple(torch.cat(layer) for layer in zip(*(s.lightning for s in states), strict=True)),
            softmax=tuple(sum(layer, ()) for layer in zip(*(s.softmax for s in states), strict=True)),
        )
