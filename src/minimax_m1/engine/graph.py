"""`DecodeGraphs`: decode steps recorded once for each size as CUDA graphs, and replayed with one launch.

In: tracks of which each brings one token, and what is asked of each. Out: their logits and routing; states and pages
are written in place. A step of a small model is hundreds of launches, each of which costs the host more than it costs
the GPU; a graph is one. Sizes are powers of two, in rows and in pages a row, and rows that are nobody's fill them up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minimax_m1.engine.cache import Cache
from minimax_m1.engine.scheduler import Track
from minimax_m1.model.decode import DecodeBatch, Decoded, decode
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM

_LEAST_PAGES = 8  # a row: 2,048 tokens with pages of 256
_COLUMNS = 4  # before the pages of a row: id, position, slot, and the threshold's bits


@dataclass(frozen=True, slots=True)
class _Recorded:
    """One size: what the host writes [N, 4 + pages] int32, where the device reads it, and what comes out."""

    host: Tensor
    given: Tensor
    graph: torch.cuda.CUDAGraph | None
    out: Decoded | None


class DecodeGraphs:
    """Decode steps of one model on one cache; each size is recorded when it first comes up.

    The weights may be written anew but must stay where they are, as `load_state_dict` leaves them. `capture` False runs
    the same step without a graph, launch by launch.
    """

    def __init__(self, model: MiniMaxM1ForCausalLM, cache: Cache, *, capture: bool) -> None:
        self._model = model
        self._cache = cache
        self._capture = capture
        self._recorded: dict[tuple[int, int], _Recorded] = {}
        self._memory = torch.cuda.graph_pool_handle() if capture else None  # sizes run one at a time and share it
        self._aside = torch.cuda.Stream(model.device) if capture else None

    def run(self, tracks: Sequence[Track], ids: Sequence[int], thresholds: Sequence[float]) -> Decoded:
        """One token of each; what comes back holds until the next call."""
        count = len(tracks)
        tables = [self._cache.table(track) for track in tracks]
        used = max(track.length // self._cache.size + 1 for track in tracks)
        size = _power(count), max(_LEAST_PAGES, _power(used))
        if size not in self._recorded:
            self._recorded[size] = self._record(*size)
        step = self._recorded[size]
        # The host may write here: choosing the last step's tokens has waited for all that was read from it.
        step.host.fill_(-1)
        rows = step.host.numpy()
        rows[count:, 0] = rows[count:, 3] = rows[:, _COLUMNS:] = 0  # a threshold of 0 sends nobody to any expert
        rows[:count, 0], rows[:count, 1] = ids, [track.length for track in tracks]
        rows[:count, 2] = [track.slot for track in tracks]
        step.host[:count, 3] = torch.tensor(thresholds, dtype=torch.float32).view(torch.int32)
        for row, table in zip(rows, tables, strict=False):
            row[_COLUMNS : _COLUMNS + min(len(table), size[1])] = table[: size[1]]
        step.given.copy_(step.host, non_blocking=True)
        if step.graph is None:
            out = self._step(step.given)
        else:
            step.graph.replay()
            assert step.out is not None
            out = step.out
        return Decoded(logits=out.logits[:count], experts=out.experts[:, :count], weights=out.weights[:, :count])

    def _record(self, rows: int, pages: int) -> _Recorded:
        """A graph of this size; it is run once on rows that are nobody's, so that kernels are compiled before."""
        shape = rows, _COLUMNS + pages
        host = torch.zeros(shape, dtype=torch.int32, pin_memory=self._capture)
        host[:, 1:3] = -1
        given = host.to(self._model.device)
        aside = self._aside
        if aside is None:
            return _Recorded(host, given, None, None)
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            self._step(given)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory, stream=aside, capture_error_mode="thread_local"):
            out = self._step(given)
        return _Recorded(host, given, graph, out)

    def _step(self, given: Tensor) -> Decoded:
        batch = DecodeBatch(
            ids=given[:, 0].long(),
            positions=given[:, 1].long(),
            slots=given[:, 2].contiguous(),
            thresholds=given[:, 3].contiguous().view(torch.float32),
            pages=given[:, _COLUMNS:].contiguous(),
        )
        return decode(self._model, batch, self._cache.states, self._cache.pools)


def _power(count: int) -> int:
    """The least power of two that is not less."""
    return 1 << (count - 1).bit_length()
