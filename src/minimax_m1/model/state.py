"""What sequences remember: a float32 matrix a head for lightning layers, keys and values for softmax layers.

A `State` is a value: running a model from it gives a new one and leaves it as it was, so it can be kept, branched
and resumed. Keys and values are appended in place behind the tokens that older states can see: to buffers that grow,
copied only when two branches grow from the same state, or, in an engine, to pages of a pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from minimax_m1.kernels.pages import Paged, PageTable
from minimax_m1.kernels.segments import Segments


class _Buffer:
    """Storage shared by the states of one sequence: [2, capacity, G, D], of which `filled` rows are written."""

    __slots__ = ("data", "filled")

    def __init__(self, data: Tensor, filled: int) -> None:
        self.data = data
        self.filled = filled


class KeyValues(Protocol):
    """Rotated keys and values of N sequences in one softmax layer."""

    @property
    def keys(self) -> Sequence[Tensor]:
        """Keys after rotation, [L, G, D] a sequence."""
        ...

    @property
    def values(self) -> Sequence[Tensor]:
        """Values, [L, G, D] a sequence."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values held, without spare room."""
        ...

    def append(self, key: Tensor, value: Tensor, segments: Segments) -> Self:
        """With more tokens at the ends: key and value [T, G, D] packed."""
        ...


@dataclass(frozen=True, slots=True)
class PagedKeyValues:
    """Those that lie in pages: data [2, P, B, G, D], keys then values. Appending writes to pages that are there."""

    data: Tensor
    table: PageTable

    @property
    def keys(self) -> Paged:
        """Keys after rotation, [L, G, D] a sequence."""
        return Paged(self.data[0], self.table)

    @property
    def values(self) -> Paged:
        """Values, [L, G, D] a sequence."""
        return Paged(self.data[1], self.table)

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values held, without the rest of the last pages."""
        return sum(self.table.lengths) * self.data[:, 0, 0].nbytes

    def append(self, key: Tensor, value: Tensor, segments: Segments) -> Self:
        """With more tokens at the ends: key and value [T, G, D] packed."""
        places = self.table.places(segments, self.data.device)
        for kept, new in zip(self.data, (key, value), strict=True):
            kept.view(-1, *kept.shape[2:]).index_copy_(0, places, new)
        return type(self)(self.data, self.table.after(segments))


@dataclass(frozen=True, slots=True)
class GrownKeyValues:
    """Those that lie in a buffer a sequence, which grows."""

    rows: tuple[_Grown, ...]

    @classmethod
    def empty(cls, sequences: int, groups: int, width: int, device: torch.device, dtype: torch.dtype) -> Self:
        """No tokens yet."""
        return cls(
            tuple(
                _Grown(_Buffer(torch.empty(2, 0, groups, width, device=device, dtype=dtype), 0), 0)
                for _ in range(sequences)
            )
        )

    @property
    def keys(self) -> list[Tensor]:
        """Keys after rotation, [L, G, D] a sequence."""
        return [row.keys for row in self.rows]

    @property
    def values(self) -> list[Tensor]:
        """Values, [L, G, D] a sequence."""
        return [row.values for row in self.rows]

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values held, without spare room."""
        return sum(row.keys.nbytes + row.values.nbytes for row in self.rows)

    def append(self, key: Tensor, value: Tensor, segments: Segments) -> Self:
        """With more tokens at the ends: key and value [T, G, D] packed."""
        parts = zip(self.rows, key.split(segments.lengths), value.split(segments.lengths), strict=True)
        return type(self)(tuple(row.append(*new) for row, *new in parts))


@dataclass(frozen=True, slots=True)
class _Grown:
    """One sequence's part of a buffer."""

    buffer: _Buffer
    length: int

    @property
    def keys(self) -> Tensor:
        return self.buffer.data[0, : self.length]

    @property
    def values(self) -> Tensor:
        return self.buffer.data[1, : self.length]

    def append(self, key: Tensor, value: Tensor) -> Self:
        """key and value [new, G, D]. With gradients nothing is written in place."""
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
    keys index rows and values columns. softmax: one `KeyValues` a softmax layer.
    """

    lengths: tuple[int, ...]
    lightning: tuple[Tensor, ...]
    softmax: tuple[KeyValues, ...]

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def nbytes(self) -> int:
        """Bytes of all matrices, keys and values held."""
        return sum(s.nbytes for s in self.lightning) + sum(kv.nbytes for kv in self.softmax)

    def row(self, index: int) -> State:
        """The state of one sequence, as a State of 1; keys and values must lie in buffers of their own."""
        return State(
            lengths=(self.lengths[index],),
            lightning=tuple(s[index : index + 1] for s in self.lightning),
            softmax=tuple(GrownKeyValues((rows[index],)) for rows in _rows(self)),
        )

    def at(self, indices: Sequence[int]) -> State:
        """The states of these sequences, in this order; one may come again and again, and gradients add up in it.

        Keys and values must lie in buffers of their own.
        """
        return State(
            lengths=tuple(self.lengths[index] for index in indices),
            lightning=tuple(s[torch.tensor(indices, device=s.device)] for s in self.lightning),
            softmax=tuple(GrownKeyValues(tuple(rows[index] for index in indices)) for rows in _rows(self)),
        )

    @staticmethod
    def concat(states: Sequence[State]) -> State:
        """The states of several runs side by side; keys and values must lie in buffers of their own."""
        if len(states) == 1:
            return states[0]
        return State(
            lengths=tuple(n for s in states for n in s.lengths),
            lightning=tuple(torch.cat(layer) for layer in zip(*(s.lightning for s in states), strict=True)),
            softmax=tuple(GrownKeyValues(sum(layer, ())) for layer in zip(*map(_rows, states), strict=True)),
        )


def _rows(state: State) -> list[tuple[_Grown, ...]]:
    rows = []
    for layer in state.softmax:
        assert isinstance(layer, GrownKeyValues), "pages belong to an engine, which moves them itself"
        rows.append(layer.rows)
    return rows
