"""`Runner`: a plan becomes one packed run of the model.

In: slices. Out: for each, the logits and the routing it asked for. It stands behind the scheduler as its `Memory`:
it sets slots up, from nothing, a checkpoint or a past on disk, parks what they hold and brings it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minimax_m1.engine.cache import Cache, Parked
from minimax_m1.engine.graph import DecodeGraphs
from minimax_m1.engine.prefix import Checkpoint
from minimax_m1.engine.request import TokenLogprob
from minimax_m1.engine.sampler import Sampler
from minimax_m1.engine.scheduler import Slice, Track
from minimax_m1.engine.sequence import Sequence as Request
from minimax_m1.model.batch import Batch
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM, Run


@dataclass(frozen=True, slots=True)
class Kept:
    """What a checkpoint holds: lightning states, and the next token's logits [V] where the prompt ended there."""

    lightning: tuple[Tensor, ...]
    logits: Tensor | None


@dataclass(slots=True, eq=False, kw_only=True)
class Job:
    """One open request: its sequence, its track, and what the tensors' side knows of it."""

    sequence: Request
    track: Track
    sampler: Sampler
    pending: list[int] = field(default_factory=list)  # tokens of the reply that the model has not read yet
    prompt_logprobs: list[tuple[TokenLogprob, ...]] | None = None
    saved: int = 0  # tokens that `save` has been given
    parked: Parked | None = None


Row = tuple[Tensor, int]  # logits [R, V] of a run, and which of them: a view of each would cost more than a small step


@dataclass(frozen=True, slots=True)
class Result:
    """What a slice gave: the rows it wanted, `count` from `first` on, of a run's logits [R, V]; or why it failed."""

    whole: Tensor | None = None
    first: int = 0
    count: int = 0
    error: Exception | None = None

    @property
    def logits(self) -> Tensor | None:
        """Its own [count, V], or None."""
        return None if self.whole is None or not self.count else self.whole[self.first : self.first + self.count]

    @property
    def last(self) -> Row:
        """The last of them, which makes the next token."""
        assert self.whole is not None and self.count
        return self.whole, self.first + self.count - 1


class Runner:
    """Runs slices on a model and a cache; where all bring one token, on `graphs`, if there are any."""

    def __init__(self, model: MiniMaxM1ForCausalLM, cache: Cache, graphs: DecodeGraphs | None = None) -> None:
        self._model = model
        self._cache = cache
        self._graphs = graphs
        self._answered: list[tuple[Job, Tensor | None]] = []  # let in with nothing to read
        self._failed: list[tuple[Job, Exception]] = []  # whose past could not be loaded

    def begun(self) -> tuple[list[tuple[Job, Tensor | None]], list[tuple[Job, Exception]]]:
        """Who was let in since the last call and needs no reading, with its logits [V]; and whose past is broken.

        There are no logits for one whose past is its whole prompt; it wants no token either.
        """
        told = self._answered, self._failed
        self._answered, self._failed = [], []
        return told

    def begin(self, track: Track, checkpoint: Checkpoint | None, copy: tuple[int, int] | None) -> bool:
        """Sets a slot up; False, and a word of it in `begun`, where the past cannot be read."""
        job: Job = track.owner
        logits = None
        if copy is not None:
            self._cache.copy_page(*copy)
        if checkpoint is not None:
            kept: Kept = checkpoint.state
            self._cache.set_lightning(track, kept.lightning)
            logits = kept.logits
        else:
            self._cache.clear(track)
        past = job.sequence.request.past
        if past is not None and len(past.ids) > track.length:
            try:
                self._cache.set_lightning(track, past.load(partial(self._cache.put, track)))
            except Exception as error:  # a boundary: files that are gone or altered end one request
                self._failed.append((job, error))
                return False
            track.length = track.cached = len(past.ids)
        job.saved = job.sequence.read = job.sequence.cached = track.length
        if not track.reading:
            self._answered.append((job, logits))
        return True

    def checkpoint(self, track: Track, logits: Tensor | None = None) -> Checkpoint | None:
        """What a slot holds, and perhaps the next token's logits [V]; None where some of the numbers are broken."""
        if not self._cache.finite(track) or (logits is not None and not bool(logits.isfinite().all())):
            return None
        kept = Kept(self._cache.lightning(track), None if logits is None else logits.to("cpu", copy=True))
        nbytes = sum(each.nbytes for each in (*kept.lightning, *(() if kept.logits is None else (kept.logits,))))
        return Checkpoint(state=kept, nbytes=nbytes, answers=logits is not None)

    def park(self, track: Track) -> None:
        """Copies aside what a track holds."""
        track.owner.parked = self._cache.park(track)

    def restore(self, track: Track) -> None:
        """Copies it back."""
        self._cache.restore(track, track.owner.parked)
        track.owner.parked = None

    def run(self, slices: Sequence[Slice]) -> list[Result]:
        """One packed run; where it fails, whoever is at fault, each slice runs alone. Tracks move on."""
        if not slices:
            return []
        try:
            with _current(self._model.device):
                return self._run(slices)
        except Exception as error:  # the boundary: a request that breaks the model ends, the others go on
            if len(slices) == 1:
                return [Result(error=error)]
            return [result for each in slices for result in self.run([each])]

    def _run(self, slices: Sequence[Slice]) -> list[Result]:
        tracks, jobs = [each.track for each in slices], [each.track.owner for each in slices]
        ids = [_ids(each) for each in slices]
        wanted = [_wanted(each) for each in slices]
        thresholds = [job.sequence.request.params.expert_threshold for job in jobs]
        out: Run | None = None
        if self._graphs is not None and all(each.count == 1 for each in slices) and all(wanted):
            done = self._graphs.run(tracks, [row[0] for row in ids], thresholds)
            logits: Tensor | None = done.logits
            experts, weights = done.experts, done.weights
        else:
            state = self._cache.read(tracks)
            out = self._model.run(
                Batch.of(ids, state, self._model.device),
                state,
                expert_threshold=self._thresholds(thresholds, ids),
                logits=wanted,
                route_all=any(job.sequence.routes_all for job in jobs),
            )
            logits, experts, weights = out.logits, out.routing.experts, out.routing.weights
        traced = any(job.sequence.trace is not None for job in jobs)
        routing = (experts.cpu().numpy(), weights.cpu().numpy()) if traced else None
        # What may fail for all together is above this line, but for a graph's step, which only a broken GPU ends.
        if out is not None:
            self._cache.write(tracks, out.state)
        if routing is not None:
            _trace(jobs, ids, *routing)
        for each in slices:
            each.track.length += each.count
        firsts = accumulate(wanted, initial=0)
        return [Result(logits, first, count) for first, count in zip(firsts, wanted, strict=False)]

    def _thresholds(self, thresholds: Sequence[float], ids: Sequence[Sequence[int]]) -> Tensor | float:
        """One number where it can be, since the model runs 1.0 faster; else one a token [T]."""
        if len(set(thresholds)) == 1:
            return float(thresholds[0])
        each = torch.tensor([float(each) for each in thresholds], device=self._model.device)
        return each.repeat_interleave(torch.tensor([len(row) for row in ids], device=self._model.device))


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Makes a GPU the one that kernels are launched on, in whichever thread this is."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _ids(each: Slice) -> list[int]:
    track, job = each.track, each.track.owner
    if not track.reading:
        assert each.count == len(job.pending)
        return list(job.pending)
    ids: list[int] = track.ids[track.length : track.length + each.count].tolist()
    return ids


def _wanted(each: Slice) -> int:
    """How many of a slice's last rows make logits."""
    track, job = each.track, each.track.owner
    if track.reading and job.prompt_logprobs is not None:
        return each.count
    return int(not track.reading or track.length + each.count == len(track.ids))


def _trace(
    jobs: Sequence[Job],
    ids: Sequence[Sequence[int]],
    experts: NDArray[np.integer[Any]],
    weights: NDArray[np.floating[Any]],
) -> None:
    """Experts and weights [L, T, k] to whom they belong."""
    start = 0
    for job, row in zip(jobs, ids, strict=True):
        here = slice(start, start + len(row))
        if job.sequence.trace is not None:
            job.sequence.trace.add(experts[:, here], weights[:, here])
        start += len(row)
