"""A model small enough to check by hand, with the surface that the engine uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from minimax_m1.model.batch import Batch
from minimax_m1.model.state import State

VOCAB = 50
BROKEN, NOT_A_NUMBER = 48, 49  # ids that make a run raise, and that make the next logits NaN


class CountingModel:
    """Its state is one number a sequence, s <- (31 s + id) mod 997; the best next id is s mod 48.

    Whoever batches, splits or reuses states wrongly gets other ids than `CountingModel.reply`.
    """

    def __init__(self) -> None:
        self.config = SimpleNamespace(
            vocab_size=VOCAB, num_hidden_layers=3, num_local_experts=4, max_position_embeddings=4096
        )
        self.device = torch.device("cpu")
        self.runs: list[list[int]] = []  # lengths of the segments of each run

    @staticmethod
    def reply(prompt: Sequence[int], tokens: int) -> list[int]:
        """What a greedy request gets, computed without an engine."""
        number, ids = 0, list(prompt)
        for token in ids:
            number = (31 * number + token) % 997
        made: list[int] = []
        while len(made) < tokens:
            made.append(number % 48)
            number = (31 * number + made[-1]) % 997
        return made

    def empty_state(self, n: int) -> State:
        return State(lengths=(0,) * n, lightning=(torch.zeros(n, 1, 1, 1),), softmax=())

    def run(
        self,
        batch: Batch,
        state: State,
        *,
        expert_threshold: torch.Tensor | float = 1.0,
        logits: str = "last",
        route_all: bool = False,
    ) -> SimpleNamespace:
        ids = batch.ids.tolist()
        lengths = list(batch.segments.lengths)
        self.runs.append(lengths)
        if BROKEN in ids:
            raise ValueError("a broken id")
        numbers, rows, start = [], [], 0
        for number, length in zip(state.lightning[0].flatten().tolist(), lengths, strict=True):
            for token in ids[start : start + length]:
                number = (31 * number + token) % 997
            start += length
            numbers.append(number)
            row = -((torch.arange(VOCAB) - number % 48) % VOCAB).float()
            rows.append(row * torch.nan if ids[start - 1] == NOT_A_NUMBER else row)
        # Two experts a token, or one below a threshold of 0.7, which comes as one number or one a token.
        full = (torch.as_tensor(expert_threshold).expand(len(ids)) > 0.7).tolist()
        experts = torch.tensor(
            [[token % 4, (token + 1) % 4 if two else -1] for token, two in zip(ids, full, strict=True)]
        )
        weights = torch.tensor([[0.7, 0.3] if two else [1.0, 0.0] for two in full])
        return SimpleNamespace(
            logits=torch.stack(rows) if logits == "last" else None,
            state=State(
                lengths=tuple(old + new for old, new in zip(state.lengths, lengths, strict=True)),
                lightning=(torch.tensor(numbers).view(-1, 1, 1, 1),),
                softmax=(),
            ),
            routing=SimpleNamespace(experts=experts.expand(3, -1, -1), weights=weights.expand(3, -1, -1)),
        )


@pytest.fixture
def model() -> Any:
    return CountingModel()


@pytest.fixture(scope="session")
def counting_model() -> Callable[[], Any]:
    """Makes a fresh model: for property tests, which run many times in one fixture's life."""
    return CountingModel
