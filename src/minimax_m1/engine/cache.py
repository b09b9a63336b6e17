"""`Cache`: the tensors behind slots and pages, and every way in and out of them.

A slot holds one sequence's lightning states, float32; a page the keys and values of some tokens in all softmax layers.
Out comes a `State` for the model to run from, and in goes the one it gives back; sequences are copied out to the host
and back when they are parked, kept as checkpoints, saved to disk or loaded from there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minimax_m1.engine.config import EngineConfig
from minimax_m1.engine.scheduler import Track
from minimax_m1.engine.snapshot import Snapshot
from minimax_m1.errors import RequestError
from minimax_m1.kernels.pages import PageTable
from minimax_m1.model.state import PagedKeyValues, State
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM

_LEAST = 2**30  # bytes of the pool where nobody says; half as much for checkpoints


@dataclass(frozen=True, slots=True)
class Parked:
    """All that a sequence held: its lightning states, and its pages in every softmax layer [2, pages, B, G, D]."""

    lightning: tuple[Tensor, ...]
    pages: tuple[Tensor, ...]


class Cache:
    """`slots` slots and `pages` pages of `size` tokens, on the model's device."""

    def __init__(self, model: MiniMaxM1ForCausalLM, *, slots: int, pages: int, size: int) -> None:
        empty = model.empty_state(1)
        self.size = size
        self._lightning = tuple(states.new_zeros(slots, *states.shape[1:]) for states in empty.lightning)
        # Left as it comes: an operating system gives memory to pages that are written to, and not before.
        self._pages = tuple(kv.keys[0].new_empty(2, pages, size, *kv.keys[0].shape[1:]) for kv in empty.softmax)
        self._tables: dict[int, tuple[list[int], NDArray[np.int64]]] = {}  # the pages of each slot, as last seen

    @classmethod
    def fitting(
        cls, model: MiniMaxM1ForCausalLM, config: EngineConfig, max_model_len: int | None
    ) -> tuple[Self, int, int]:
        """A cache as large as `config` says; how many pages that is, and the longest sequence: what the model knows.

        `max_model_len` None takes the model's limit, or as much of it as there is room for.

        Raises:
            RequestError: a sequence of `max_model_len` tokens does not fit, or the model knows no such length.
        """
        limit = model.config.max_position_embeddings
        if max_model_len is not None and not 1 < max_model_len <= limit:
            raise RequestError(
                f"max_model_len must be between 2 and the model's {limit}, got {max_model_len}", param="max_model_len"
            )
        longest, size = max_model_len or limit, config.page_size
        full = -(-longest // size)
        each = sum(kv.keys[0].new_empty(2, size, *kv.keys[0].shape[1:]).nbytes for kv in model.empty_state(1).softmax)
        most = full * config.max_num_seqs
        if each == 0:  # no softmax layer: pages cost nothing
            count = most
        elif config.kv_cache_bytes:
            count = config.kv_cache_bytes // each
        else:
            count = min(most, max(full, _LEAST // each), _free(model.device) // 2 // each)
        if count < 1 or (max_model_len is not None and count < full):
            raise RequestError(
                f"the keys and values of one sequence of {longest} tokens take {full * each} bytes and there is room "
                f"for {count * each}; raise kv_cache_bytes or lower max_model_len",
                param="kv_cache_bytes" if config.kv_cache_bytes else "max_model_len",
            )
        cache = cls(model, slots=config.max_num_seqs, pages=count, size=size)
        return cache, count, min(longest, count * size)

    @property
    def states(self) -> tuple[Tensor, ...]:
        """The lightning states of all slots, [slots, H, D, D] a layer, to be written in place."""
        return self._lightning

    @property
    def pools(self) -> tuple[Tensor, ...]:
        """Keys and values of all pages, [2, pages, B, G, D] a layer, to be written in place."""
        return self._pages

    @property
    def checkpoint_room(self) -> int:
        """Bytes of host memory for checkpoints where nobody says: see `EngineConfig`."""
        each = sum(states[0].nbytes for states in self._lightning)
        return min(max(_LEAST // 2, 32 * each), _free(torch.device("cpu")) // 4)

    def read(self, tracks: Sequence[Track]) -> State:
        """The state of these tracks side by side."""
        table = PageTable(
            tuple(map(self.table, tracks)),
            tuple(track.length for track in tracks),
            self.size,
        )
        rows = self._rows(tracks)
        return State(
            lengths=table.lengths,
            lightning=tuple(states[rows] for states in self._lightning),
            softmax=tuple(PagedKeyValues(data, table) for data in self._pages),
        )

    def write(self, tracks: Sequence[Track], state: State) -> None:
        """Takes in what the model made of them; keys and values are in their pages already."""
        rows = self._rows(tracks)
        for kept, new in zip(self._lightning, state.lightning, strict=True):
            kept[rows] = new

    def clear(self, track: Track) -> None:
        """A slot that has seen nothing."""
        for states in self._lightning:
            states[track.slot].zero_()

    def lightning(self, track: Track) -> tuple[Tensor, ...]:
        """A copy of a slot on the host, one [H, D, D] a layer."""
        return to_host([states[track.slot] for states in self._lightning])

    def finite(self, track: Track) -> bool:
        """Whether all numbers of a slot are; one answer for all layers, from where they lie."""
        sound = [states[track.slot].isfinite().all() for states in self._lightning]
        return not sound or bool(torch.stack(sound).all())

    def set_lightning(self, track: Track, states: Sequence[Tensor]) -> None:
        """Fills a slot."""
        for kept, new in zip(self._lightning, states, strict=True):
            kept[track.slot] = new.to(kept.device)

    def copy_page(self, source: int, to: int) -> None:
        """One page onto another, in every layer."""
        for data in self._pages:
            data[:, to] = data[:, source]

    def park(self, track: Track) -> Parked:
        """All that a track holds, copied to the host."""
        pages = torch.tensor(track.pages[: -(-track.length // self.size)], dtype=torch.long)
        return Parked(self.lightning(track), tuple(data[:, pages.to(data.device)].cpu() for data in self._pages))

    def restore(self, track: Track, parked: Parked) -> None:
        """Puts it back into the slot and the pages that the track has now."""
        self.set_lightning(track, parked.lightning)
        for data, kept in zip(self._pages, parked.pages, strict=True):
            data[:, torch.tensor(track.pages[: kept.shape[1]], dtype=torch.long, device=data.device)] = kept.to(
                data.device
            )

    def save(self, track: Track, start: int) -> Snapshot:
        """What a track remembers, with the keys and values of its tokens from `start` on."""
        first = start // self.size
        pages = torch.tensor(track.pages[first : -(-track.length // self.size)], dtype=torch.long)
        here = slice(start - first * self.size, track.length - first * self.size)
        return Snapshot(
            start=start,
            stop=track.length,
            lightning=self.lightning(track),
            keys_values=tuple(data[:, pages.to(data.device)].flatten(1, 2)[:, here].cpu() for data in self._pages),
        )

    def put(self, track: Track, start: int, keys_values: Sequence[Tensor]) -> None:
        """Writes the keys and values of a track's tokens from `start` on, one [2, tokens, G, D] a layer."""
        for data, new in zip(self._pages, keys_values, strict=True):
            rows, done, count = data.flatten(1, 2), 0, new.shape[1]
            while done < count:  # as far as the pages lie side by side, in one copy
                page, offset = divmod(start + done, self.size)
                stop = page + 1
                while stop * self.size < start + count and track.pages[stop] == track.pages[stop - 1] + 1:
                    stop += 1
                length = min(count - done, stop * self.size - start - done)
                at = track.pages[page] * self.size + offset
                rows[:, at : at + length] = new[:, done : done + length].to(data.device)
                done += length

    def table(self, track: Track) -> NDArray[np.int64]:
        """A track's pages as an array, made again only where they are others or more: there may be thousands."""
        seen = self._tables.get(track.slot)
        if seen is None or seen[0] is not track.pages or len(seen[1]) != len(track.pages):
            self._tables[track.slot] = seen = track.pages, np.array(track.pages, np.int64)
        return seen[1]

    def _rows(self, tracks: Sequence[Track]) -> slice | Tensor:
        """Their slots: a slice where they lie side by side, which copies nothing."""
        slots = [track.slot for track in tracks]
        if slots == list(range(slots[0], slots[0] + len(slots))):
            return slice(slots[0], slots[0] + len(slots))
        device = self._lightning[0].device if self._lightning else None
        return torch.tensor(slots, device=device)


def to_host(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Copies of tensors of one device on the host; of a GPU all at once, at the speed of its bus."""
    if not tensors or not tensors[0].is_cuda:
        return tuple(tensor.to("cpu", copy=True) for tensor in tensors)
    copies = tuple(torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors)
    for copy, tensor in zip(copies, tensors, strict=True):
        copy.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return copies


def _free(device: torch.device) -> int:
    """Bytes of memory that nobody uses."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
