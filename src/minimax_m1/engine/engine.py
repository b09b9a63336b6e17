"""The engine over a model: many requests share its time, in slices.

In: requests. Out: token events. A request reads its prompt in chunks, the readers taking turns; then
it joins the cohort of those that make tokens, which run as one packed batch, one token each a step.
So a step costs one chunk and one token for everyone, and neither a long prompt nor a long answer
stands in the way of a short one. A request that fails ends alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from minimax_m1.engine.request import FinishReason, Request, TokenEvent
from minimax_m1.engine.routing import RoutingTrace
from minimax_m1.engine.sampler import generator_of, sample
from minimax_m1.engine.sequence import Sequence
from minimax_m1.errors import MiniMaxError, RequestError, ServerBusy
from minimax_m1.model.batch import Batch
from minimax_m1.model.state import State
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM


class _Reader:
    """A sequence that still reads its prompt, with its state and its own random numbers."""

    __slots__ = ("generator", "sequence", "state")

    def __init__(self, sequence: Sequence, state: State) -> None:
        self.sequence = sequence
        self.state = state
        self.generator = generator_of(sequence.request.params)


class _Cohort:
    """Sequences that make tokens together, on one state with a row each."""

    __slots__ = ("generators", "sequences", "state")

    def __init__(self, sequences: list[Sequence], generators: list[torch.Generator], state: State) -> None:
        assert len(sequences) == len(generators) == len(state)
        self.sequences = sequences
        self.generators = generators
        self.state = state

    def rows(self) -> list[_Cohort]:
        """The same rows as cohorts of one."""
        return [
            _Cohort([sequence], [generator], self.state.row(row))
            for row, (sequence, generator) in enumerate(zip(self.sequences, self.generators, strict=True))
        ]

    def become(self, parts: list[_Cohort]) -> None:
        """Holds the rows of `parts` and nothing else, in their order; at least one part, perhaps without rows."""
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
        self._empty = _Cohort([], [], model.empty_state(0))
        self._cohort = _Cohort([], [], model.empty_state(0))
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
        self._keep([row for row in self._cohort.rows() if row.sequences != [sequence]])
        self._untold.append(sequence.end(FinishReason.ABORT))

    @torch.inference_mode()
    def step(self) -> list[TokenEvent]:
        """One token for every request that makes tokens, then one chunk for those that read."""
        events = self._decode()
        while self._waiting and len(self._open) - len(self._waiting) < self._max_running:
            self._readers.append(_Reader(self._waiting.popleft(), self._model.empty_state(1)))
        events += self._prefill()
        for event in events:
            if event.finish is not None:
                del self._open[event.request_id]
        untold, self._untold = self._untold, []
        return untold + events

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
        sequence = reader.sequence
        ids = sequence.take(self._prefill_chunk)
        out = self._model.run(
            Batch.of([ids], reader.state, self._model.device),
            reader.state,
            expert_threshold=float(sequence.request.params.expert_threshold),
            logits="none" if sequence.prompt_left else "last",
            route_all=sequence.routes_all,
        )
        reader.state = out.state
        if sequence.trace is not None:
            sequence.trace.add(out.routing.experts.cpu().numpy(), out.routing.weights.cpu().numpy())
        if out.logits is None:
            self._readers.append(reader)  # to the back: the readers take turns
            return sequence.progress()
        event = _choose(sequence, out.logits[0], reader.generator)
        if event.finish is None:
            self._keep([self._cohort, _Cohort([sequence], [reader.generator], reader.state)])
        return event

    def _decode(self) -> list[TokenEvent]:
        """One token for each row. A batch fails as one, whoever is at fault, so then its rows run alone."""
        cohort = self._cohort
        if not cohort.sequences:
            return []
        try:
            events = self._advance(cohort)
        except Exception:
            rows, events = cohort.rows(), []
            for row in rows:
                try:
                    events += self._advance(row)
                except Exception as error:  # the same boundary as for readers
                    events.append(row.sequences[0].end(FinishReason.ABORT, _sentence(error)))
            cohort.become(rows)
        if any(event.finish is not None for event in events):
            self._keep([row for row, event in zip(cohort.rows(), events, strict=True) if event.finish is None])
        return events

    def _advance(self, cohort: _Cohort) -> list[TokenEvent]:
        """Runs the newest token of each row and chooses the next; the cohort's state moves on."""
        thresholds = [float(sequence.request.params.expert_threshold) for sequence in cohort.sequences]
        mixed = len(set(thresholds)) > 1  # one number where it can be: the model runs 1.0 faster
        out = self._model.run(
            Batch.of([[sequence.last] for sequence in cohort.sequences], cohort.state, self._model.device),
            cohort.state,
            expert_threshold=torch.tensor(thresholds, device=self._model.device) if mixed else thresholds[0],  # [N]
            logits="last",
        )
        assert out.logits is not None
        logits = out.logits.cpu()  # [N, V]; what may fail for all rows together is above this line
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
        return events

    def _keep(self, parts: list[_Cohort]) -> None:
        """These rows, and nobody else, make tokens from now on."""
        self._cohort.become(parts or [self._empty])


def _choose(sequence: Sequence, logits: Tensor, generator: torch.Generator) -> TokenEvent:
    return sequence.accept(*sample(logits, sequence.request.params, generator, sequence.banned))


def _sentence(error: Exception) -> str:
    """What the caller is told: our own sentence, or what broke."""
    return (
        str(error)
        if isinstance(error, MiniMaxError)
        else f"the engine failed on this request: {type(error).__name__}: {error}"
    )
