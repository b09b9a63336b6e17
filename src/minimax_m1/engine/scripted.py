"""An engine without a model: it replays given ids through the same door.

In: a table or a function from prompt ids to reply ids. Out: the events that a model's engine would
send, a progress event a chunk of prompt and one token a request a step. For tests of what stands above.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from collections.abc import Sequence as Ids

import numpy as np

from minimax_m1.engine.request import FinishReason, Request, TokenEvent
from minimax_m1.engine.routing import RoutingTrace
from minimax_m1.engine.sequence import Sequence
from minimax_m1.errors import RequestError, ServerBusy


class ScriptedEngine:
    """Implements `Engine`; every token has the log-probability 0 and is read by expert 0 of 2, in one layer.

    A reply that ends without a stop id ends with STOP all the same. A prompt that the table lacks ends
    with ABORT and a sentence, and so does one for which the function raises.

    Raises:
        RequestError, ContextLengthExceeded, ServerBusy: at `submit`, as the real engine.
    """

    def __init__(
        self,
        replies: Mapping[tuple[int, ...], Ids[int]] | Callable[[Ids[int]], Ids[int]],
        *,
        vocab_size: int,
        eos_ids: Collection[int] = (),
        max_model_len: int = 4096,
        prefill_chunk: int = 2048,
        max_queue: int = 1024,
    ) -> None:
        self._replies = replies
        self._vocab_size = vocab_size
        self._eos_ids = eos_ids
        self._max_model_len = max_model_len
        self._prefill_chunk = prefill_chunk
        self._max_queue = max_queue
        self._open: dict[str, tuple[Sequence, list[int]]] = {}  # with what is left of the script
        self._untold: list[TokenEvent] = []

    @property
    def max_model_len(self) -> int:
        """Most tokens, input and output together, that one request may use."""
        return self._max_model_len

    @property
    def capacity(self) -> int:
        """How many more requests `submit` would take now."""
        return self._max_queue - len(self._open)

    @property
    def busy(self) -> bool:
        """True while any request runs, or an event waits to be told."""
        return bool(self._open or self._untold)

    def submit(self, request: Request) -> None:
        """Starts a request; raises RequestError where it can never be served."""
        if request.id in self._open:
            raise RequestError(f"a request with the id {request.id!r} is already running", param="id")
        if self.capacity < 1:
            raise ServerBusy(f"{len(self._open)} requests run, the most this engine takes; try again later")
        trace = None
        if request.routing or request.routed_experts:
            trace = RoutingTrace(layers=1, experts=2, keep_experts=request.routed_experts)
        sequence = Sequence(
            request,
            vocab_size=self._vocab_size,
            max_model_len=self._max_model_len,
            eos_ids=self._eos_ids,
            trace=trace,
        )
        try:
            prompt: list[int] = sequence.prompt.tolist()
            reply = self._replies(prompt) if callable(self._replies) else self._replies[tuple(prompt)]
        except Exception as error:  # a script may fail on purpose: that is a request's end, never the engine's
            self._untold.append(sequence.end(FinishReason.ABORT, f"the script failed: {error}"))
            return
        self._open[request.id] = sequence, list(reply)

    def cancel(self, request_id: str) -> None:
        """Ends a request; the next step tells ABORT. An unknown id is ignored."""
        if held := self._open.pop(request_id, None):
            self._untold.append(held[0].end(FinishReason.ABORT))

    def step(self) -> list[TokenEvent]:
        """A chunk or a token for every request."""
        events = [self._slice(sequence, script) for sequence, script in self._open.values()]
        for event in events:
            if event.finish is not None:
                del self._open[event.request_id]
        untold, self._untold = self._untold, []
        return untold + events

    def _slice(self, sequence: Sequence, script: list[int]) -> TokenEvent:
        run = len(sequence.take(self._prefill_chunk)) or 1
        if sequence.trace is not None:
            sequence.trace.add(np.zeros((1, run, 1), np.int64), np.ones((1, run, 1), np.float32))
        if sequence.prompt_left:
            return sequence.progress()
        if sequence.limit == 0:
            return sequence.end(FinishReason.LENGTH)
        if not script:
            return sequence.end(FinishReason.STOP)
        try:
            return sequence.accept(script.pop(0), 0.0, final=not script)
        except Exception as error:  # the stop rule's own failure, as in the real engine
            return sequence.end(FinishReason.ABORT, f"the stop rule failed: {error}")
