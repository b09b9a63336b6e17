"""What one training run is: a frozen record of everything that decides it, checked as a whole.

In: fields, or `key=value` overrides of a named recipe (recipes.py). Out: a `Recipe`, its phase and its learning rate
at any point of the run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Self, get_args

from minimax_m1.config import MiniMaxM1Config
from minimax_m1.errors import ConfigError, DataError
from minimax_m1.tasks.families import FAMILIES
from minimax_m1.train.lora import MIXERS
from minimax_m1.train.setting import json_value, typed_value

Stage = Literal["pretrain", "sft"]
DATA = "data"  # the share of the user's own files


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch of the run, up to a share of its tokens."""

    until: float = 1.0  # share of the run's tokens at which the phase ends, the last one 1.0
    max_difficulty: int = 10  # of the task families, 1 to 10
    batch_tokens: int = 8192  # of one step; a step never has more
    length: int = 4096  # most tokens of one document


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides a run; two runs of one recipe on one machine give the same losses."""

    name: str
    stage: Stage
    phases: tuple[Phase, ...]
    shares: Mapping[str, float]  # of tokens, by task family; "data" for the user's files
    model: MiniMaxM1Config | None = None  # the shape of a model that starts from random weights
    start: str = ""  # or the model to go on from: "nano", a folder, or a hub id
    data: tuple[str, ...] = ()  # JSONL files
    tokens: int = 0  # length of the run
    epochs: float = 0.0  # or its length in readings of the files
    seed: int = 0
    prompt_weight: float = 0.0  # weight of the loss on what the assistant does not say
    max_position: int = 0  # softmax positions skip ahead up to here; 0: they do not
    learning_rate: float = 2e-3
    final_learning_rate: float = 4e-5
    warmup_steps: int = 100
    decay_from: float = 0.6  # share of the run's tokens at which the rate begins to fall
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    lora_rank: int = 0  # 0 trains all weights; else adapters of this rank beside frozen ones
    lora_alpha: float = 16.0
    lora_targets: tuple[str, ...] = MIXERS  # names of linear maps
    precision: str = "float32"  # or "bfloat16": products of the forward and backward pass, weights stay float32
    recompute: bool = False  # work each layer out again in the backward pass instead of keeping its activations
    checkpoint_minutes: float = 2.0
    sample_minutes: float = 5.0  # how often the model is asked something and its answer shown; 0: never
    log_every: int = 10  # steps

    def __post_init__(self) -> None:
        if self.stage not in get_args(Stage):
            raise DataError(f'stage must be "pretrain" or "sft", got {self.stage!r}')
        if (self.model is None) == (not self.start):
            raise DataError("a recipe has either a model's shape or a start, the model to go on from")
        if (self.tokens > 0) == (self.epochs > 0) or self.tokens < 0 or self.epochs < 0:
            raise DataError(
                f"one of tokens and epochs must be above 0 and the other 0, got {self.tokens} and {self.epochs}"
            )
        self._check_shares()
        self._check_phases()
        if self.precision not in ("float32", "bfloat16"):
            raise DataError(f'precision must be "float32" or "bfloat16", got {self.precision!r}')
        if not 0 <= self.prompt_weight <= 1:
            raise DataError(f"prompt_weight must be between 0 and 1, got {self.prompt_weight}")
        for name in ("learning_rate", "clip_norm", "log_every", "eps", "lora_alpha"):
            if not 0 < getattr(self, name) < math.inf:
                raise DataError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in _NEVER_BELOW_0:
            if not 0 <= getattr(self, name) < math.inf:
                raise DataError(f"{name} must be at least 0, got {getattr(self, name)}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise DataError(f"betas must be two numbers of at least 0 and below 1, got {list(self.betas)}")
        if self.lora_rank and not self.start:
            raise DataError("adapters need a trained model beside them: give a start")

    def _check_shares(self) -> None:
        known = {DATA, *FAMILIES}
        if unknown := self.shares.keys() - known:
            raise DataError(f"no task family {min(unknown)!r}; there are {', '.join(sorted(known))}")
        shares = self.shares.values()
        if not all(type(share) in (int, float) and share >= 0 for share in shares) or not abs(sum(shares) - 1) <= 1e-6:
            raise DataError(f"shares must be numbers of at least 0 that sum to 1, got {dict(self.shares)}")
        if self.data and not self.shares.get(DATA):
            raise DataError(f'files of data need a share: --set \'shares={{"{DATA}": 0.5, "addition": 0.5}}\'')
        if self.epochs and not self.shares.get(DATA):
            raise DataError(f"epochs count readings of files, and this recipe reads none: epochs is {self.epochs}")

    def _check_phases(self) -> None:
        ends = [phase.until for phase in self.phases]
        if not ends or ends[-1] != 1.0 or ends != sorted(ends):
            raise DataError(f"phases must end at rising shares of the run, the last at 1.0, got {ends}")
        for phase in self.phases:
            if not 1 <= phase.max_difficulty <= 10:
                raise DataError(f"max_difficulty must be between 1 and 10, got {phase.max_difficulty}")
            if not 2 <= phase.length <= phase.batch_tokens:
                raise DataError(
                    f"length must be at least 2 and at most batch_tokens ({phase.batch_tokens}), got {phase.length}"
                )

    def phase(self, tokens: int) -> Phase:
        """The phase of a step that begins after so many tokens."""
        return next(phase for phase in self.phases if tokens < phase.until * self.tokens or phase.until == 1.0)

    def rate(self, step: int, tokens: int) -> float:
        """Learning rate: linear warm-up over a tenth of the run at most, constant, linear decay of the last share."""
        warm = min(1.0, max((step + 1) / max(self.warmup_steps, 1), 10 * tokens / self.tokens))
        fall = min(1.0, max(0.0, (tokens / self.tokens - self.decay_from) / max(1 - self.decay_from, 1e-9)))
        return warm * (self.learning_rate + fall * (self.final_learning_rate - self.learning_rate))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the run's record."""
        told = {f.name: getattr(self, f.name) for f in fields(self)}
        told["model"] = None if self.model is None else self.model.to_dict()
        told["phases"] = [asdict(phase) for phase in self.phases]
        return {name: list(v) if isinstance(v, tuple) else v for name, v in told.items()} | {"shares": {**self.shares}}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Self:
        """The recipe that `to_dict` told of, perhaps in an earlier version that knew fewer fields."""
        known = {f.name for f in fields(cls)}
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in told.items() if k in known}
        values["phases"] = tuple(Phase(**phase) for phase in told["phases"])
        values["model"] = None if told["model"] is None else MiniMaxM1Config.from_dict(told["model"])
        return cls(**values)

    def override(self, settings: Sequence[str]) -> Recipe:
        """A copy with `key=value` settings applied; a value is JSON, or else text where the field is text.

        `model.KEY` changes the model's shape, and a phase's fields (but `until`) change in every phase.
        Raises DataError, naming the key.
        """
        settable = {f.name for f in fields(self)} - {"name", "stage", "model", "phases"}
        changes: dict[str, Any] = {}
        shape: dict[str, Any] = {}
        stretch: dict[str, Any] = {}
        for setting in settings:
            key, equals, text = setting.partition("=")
            if equals and key.startswith("model.") and self.model is not None:
                shape[key.removeprefix("model.")] = json_value(key, text)
            elif equals and key in _OF_PHASES:
                stretch[key] = typed_value(key, text, getattr(self.phases[0], key))
            elif equals and key in settable:
                changes[key] = typed_value(key, text, getattr(self, key))
            else:
                keys = ", ".join([*sorted({*settable, *_OF_PHASES}), *(["model.KEY"] if self.model else [])])
                raise DataError(f"cannot set {setting!r}; keys are {keys}")
        if shape and self.model is not None:
            try:
                changes["model"] = MiniMaxM1Config.from_dict({**self.model.to_dict(), **shape})
            except ConfigError as error:
                raise DataError(f"the model's shape: {error}") from None
        if changes.get("start"):
            if shape:
                raise DataError(f"a start has its own shape, so model.{min(shape)} cannot be set")
            changes["model"] = None
        if changes.get("tokens") and "epochs" not in changes:
            changes["epochs"] = 0.0
        if changes.get("epochs") and "tokens" not in changes:
            changes["tokens"] = 0
        return replace(self, **changes, phases=tuple(replace(phase, **stretch) for phase in self.phases))


_NEVER_BELOW_0 = (
    *("final_learning_rate", "warmup_steps", "decay_from", "weight_decay", "lora_rank", "max_position"),
    *("checkpoint_minutes", "sample_minutes"),
)
_OF_PHASES = ("max_difficulty", "batch_tokens", "length")
