"""The engine over a model: many requests share its time, what they read is kept, and none can harm another.

In: requests. Out: token events. Each step, the scheduler says who runs with how many tokens (scheduler.py), the model
runs them as one packed batch (runner.py), and the sampler chooses the next token of each (sampler.py); what was read
stays in the prefix cache for whoever asks next (prefix.py). A request that fails ends alone.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minimax_m1.engine.cache import Cache
from minimax_m1.engine.config import EngineConfig
from minimax_m1.engine.graph import DecodeGraphs
from minimax_m1.engine.holdings import Counts, Holdings
from minimax_m1.engine.pages import PageAllocator
from minimax_m1.engine.prefix import Ids, PrefixCache
from minimax_m1.engine.request import FinishReason, Request, TokenEvent, TokenLogprob
from minimax_m1.engine.routing import RoutingTrace
from minimax_m1.engine.runner import Job, Row, Runner
from minimax_m1.engine.sampler import Sampler, choose, prompt_logprobs
from minimax_m1.engine.scheduler import Scheduler, Track
from minimax_m1.engine.sequence import Sequence as Accepted
from minimax_m1.errors import MiniMaxError, RequestError, ServerBusy
from minimax_m1.model.decode import decodable
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM

_MOST_LOGITS = 2**24  # of one slice whose prompt wants log-probabilities: 64 MB


class ModelEngine:
    """Runs requests on one model; implements `Engine`.

    At most `max_num_seqs` requests hold a state, and at most `max_queue` more wait for one, by priority and then first
    come, first served. A request gives what it gives alone but for the last bits of float arithmetic. `max_model_len`
    None is the model's limit, or what there is room for.

    Raises:
        RequestError, ContextLengthExceeded, ServerBusy: at `submit`, for one request.
    """

    def __init__(
        self,
        model: MiniMaxM1ForCausalLM,
        *,
        eos_ids: Collection[int],
        max_model_len: int | None = None,
        config: EngineConfig | None = None,
    ) -> None:
        self._config = config = config or EngineConfig()
        self._model = model
        self._eos_ids = frozenset(eos_ids)
        self._cache, pages, self._max_model_len = Cache.fitting(model, config, max_model_len)
        self._pages = PageAllocator(pages, config.page_size)
        self._prefixes = PrefixCache(self._pages, config.checkpoint_bytes or self._cache.checkpoint_room)
        size = config.page_size
        self._graphs: DecodeGraphs | None = None
        if model.device.type == "cuda" and (size < 16 or size & (size - 1)):
            raise RequestError(f"page_size must be a power of two from 16 on a GPU, got {size}", param="page_size")
        if model.device.type == "cuda" and not config.enforce_eager and decodable(model):
            self._graphs = DecodeGraphs(model, self._cache, capture=True)
        self._runner = Runner(model, self._cache, self._graphs)
        self._scheduler = Scheduler(config, self._pages, self._prefixes, self._runner)
        self._open: dict[str, Job] = {}  # every request that has not ended
        self._arrivals = 0
        self._untold: list[TokenEvent] = []  # ends of cancelled requests

    @property
    def kernels(self) -> str:
        """What it runs on, such as "triton, CUDA graphs"."""
        return self._model.ops.name + (", CUDA graphs" if self._graphs is not None else "")

    @property
    def max_model_len(self) -> int:
        """Most tokens, input and output together, that one request may use."""
        return self._max_model_len

    @property
    def capacity(self) -> int:
        """How many more requests `submit` would take now."""
        return self._config.max_num_seqs + self._config.max_queue - len(self._open)

    @property
    def busy(self) -> bool:
        """True while any request waits or runs, or an event waits to be told."""
        return bool(self._open or self._untold)

    @property
    def holdings(self) -> Holdings:
        """What it holds now."""
        return Holdings(
            running=self._scheduler.running,
            waiting=self._scheduler.waiting,
            pages=len(self._pages),
            pages_free=self._pages.free,
            pages_available=self._pages.available,
            checkpoints=len(self._prefixes),
            checkpoint_bytes=self._prefixes.nbytes,
        )

    @property
    def counts(self) -> Counts:
        """What it has done since it was made, or since it last forgot."""
        return self._scheduler.counts

    def forget(self) -> None:
        """Gives up every cached prefix, and counts from nothing again."""
        self._prefixes.clear()
        self._scheduler.counts = Counts()

    def submit(self, request: Request) -> None:
        """Queues a request; raises RequestError where it can never be served, ServerBusy where it cannot wait."""
        if request.id in self._open:
            raise RequestError(f"a request with the id {request.id!r} is already running", param="id")
        if self.capacity < 1:
            raise ServerBusy(f"{len(self._open)} requests run or wait, the most this engine takes; try again later")
        config = self._model.config
        trace = None
        if request.routing or request.routed_experts:
            trace = RoutingTrace(
                layers=config.num_hidden_layers,
                experts=config.num_local_experts,
                keep_experts=request.routed_experts,
            )
        sequence = Accepted(
            request,
            vocab_size=config.vocab_size,
            max_model_len=self._max_model_len,
            eos_ids=self._eos_ids,
            trace=trace,
        )
        job = Job(
            sequence=sequence,
            track=self._track(request, sequence),
            sampler=Sampler(request.params, sequence.prompt, config.vocab_size),
        )
        job.track.owner = job
        if request.params.prompt_logprobs is not None:
            job.prompt_logprobs = [()]  # nothing predicts the first token
        self._open[request.id] = job
        self._scheduler.add(job.track)

    def _track(self, request: Request, sequence: Accepted) -> Track:
        """How a request may use what was read before, and where its prompt pauses."""
        params, ids, known = request.params, sequence.prompt, 0
        if request.past is not None:
            known = len(request.past.ids)
            if not np.array_equal(request.past.ids, ids[:known]):
                raise RequestError(f"the prompt does not begin with the {known} tokens of its past", param="prompt")
            if known == len(ids) and params.max_tokens > 0:
                raise RequestError(f"the prompt adds nothing to the {known} tokens of its past", param="prompt")
        # Someone who is to be told about every token of the prompt reads it all; and what goes to disk was read once.
        sees_all = params.prompt_logprobs is not None or request.routed_experts
        if sees_all and known > 0:
            raise RequestError(
                f"prompt_logprobs and routed_experts take a prompt that is read whole; {known} tokens of this one are "
                "its past",
                param="prompt",
            )
        # A past was read with all experts, so with another threshold it begins a prompt like no other.
        pure = self._config.enable_prefix_caching and (known == 0 or params.expert_threshold == 1)
        stops: list[int] = []
        if request.save is not None:
            every = request.save_every
            if every < 1:
                raise RequestError(f"save_every must be at least 1, got {every}", param="save_every")
            stops = list(range((known // every + 1) * every, len(ids), every))
        self._arrivals += 1
        return Track(
            ids=ids,
            priority=request.priority,
            arrival=self._arrivals,
            space=params.expert_threshold,
            reuse=(known, known if request.save is not None else len(ids)) if pure and not sees_all else None,
            keep=pure,
            stops=stops,
            most=max(1, _MOST_LOGITS // self._model.config.vocab_size) if params.prompt_logprobs is not None else None,
        )

    @torch.inference_mode()
    def cancel(self, request_id: str) -> None:
        """Ends a request at once and frees what it held; the next step tells ABORT. An unknown id is ignored."""
        job = self._open.get(request_id)
        if job is not None:
            self._untold.append(self._close(job, job.sequence.end(FinishReason.ABORT)))

    @torch.inference_mode()
    def step(self) -> list[TokenEvent]:
        """One token for every request whose reply is under way, and a stretch of the prompts that are still read."""
        events, self._untold = self._untold, []
        slices = self._scheduler.plan()
        answered, failed = self._runner.begun()
        told: list[tuple[Job, Row | None]] = [(job, None if row is None else (row[None], 0)) for job, row in answered]
        events += [self._fail(job, error) for job, error in failed]
        reading = [each.track.reading for each in slices]
        for each, was_reading, result in zip(slices, reading, self._runner.run(slices), strict=True):
            job: Job = each.track.owner
            try:
                if result.error is not None:
                    raise result.error
                if was_reading and not self._have_read(job, each.count, result.logits):
                    events.append(job.sequence.progress())
                    continue
            except Exception as error:  # the boundary: one request's own
                events.append(self._fail(job, error))
                continue
            told.append((job, result.last))
        return events + self._choose(told)

    def _have_read(self, job: Job, count: int, logits: Tensor | None) -> bool:
        """Takes note of a stretch of prompt that was run, keeping and saving it; True where the prompt is through."""
        track, sequence = job.track, job.sequence
        sequence.read = track.length
        if job.prompt_logprobs is not None:
            assert logits is not None and len(logits) == count
            ids = track.ids[track.length - count + 1 : track.length + 1].tolist()
            most = sequence.request.params.prompt_logprobs
            job.prompt_logprobs += prompt_logprobs(logits[: len(ids)], ids, most or 0)
        paused = bool(track.stops) and track.stops[0] == track.length
        if track.keep and (paused or not track.reading):
            self._keep(job, track.ids[: track.length], None if track.reading or logits is None else logits[-1])
        save = sequence.request.save
        if save is not None and (not track.reading or track.length % sequence.request.save_every == 0):
            save(self._cache.save(track, job.saved))
            job.saved = track.length
        return not track.reading

    def _choose(self, ready: Sequence[tuple[Job, Row | None]]) -> list[TokenEvent]:
        """The next token of each, and after it what its guide forces."""
        events: list[TokenEvent] = []
        asked: list[tuple[Job, Row, NDArray[np.bool_] | None]] = []
        for job, logits in ready:
            if job.sequence.limit == 0:
                events.append(self._close(job, job.sequence.end(FinishReason.LENGTH, prompt_logprobs=_told(job))))
                continue
            assert logits is not None
            try:
                guide = job.sequence.request.guide
                mask = None if guide is None else guide.mask()
                assert mask is None or mask.shape == logits[0].shape[1:], (mask.shape, logits[0].shape)
                asked.append((job, logits, mask))
            except Exception as error:  # a guide that is lost is one request's own
                events.append(self._fail(job, error))
        if not asked:
            return events
        choices = choose(
            _together([row for _, row, _ in asked], self._model.device),
            [job.sampler for job, _, _ in asked],
            [job.sequence.banned for job, _, _ in asked],
            [mask for _, _, mask in asked],
        )
        for (job, _, _), choice in zip(asked, choices, strict=True):
            job.pending.clear()
            try:
                if isinstance(choice, Exception):
                    raise choice
                prompt = _told(job)
                events.append(self._accept(job, choice.token, choice.logprob, choice.top, prompt))
                for token in self._forced(job, events[-1]):
                    events.append(self._accept(job, token, None))
                    if events[-1].finish is not None:
                        break
            except Exception as error:  # its logits, its stop rule or its guide
                events.append(self._fail(job, error))
                continue
            if events[-1].finish is not None:
                self._close(job, events[-1])
        return events

    def _accept(
        self,
        job: Job,
        token: int,
        logprob: float | None,
        top: tuple[TokenLogprob, ...] = (),
        prompt: list[tuple[TokenLogprob, ...]] | None = None,
    ) -> TokenEvent:
        job.sampler.accept(token)
        job.pending.append(token)
        job.track.pending = len(job.pending)
        return job.sequence.accept(token, logprob, top=top, prompt_logprobs=prompt)

    def _forced(self, job: Job, event: TokenEvent) -> Sequence[int]:
        """What the guide says must follow, where the caller does not want to know what the model thought of it."""
        request = job.sequence.request
        if event.finish is not None or request.guide is None or request.params.logprobs is not None:
            return ()
        return tuple(request.guide.forced())

    def _fail(self, job: Job, error: Exception) -> TokenEvent:
        """Ends a request that broke; what its caller is told is our own sentence, or what broke."""
        said = f"the engine failed on this request: {type(error).__name__}: {error}"
        sentence = str(error) if isinstance(error, MiniMaxError) else said
        return self._close(job, job.sequence.end(FinishReason.ABORT, sentence))

    def _close(self, job: Job, event: TokenEvent) -> TokenEvent:
        """Forgets a request that ended, and keeps what it read and said for whoever goes on from there."""
        track, prompt = job.track, job.sequence.prompt
        if event.finish is not FinishReason.ABORT and track.keep and track.slot >= 0 and track.length > len(prompt):
            made = np.array(job.sequence.made[: track.length - len(prompt)], prompt.dtype)
            self._keep(job, np.concatenate((prompt, made)), None)
        self._scheduler.remove(track)
        track.owner = None  # two that hold each other would stay until the next garbage collection
        del self._open[job.sequence.request.id]
        return event

    def _keep(self, job: Job, ids: Ids, logits: Tensor | None) -> None:
        """A checkpoint after `ids`, all that a track's state has seen."""
        checkpoint = self._runner.checkpoint(job.track, logits)
        if checkpoint is not None:
            self._scheduler.keep(job.track, ids, checkpoint)


def _together(rows: Sequence[Row], device: torch.device) -> Tensor:
    """Rows of logits as one tensor [N, V]: the one that they are of, as in a decode step, where that can be."""
    whole, _ = rows[0]
    if all(each is whole for each, _ in rows) and [at for _, at in rows] == list(range(len(whole))):
        return whole.to(device)
    return torch.stack([each[at].to(device) for each, at in rows])


def _told(job: Job) -> list[tuple[TokenLogprob, ...]] | None:
    """The prompt's log-probabilities, which go out with one event."""
    told, job.prompt_logprobs = job.prompt_logprobs, None
    return told
