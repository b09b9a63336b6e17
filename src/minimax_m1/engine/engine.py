"""The engine over a model: many requests share its time, in slices.

In: requests. Out: token events. A request reads its prompt in chunks, the readers taking turns; then
it joins the cohort of those that make tokens, which run as one packed batch, one token each a step.
So a step costs one chunk and one token for everyone, and neither a long prompt nor a long answer
stands in the way of a short one. A request that fails ends alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minimax_m1.engine.request import FinishReason, Request, TokenEvent
from minimax_m1.engine.routing import RoutingTrace
from minimax_m1.engine.sampler import generator_of, sample
from minimax_m1.engine.sequence import Sequence
from minimax_m1.errors import MiniMaxError, RequestError, ServerBusy
from minimax_m1.model.batch import Batch
from minimax_m1.model.state import State

if TYPE_CHECKING:
    from minimax_m1.model.transformer import MiniMaxM1ForCausalLM


class _Reader:
    """A sequence that still reads its prompt, with its state and its own random numbers."""

    __slots__ = ("generator", "sequence", "state")

    def __init__(self, sequence: Sequence, state: State) -> None:
        self.sequence = sequence
        self.state = state
        self.generator = generator_of(sequence.request.params)


class _Cohort:
    """Sequences that make tokens together: they have one expert threshold, and one state with a row each."""

    __slots__ = ("generators", "sequences", "state")

    def __init__(self, sequences: list[Sequence], generators: list[torch.Generator], state: State) -> None:
        self.sequences = sequences
        self.generators = generators
        self.state = state

    def leave(self, rows: Collection[int]) -> None:
        """Drops rows and what they held."""
        if rows:
            self.gather([part for row, part in enumerate(self.split()) if row not in rows])

    def split(self) -> list[_Cohort]:
        """The same rows as cohorts of one."""
        return [
            _Cohort([sequence], [generator], self.state.row(row))
            for row, (sequence, generator) in enumerate(zip(self.sequences, self.generators, strict=True))
        ]

    def gather(self, parts: list[_Cohort]) -> None:
        """Becomes the rows of `parts`, in order; without any it is empty, and its state holds nothing of use."""
        if parts:
            self.state = State.concat([part.state for part in parts])
        self.sequences = [sequence for part in parts for sequence in part.sequences]
        self.generators = [generator for part in parts for generator in part.generators]


class ModelEngine:
    """Runs requests on one model; implements `Engine`.

    At most `max_running` requests hold a state, and at most `max_queue` more wait for one, first come,
    first served. `prefill_chunk` is the most prompt tokens a step reads, over all requests. A row of a
    cohort equals the same row alone but for the last bits of float arithmetic.

    Raises:
        RequestError, ContextLengthExceeded, ServerBusy: at `submit`, for one request.
    """

    def __init__(
        self,
        model: MiniMaxM1ForCausalLM,
        *,
        eos_ids: Collection[int],
        max_model_len: int,
        prefill_chunk: int = 2048,
        max_running: int = 32,
        max_queue: int = 1024,
    ) -> None:
        if not 1 < max_model_len <= model.config.max_position_embeddings:
            raise RequestError(
                f"max_model_len must be between 2 and the model's {model.config.max_position_embeddings}, "
                f"got {max_model_len}",
                param="max_model_len",
            )
        assert prefill_chunk > 0 and max_running > 0 and max_queue >= 0
        self._model = model
        self._eos_ids = frozenset(eos_ids)
        self._max_model_len = max_model_len
        self._prefill_chunk = prefill_chunk
        self._max_running = max_running
        self._max_queue = max_queue
        self._open: dict[str, Sequence] = {}  # every request that has not ended
        self._waiting: deque[Sequence] = deque()
        self._readers: deque[_Reader] = deque()
        self._cohorts: dict[float, _Cohort] = {}  # by expert threshold
        self._untold: list[TokenEvent] = []  # ends of cancelled requests

    @property
    def max_model_len(self) -> int:
        """Most tokens, input and output together, that one request may use."""
        return self._max_model_len

    @property
    def capacity(self) -> int:
        """How many more requests `submit` would take now."""
        return self._max_running + self._max_queue - len(self._open)

    @property
    def busy(self) -> bool:
        """True while any request waits or runs, or an event waits to be told."""
        return bool(self._open or self._untold)

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
        sequence = Sequence(
            request,
            vocab_size=config.vocab_size,
            max_model_len=self._max_model_len,
            eos_ids=self._eos_ids,
            trace=trace,
        )
        self._open[request.id] = sequence
        self._waiting.append(sequence)

    @torch.inference_mode()
    def cancel(self, request_id: str) -> None:
        """Ends a request at once and frees what it held; the next step tells ABORT. An unknown id is ignored."""
        sequence = self._open.pop(request_id, None)
        if sequence is None:
            return
        self._waiting = deque(each for each in self._waiting if each is not sequence)
        self._readers = deque(reader for reader in self._readers if reader.sequence is not sequence)
        cohort = self._cohorts.get(sequence.request.params.expert_threshold)
        if cohort is not None and sequence in cohort.sequences:
            cohort.leave({cohort.sequences.index(sequence)})
            self._sweep()
        self._untold.append(sequence.end(FinishReason.ABORT))

    @torch.inference_mode()
    def step(self) -> list[TokenEvent]:
        """One token for every request that makes tokens, then one chunk for those that read."""
        events = [event for cohort in self._cohorts.values() for event in self._decode(cohort)]
        self._sweep()
        while self._waiting and len(self._open) - len(self._waiting) < self._max_running:
            self._readers.append(_Reader(self._waiting.popleft(), self._model.empty_state(1)))
        events += self._prefill()
        for event in events:
            if event.finish is not None:
                del self._open[event.request_id]
        untold, self._untold = self._untold, []
        return untold + events

    def _sweep(self) -> None:
        """Lets go of cohorts without rows, and so of their states."""
        self._cohorts = {threshold: cohort for threshold, cohort in self._cohorts.items() if cohort.sequences}

    def _prefill(self) -> Iterator[TokenEvent]:
        """One chunk of one long prompt, or several short prompts that fit in one chunk together."""
        budget = self._prefill_chunk
        # A slice is run whole or not now: where a prompt is cut must not depend on who else is here.
        while self._readers and min(self._readers[0].sequence.prompt_left, self._prefill_chunk) <= budget:
            reader = self._readers.popleft()
            budget -= min(reader.sequence.prompt_left, self._prefill_chunk)
            try:
                yield self._read(reader)
            except Exception as error:  # the boundary: a request that fails ends, the others go on
                yield reader.sequence.end(FinishReason.ABORT, _sentence(error))

    def _read(self, reader: _Reader) -> TokenEvent:
        sequence, threshold = reader.sequence, reader.sequence.request.params.expert_threshold
        ids = sequence.take(self._prefill_chunk)
        batch = Batch.of([ids], reader.state, self._model.device)
        out = self._model.run(
            batch, reader.state, expert_threshold=threshold, logits="none" if sequence.prompt_left else "last"
        )
        reader.state = out.state
        if sequence.trace is not None:
            sequence.trace.add(out.routing.experts.cpu().numpy(), out.routing.weights.cpu().numpy())
        if out.logits is None:
            self._readers.append(reader)  # to the back: the readers take turns
            return sequence.progress()
        event = _choose(sequence, out.logits[0], reader.generator)
        if event.finish is None:
            joined = _Cohort([sequence], [reader.generator], reader.state)
            cohort = self._cohorts.setdefault(threshold, joined)
            if cohort is not joined:
                cohort.gather([cohort, joined])
        return event

    def _decode(self, cohort: _Cohort) -> list[TokenEvent]:
        """One token for each row. A batch fails as one, whoever is at fault, so then its rows run alone."""
        try:
            return self._advance(cohort)
        except Exception as error:  # the same boundary, for those that make tokens
            if len(cohort.sequences) == 1:
                ended = cohort.sequences[0].end(FinishReason.ABORT, _sentence(error))
                cohort.leave({0})
                return [ended]
        rows = cohort.split()
        events = [event for row in rows for event in self._decode(row)]
        cohort.gather([row for row in rows if row.sequences])
        return events

    def _advance(self, cohort: _Cohort) -> list[TokenEvent]:
        """Runs the newest token of each row and chooses the next; rows that end leave."""
        threshold = cohort.sequences[0].request.params.expert_threshold
        batch = Batch.of([[sequence.last] for sequence in cohort.sequences], cohort.state, self._model.device)
        out = self._model.run(batch, cohort.state, expert_threshold=threshold, logits="last")
        assert out.logits is not None
        logits = out.logits.cpu()  # [N, V]; everything that may fail for all rows together is above this line
        cohort.state = out.state
        if any(sequence.trace is not None for sequence in cohort.sequences):
            experts, weights = out.routing.experts.cpu().numpy(), out.routing.weights.cpu().numpy()  # [L, N, k]
            for row, sequence in enumerate(cohort.sequences):
                if sequence.trace is not None:
                    sequence.trace.add(experts[:, row : row + 1], weights[:, row : row + 1])
        events = []
        for row, (sequence, generator) in enumerate(zip(cohort.sequences, cohort.generators, strict=True)):
            try:
                events.append(_choose(sequence, logits[row], generator))
            except Exception as error:  # its logits or its stop rule: one request's own
                events.append(sequence.end(FinishReason.ABORT, _sentence(error)))
        cohort.leave({row for row, event in enumerate(events) if event.finish is not None})
        return events


def _choose(sequence: Sequence, logits: Tensor, generator: torch.Generator) -> TokenEvent:
    return sequence.accept(*sample(logits, sequence.request.params, generator, sequence.banned))


def _sentence(error: Exception) -> str:
    """What the caller is told: our own sentence, or what broke."""
    return str(error) if isinstance(error, MiniMaxError) else f"the model failed: {type(error).__name__}: {error}"
