"""What one pretraining run is: a frozen record, and the named recipes that return whole ones.

In: a recipe's name and `key=value` overrides. Out: a checked `Recipe`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from types import MappingProxyType
from typing import Any

from minimax_m1 import presets
from minimax_m1.config import MiniMaxM1Config
from minimax_m1.errors import DataError
from minimax_m1.tasks.families import FAMILIES


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch of the run, up to a share of its tokens: how hard the tasks are and how many tokens a step has."""

    until: float  # share of the run's tokens at which the phase ends, the last one 1.0
    max_difficulty: int  # 1 to 10
    batch_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides a pretraining run; two runs of one recipe on one machine give the same losses."""

    name: str
    model: MiniMaxM1Config
    tokens: int  # length of the run
    phases: tuple[Phase, ...]
    shares: Mapping[str, float]  # of tokens, by task family
    seed: int = 0
    prompt_weight: float = 0.1  # weight of the loss on tokens that the assistant does not say
    max_position: int = 1_048_576  # softmax positions skip ahead up to here
    learning_rate: float = 2e-3
    final_learning_rate: float = 4e-5
    warmup_steps: int = 100
    decay_from: float = 0.6  # share of the run's tokens at which the rate begins to fall
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    precision: str = "float32"  # or "bfloat16": products of the forward and backward pass, weights stay float32
    checkpoint_minutes: float = 2.0
    log_every: int = 10

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise DataError(f"tokens must be at least 1, got {self.tokens}")
        if not self.phases or self.phases[-1].until != 1.0:
            raise DataError("the last phase must end at 1.0")
        if unknown := self.shares.keys() - FAMILIES.keys():
            raise DataError(f"no task family {min(unknown)!r}; there are {', '.join(sorted(FAMILIES))}")
        if abs(sum(self.shares.values()) - 1) > 1e-6:
            raise DataError(f"shares must sum to 1, got {sum(self.shares.values())}")
        if self.precision not in ("float32", "bfloat16"):
            raise DataError(f'precision must be "float32" or "bfloat16", got {self.precision!r}')
        if not 0 <= self.prompt_weight <= 1:
            raise DataError(f"prompt_weight must be between 0 and 1, got {self.prompt_weight}")

    def phase(self, tokens: int) -> Phase:
        """The phase of a step that begins after so many tokens."""
        return next(phase for phase in self.phases if tokens < phase.until * self.tokens or phase.until == 1.0)

    def rate(self, step: int, tokens: int) -> float:
        """Learning rate: linear warm-up, constant, linear decay over the last share of tokens."""
        warm = min(1.0, (step + 1) / max(self.warmup_steps, 1))
        fall = min(1.0, max(0.0, (tokens / self.tokens - self.decay_from) / max(1 - self.decay_from, 1e-9)))
        return warm * (self.learning_rate + fall * (self.final_learning_rate - self.learning_rate))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the run's record."""
        return {**asdict(self), "model": self.model.to_dict(), "shares": dict(self.shares)}

    def override(self, settings: Sequence[str]) -> Recipe:
        """A copy with `key=value` settings applied; a value is JSON. Raises DataError, naming the key."""
        changes: dict[str, Any] = {}
        known = {f.name: f for f in fields(self)}
        for setting in settings:
            key, equals, text = setting.partition("=")
            if not equals or key not in known or key in ("name", "model", "phases"):
                settable = sorted(known.keys() - {"name", "model", "phases"})
                raise DataError(f"cannot set {setting!r}; keys are {', '.join(settable)}")
            try:
                value = json.loads(text)
            except json.JSONDecodeError:
                raise DataError(f"the value of {key} is not JSON: {text!r}") from None
            current = getattr(self, key)
            if isinstance(current, float) and isinstance(value, int):
                value = float(value)
            if isinstance(current, tuple) and isinstance(value, list):
                value = tuple(value)
            if type(value) is not (dict if isinstance(current, Mapping) else type(current)):
                raise DataError(f"{key} must be of type {type(current).__name__}, got {text}")
            changes[key] = value
        return replace(self, **changes)


def nano() -> Recipe:
    """The embedded model: task families at rising difficulty, contexts up to 4,000 tokens, two CPU cores."""
    return Recipe(
        name="nano",
        model=presets.nano(),
        tokens=31_000_000,
        phases=(
            Phase(until=0.28, max_difficulty=4, batch_tokens=4096),
            Phase(until=0.42, max_difficulty=6, batch_tokens=6144),
            Phase(until=0.52, max_difficulty=8, batch_tokens=8192),
            Phase(until=1.00, max_difficulty=10, batch_tokens=8192),
        ),
        shares={"addition": 0.17, "sums": 0.03, "recall": 0.46, "tools": 0.30, "talk": 0.04},
        precision="bfloat16",
    )


def tiny() -> Recipe:
    """Seconds long, for tests: the same road with a model that learns little."""
    return Recipe(
        name="tiny",
        model=presets.tiny().replace(vocab_size=320),
        tokens=4000,
        phases=(
            Phase(until=0.5, max_difficulty=1, batch_tokens=400),
            Phase(until=1.0, max_difficulty=2, batch_tokens=800),
        ),
        shares={"addition": 0.5, "recall": 0.2, "tools": 0.2, "talk": 0.1},
        warmup_steps=2,
        log_every=1,
    )


RECIPES: Mapping[str, Callable[[], Recipe]] = MappingProxyType({"nano": nano, "tiny": tiny})


def recipe(name: str, settings: Sequence[str] = ()) -> Recipe:
    """A named recipe with overrides; raises DataError where there is no such recipe."""
    if name not in RECIPES:
        raise DataError(f"no recipe {name!r}; there are {', '.join(sorted(RECIPES))}")
    return RECIPES[name]().override(settings)
