"""`Scheduler`: who runs in the next step, with how many tokens, and who holds which slot and pages. No torch.

In: `Track`s, one a request. Out: a plan, a few `Slice`s that run as one packed batch: first everyone whose reply is
under way, so that no stream waits, then prompts within what is left of a budget of tokens, taking turns. When pages
run out, cached prefixes go first; then whoever came last, least urgent first, is parked: what it holds is copied
aside, nothing is lost, and it returns when there is room.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Protocol

from minimax_m1.engine.config import EngineConfig
from minimax_m1.engine.holdings import Counts
from minimax_m1.engine.pages import PageAllocator
from minimax_m1.engine.prefix import Checkpoint, Ids, Match, PrefixCache, common

_WORTH_A_CHECKPOINT = 32  # tokens that the next prompt with the same beginning would save
_WORTH_WAITING = 256  # tokens that somebody else is about to have read
_LEAST_SLICE = 32  # tokens of a prompt; fewer are not worth the batch they come in


@dataclass(slots=True, eq=False, kw_only=True)
class Track:
    """One request as the scheduler sees it: how far it has come, and what it holds.

    `reuse` says between how many tokens what was read before may stand for the beginning of the prompt, `keep`
    whether it leaves checkpoints. `stops`, sorted, are places in the prompt where reading pauses, for a checkpoint or
    to be saved. `owner` is the engine's.
    """

    ids: Ids
    owner: Any = None
    priority: int = 0
    arrival: int = 0
    space: Hashable = 1.0
    reuse: tuple[int, int] | None = None
    keep: bool = False
    most: int | None = None  # tokens of its prompt in one slice
    stops: list[int] = field(default_factory=list)
    pending: int = 0  # tokens of the reply that the model has not read yet
    length: int = 0  # tokens that its state has seen
    cached: int = 0  # tokens of the prompt that were not read again
    slot: int = -1
    pages: list[int] = field(default_factory=list)
    parked: bool = False
    leader: tuple[Track, int] | None = None  # somebody who reads the same, and how far it is the same

    @property
    def reading(self) -> bool:
        """True until the whole prompt has been read."""
        return self.length < len(self.ids)

    def pause_at(self, place: int) -> None:
        """Makes reading pause after `place` tokens of the prompt."""
        if place not in self.stops:
            bisect.insort(self.stops, place)


@dataclass(frozen=True, slots=True)
class Slice:
    """The next `count` tokens of a track."""

    track: Track
    count: int


class Memory(Protocol):
    """What holds the tensors behind slots and pages."""

    def begin(self, track: Track, checkpoint: Checkpoint | None, copy: tuple[int, int] | None) -> bool:
        """Sets a slot up, from a checkpoint or empty, and copies a half-filled page. False ends the track.

        A track whose `length` is then beyond the checkpoint had the rest from elsewhere.
        """
        ...

    def checkpoint(self, track: Track) -> Checkpoint | None:
        """What a slot holds, copied aside; None where it is not worth keeping."""
        ...

    def park(self, track: Track) -> None:
        """Copies aside what the slot and the pages hold; they are taken away next."""
        ...

    def restore(self, track: Track) -> None:
        """Copies it back into the slot and pages that the track now has."""
        ...


class Scheduler:
    """Owns the slots; shares the pages with the prefix cache. Any track must fit in the pages alone.

    `clock` gives seconds; `counts` says what was done with it all.
    """

    def __init__(
        self,
        config: EngineConfig,
        pages: PageAllocator,
        prefixes: PrefixCache,
        memory: Memory,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.counts = Counts()
        self._clock = clock
        self._config = config
        self._pages = pages
        self._prefixes = prefixes
        self._memory = memory
        self._slots = list(range(config.max_num_seqs - 1, -1, -1))  # the lowest last, so that it is taken first
        self._waiting: list[Track] = []  # by rank
        self._readers: list[Track] = []  # whose turn it is first
        self._writers: list[Track] = []

    @property
    def running(self) -> int:
        """Tracks that hold a slot."""
        return len(self._readers) + len(self._writers)

    @property
    def waiting(self) -> int:
        """Tracks that hold none: they came too late, or were parked."""
        return len(self._waiting)

    def add(self, track: Track) -> None:
        """Queues a track."""
        assert 0 < self._pages.covering(len(track.ids)) <= len(self._pages)
        bisect.insort(self._waiting, track, key=_rank)

    def remove(self, track: Track) -> None:
        """Ends a track at once, wherever it stands, and frees what it held."""
        for tracks in (self._waiting, self._readers, self._writers):
            if track in tracks:
                tracks.remove(track)
        self._release(track)

    def plan(self) -> list[Slice]:
        """The slices of the next step, replies first; their pages are there. Empty only where nobody can run."""
        self._writers += [track for track in self._readers if not track.reading]
        self._readers = [track for track in self._readers if track.reading]
        for track in sorted(self._writers, key=_rank):
            if track.slot >= 0:  # not parked for the sake of one before it
                self._grow(track)
        self._admit()
        slices = [Slice(track, track.pending) for track in sorted(self._writers, key=lambda each: each.slot)]
        if not slices:
            return self._read(self._config.prefill_tokens)
        left = self._config.max_num_batched_tokens - sum(each.count for each in slices)
        return slices + self._read(max(left, 1))  # at least one token, or nobody new would ever be read

    def keep(self, track: Track, ids: Ids, checkpoint: Checkpoint) -> None:
        """Keeps a checkpoint of a track after `ids`, all that its state has seen."""
        assert len(ids) == track.length
        self._prefixes.insert(ids, track.space, track.pages, checkpoint)

    def _read(self, budget: int) -> list[Slice]:
        """Stretches of prompts; of equally urgent readers those first who waited longest."""
        slices: list[Slice] = []
        for track in sorted(self._readers, key=lambda each: each.priority):
            if not track.reading:
                continue  # it has its first token to choose, and writes from the next step on
            while track.stops and track.stops[0] <= track.length:
                del track.stops[0]
            left = (track.stops[0] if track.stops else len(track.ids)) - track.length
            count = min(left, budget, track.most or left)
            if slices and count < min(left, _LEAST_SLICE):
                break
            slices.append(Slice(track, count))
            self._readers.remove(track)
            self._readers.append(track)
            budget -= count
        return slices

    def _admit(self) -> None:
        """Lets tracks in by rank, while there is room; whoever does not fit yet is not overtaken."""
        for track in tuple(self._waiting):
            if not self._slots and not self._lesser(track):
                return
            if track.parked:
                if not self._let_in(track, 0):
                    return
                self._memory.restore(track)
                track.parked = False
                (self._readers if track.reading else self._writers).append(track)
                continue
            if self._follows(track):
                continue
            match = _NOTHING
            if track.reuse is not None:
                match = self._prefixes.match(track.ids, track.space, *track.reuse)
                if self._somebody_reads_it(track, match.length):
                    continue
            # A match takes one page more, to copy a half-filled one: that may be the one that nobody will ever free.
            if not self._enter(track, match) and (self.running or not self._enter(track, _NOTHING)):
                return
            if track.slot >= 0:
                self.counts.replayed += max(match.known - track.length, 0)

    def _enter(self, track: Track, match: Match) -> bool:
        """Lets a new track in behind what was read before; False where there is no room yet."""
        size = self._pages.size
        shared, half = list(match.pages[: match.length // size]), list(match.pages[match.length // size :])
        held = shared + half
        self._pages.share(held)  # so that making room does not take them
        try:
            track.pages = shared
            if not self._let_in(track, len(shared)):
                track.pages = []
                return False
            self._pages.share(shared)
            track.length = track.cached = match.length
            copy = (half[0], track.pages[len(shared)]) if half else None
            since = self._clock()
            if not self._memory.begin(track, match.checkpoint, copy):
                self._release(track)
                return True
            self._count(track, match, self._clock() - since)
        finally:
            self._pages.drop(held)
        if track.keep:
            if track.length > match.length and (checkpoint := self._memory.checkpoint(track)) is not None:
                self.keep(track, track.ids[: track.length], checkpoint)  # whoever comes next shares these pages
            every = self._config.checkpoint_every
            places = set(range((track.length // every + 1) * every, len(track.ids), every))
            if match.known - track.length >= _WORTH_A_CHECKPOINT and match.known < len(track.ids):
                places.add(match.known)  # where this prompt leaves one that was read before
            track.stops = sorted(places.union(track.stops))
        self._readers.append(track)
        return True

    def _count(self, track: Track, match: Match, seconds: float) -> None:
        """Takes note of how a track begins; it took so many seconds to set it up."""
        counts = self.counts
        if track.reuse is not None:
            counts.queried += len(track.ids)
            counts.cached += match.length
            counts.hits += match.length > 0
            counts.misses += match.length == 0
        if track.length > match.length:  # nothing shorter than its past was taken from memory
            counts.loads += 1
            counts.loaded += track.length
            counts.load_seconds += seconds

    def _let_in(self, track: Track, shared: int) -> bool:
        """Gives a waiting track a slot and the pages it still needs, taking them from less urgent ones if it must."""
        need = self._pages.covering(max(len(track.ids), track.length + track.pending)) - shared
        lesser = self._lesser(track)
        if need > self._pages.available + sum(len(each.pages) for each in lesser):
            return False  # nobody is parked in vain
        while not (self._slots and self._room(need)):
            if not lesser:
                return False
            self._park(lesser.pop())
        self._waiting.remove(track)
        track.leader = None
        track.slot = self._slots.pop()
        track.pages = track.pages + self._pages.take(need, after=track.pages[-1] if track.pages else -1)
        return True

    def _grow(self, track: Track) -> None:
        """Makes sure that a writer has pages for its pending tokens, or parks it."""
        need = self._pages.covering(track.length + track.pending) - len(track.pages)
        while need > 0 and not self._room(need):
            victim = max((*self._readers, *self._writers), key=_rank)
            self._park(victim)
            if victim is track:
                return
        if need > 0:
            track.pages += self._pages.take(need, after=track.pages[-1])

    def _room(self, count: int) -> bool:
        """Whether so many pages are free, or were cached and now are; nothing cached is given up in vain."""
        if self._pages.available < count:
            return False
        self._prefixes.reclaim(count)
        return True

    def _lesser(self, track: Track) -> list[Track]:
        """Those who run and are less urgent, the least urgent and latest of them last."""
        return sorted((each for each in (*self._readers, *self._writers) if each.priority > track.priority), key=_rank)

    def _park(self, track: Track) -> None:
        self.counts.preemptions += 1
        self._memory.park(track)
        (self._readers if track in self._readers else self._writers).remove(track)
        self._release(track)
        track.parked = True
        bisect.insort(self._waiting, track, key=_rank)

    def _release(self, track: Track) -> None:
        self._pages.drop(track.pages)
        track.pages = []
        if track.slot >= 0:
            bisect.insort(self._slots, track.slot, key=lambda slot: -slot)
            track.slot = -1

    def _follows(self, track: Track) -> bool:
        """Whether a track waits for a reader; one that is gone too early leads nobody any more."""
        if track.leader is None:
            return False
        reader, same = track.leader
        if reader.length < same and reader.slot < 0:
            track.leader = None
        return reader.length < same and reader.slot >= 0

    def _somebody_reads_it(self, track: Track, length: int) -> bool:
        """Whether another reader is about to have read much of this prompt: then it is better to wait for that.

        The reader pauses where the two part, so that there is a checkpoint to begin behind. Nobody waits twice where
        the first wait was not in vain, nor for somebody less urgent.
        """
        if track.leader is not None or track.reuse is None or track.reuse[1] < len(track.ids):
            return False
        for reader in self._readers:
            if not (reader.keep and reader.reading) or reader.space != track.space or reader.priority > track.priority:
                continue
            same = common(reader.ids, track.ids)
            if same < len(reader.ids) or same < len(track.ids):
                same = min(same, len(track.ids) - 1)
            known = max(length, track.reuse[0], reader.length)
            if same - known >= _WORTH_WAITING or same == len(track.ids):
                reader.pause_at(same)
                track.leader = reader, same
                return True
        return False


def _rank(track: Track) -> tuple[int, int]:
    """Who goes first: urgency, then arrival."""
    return track.priority, track.arrival


_NOTHING: Any = Match(checkpoint=None, length=0, pages=(), known=0)
