"""A model small enough to check by hand, with the surface that the engine uses, and an engine over it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from minimax_m1.engine.config import EngineConfig
from minimax_m1.engine.engine import ModelEngine
from minimax_m1.engine.request import Request, SamplingParams, TokenEvent
from minimax_m1.engine.snapshot import Snapshot
from minimax_m1.model.batch import Batch
from minimax_m1.model.state import GrownKeyValues, State

VOCAB = 50
BROKEN, NOT_A_NUMBER = 48, 49  # ids that make a run raise, and that make the next logits NaN


class CountingModel:
    """It remembers a number, s <- (31 s + id, + 5 with few experts) mod 997, and each token as a key and a value.

    The best next id is s plus a sum over all keys and values, each weighed by its place, mod 48. Whoever batches,
    splits, pages, copies or reuses wrongly gets other ids than `CountingModel.reply`.
    """

    def __init__(self) -> None:
        self.config = SimpleNamespace(
            vocab_size=VOCAB, num_hidden_layers=3, num_local_experts=4, max_position_embeddings=4096
        )
        self.device = torch.device("cpu")
        self.runs: list[list[int]] = []  # lengths of the segments of each run

    @staticmethod
    def reply(prompt: Sequence[int], tokens: int, few_experts: bool = False) -> list[int]:
        """What a greedy request gets, computed without an engine."""
        number, total, made = 0, 0, []
        for place in range(len(prompt) + tokens):
            if place >= len(prompt):
                made.append((number + total) % 48)
            token = prompt[place] if place < len(prompt) else made[-1]
            number = (31 * number + token + 5 * few_experts) % 997
            total += (token + 1) * (3 * place % 101 + 1) + (7 * token + place) % 97 * (5 * place % 89 + 1)
        return made

    def empty_state(self, n: int) -> State:
        empty = GrownKeyValues.empty(n, 1, 1, self.device, torch.float32)
        return State(lengths=(0,) * n, lightning=(torch.zeros(n, 1, 1, 1),), softmax=(empty,))

    def run(
        self,
        batch: Batch,
        state: State,
        *,
        expert_threshold: Tensor | float = 1.0,
        logits: Sequence[int],
        route_all: bool = False,
    ) -> SimpleNamespace:
        ids, lengths = batch.ids, list(batch.segments.lengths)
        self.runs.append(lengths)
        if BROKEN in ids.tolist():
            raise ValueError("a broken id")
        new = state.softmax[0].append(
            (ids + 1).view(-1, 1, 1).float(), ((7 * ids + batch.positions) % 97).view(-1, 1, 1).float(), batch.segments
        )
        # Two experts a token, or one below a threshold of 0.7, which comes as one number or one a token.
        full = (torch.as_tensor(expert_threshold).expand(len(ids)) > 0.7).tolist()
        numbers, rows, start = [], [], 0
        for n, (length, count) in enumerate(zip(lengths, logits, strict=True)):
            number, seen = int(state.lightning[0][n]), []
            for token, two in zip(ids[start : start + length].tolist(), full[start : start + length], strict=True):
                number = (31 * number + token + (0 if two else 5)) % 997
                seen.append(number)
            numbers.append(number)
            keys, values = new.keys[n].flatten().long(), new.values[n].flatten().long()
            place = torch.arange(len(keys))
            total = (keys * (3 * place % 101 + 1) + values * (5 * place % 89 + 1)).cumsum(0)[-length:]
            for token, best in list(zip(ids[start : start + length].tolist(), torch.tensor(seen) + total, strict=True))[
                length - count :
            ]:
                row = -((torch.arange(VOCAB) - best % 48) % VOCAB).float()
                rows.append(row * torch.nan if token == NOT_A_NUMBER else row)
            start += length
        experts = torch.tensor(
            [[token % 4, (token + 1) % 4 if two else -1] for token, two in zip(ids.tolist(), full, strict=True)]
        )
        weights = torch.tensor([[0.7, 0.3] if two else [1.0, 0.0] for two in full])
        return SimpleNamespace(
            logits=torch.stack(rows) if rows else None,
            state=State(
                lengths=tuple(old + more for old, more in zip(state.lengths, lengths, strict=True)),
                lightning=(torch.tensor(numbers).view(-1, 1, 1, 1).float(),),
                softmax=(new,),
            ),
            routing=SimpleNamespace(experts=experts.expand(3, -1, -1), weights=weights.expand(3, -1, -1)),
        )


class Past:
    """What snapshots hold, as a past: the door that contexts on disk come in by."""

    def __init__(self, ids: Sequence[int], snapshots: Sequence[Snapshot]) -> None:
        self.ids = np.array(ids, np.int32)
        self.snapshots = snapshots
        self.loads = 0
        self.error: Exception | None = None

    def load(self, put: Callable[[int, Sequence[Tensor]], None]) -> Sequence[Tensor]:
        self.loads += 1
        for snapshot in self.snapshots:
            put(snapshot.start, snapshot.keys_values)
            if self.error is not None:
                raise self.error
        return self.snapshots[-1].lightning


class Bench:
    """An engine over a model that counts, and what it has said so far."""

    def __init__(self, *, eos_ids: Sequence[int] = (), max_model_len: int | None = 200, **config: Any) -> None:
        self.model = CountingModel()
        small = {"max_num_batched_tokens": 8, "prefill_tokens": 8, "page_size": 4}
        self.engine = ModelEngine(
            cast(Any, self.model),
            eos_ids=eos_ids,
            max_model_len=max_model_len,
            config=EngineConfig(**{**small, **config}),
        )
        self.events: dict[str, list[TokenEvent]] = defaultdict(list)

    def ask(self, id: str, prompt: Iterable[int], tokens: int = 5, **changes: Any) -> None:
        """Submits a greedy request; `changes` are fields of the request or of its parameters."""
        mine = {field.name for field in fields(Request)} & changes.keys()
        params = {"temperature": 0.0, "max_tokens": tokens, **{k: v for k, v in changes.items() if k not in mine}}
        request = {k: changes[k] for k in mine}
        self.engine.submit(Request(id=id, prompt=list(prompt), params=SamplingParams(**params), **request))

    def step(self) -> list[TokenEvent]:
        told = self.engine.step()
        for event in told:
            self.events[event.request_id].append(event)
        return told

    def drain(self, most: int = 2000) -> dict[str, list[TokenEvent]]:
        """Steps until nobody is left; gives each request's events, all of them."""
        for _ in range(most):
            if not self.engine.busy:
                return self.events
            self.step()
        raise AssertionError("the engine does not come to rest")

    def ids(self, id: str) -> list[int]:
        return [event.token_id for event in self.events[id] if event.token_id is not None]

    def end(self, id: str) -> TokenEvent:
        """The one event that ends a request."""
        (end,) = [event for event in self.events[id] if event.finish is not None]
        assert end is self.events[id][-1]
        return end

    def read(self) -> int:
        """Tokens that the model has run."""
        return sum(map(sum, self.model.runs))

    def at_rest(self) -> None:
        """Nothing is held but what is cached, and that can be given up."""
        held = self.engine.holdings
        assert (held.running, held.waiting) == (0, 0) and not self.engine.busy
        self.engine.forget()
        assert self.engine.holdings == replace(held, pages_free=held.pages, checkpoints=0, checkpoint_bytes=0), (
            "a page is lost"
        )

    def past(self, ids: Sequence[int], every: int = 7) -> Past:
        """What somebody saved who read these ids."""
        other, snapshots = Bench(), list[Snapshot]()
        other.ask("save", ids, 0, save=snapshots.append, save_every=every)
        other.drain()
        return Past(ids, snapshots)


@pytest.fixture(scope="session")
def bench() -> type[Bench]:
    """Makes a fresh engine over a fresh model."""
    return Bench


@pytest.fixture(scope="session")
def reply() -> Callable[..., list[int]]:
    """What the model that counts says when nobody interferes."""
    return CountingModel.reply
