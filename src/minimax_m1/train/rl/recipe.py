"""What one run of reinforcement learning is: a frozen record of everything that decides it, checked as a whole.

In: fields, or `key=value` overrides of a named recipe (recipes.py). Out: an `RLRecipe` and its learning rate at any
point. The defaults are those of the MiniMax-M1 report (arXiv 2506.13585, section 3) where it gives them: CISPO, 16
updates a batch of rollouts, AdamW with betas (0.9, 0.95) and eps 1e-15, no KL term, sampling at temperature 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

from minimax_m1.errors import DataError
from minimax_m1.tasks.families import FAMILIES
from minimax_m1.train.lora import MIXERS
from minimax_m1.train.recipe import DATA
from minimax_m1.train.rl.policy_loss import PolicyLoss
from minimax_m1.train.setting import typed_value


@dataclass(frozen=True, slots=True, kw_only=True)
class RLRecipe:
    """Everything that decides a run. A batch is `prompts` groups of `group` answers, learned in `updates` steps."""

    name: str
    start: str  # the model to go on from: "nano", a folder, or a hub id
    shares: Mapping[str, float]  # of prompts, by task family; "data" for the user's files
    final_shares: Mapping[str, float] = field(default_factory=dict)  # towards which they run; none: they stay
    data: tuple[str, ...] = ()  # JSONL files of prompts
    held_out: tuple[str, ...] = ()  # JSONL files of prompts that are only measured on
    held_out_cases: int = 0  # without them, examples of each task family that are measured on
    held_out_every: int = 10  # batches
    rewards: tuple[str, ...] = ("family", "format=0.1")  # rewards.py says what there is
    judge_url: str = ""  # of a judge's endpoint, for the rewards "agreement" and "preference"
    judge_model: str = ""
    environment: str = ""  # FILE.py:Class, tools for several turns
    turns: int = 4  # most replies in one conversation of an environment
    batches: int = 40  # length of the run
    prompts: int = 64  # of a batch
    group: int = 8  # answers to each
    updates: int = 16  # optimizer steps on each batch
    refills: int = 2  # rounds of new prompts in place of those whose answers are all worth the same
    output_lengths: tuple[int, ...] = (256,)  # most tokens of an answer; a run goes from one to the next
    context: int = 4096  # most tokens of a prompt and its answer
    overlong_share: float = 0.2  # of the output length, in which an answer's reward falls by up to 1 (DAPO)
    mask_truncated: bool = False  # leave answers that were cut out of the loss
    repetition_window: int = 256  # tokens that must loop, all above 0.99, for an answer to be ended; 0: never
    max_difficulty: int = 10  # of the task families, 1 to 10
    adaptive: bool = True  # difficulties and rows by their pass rates; else all alike
    easy: float = 0.9  # prompts with this pass rate or more are passed over, as are those with 0
    pass_reward: float = 1.0  # an answer worth this much, the length aside, has passed
    loss: PolicyLoss = field(default_factory=PolicyLoss)
    seed: int = 0
    learning_rate: float = 1e-4
    final_learning_rate: float = 1e-5
    warmup_steps: int = 8  # updates
    decay_from: float = 0.5  # share of the run at which the rate begins to fall
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-15
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    batch_tokens: int = 16_384  # most of one forward and backward pass; an update may take several
    lora_rank: int = 0  # 0 trains all weights; else adapters of this rank beside frozen ones
    lora_alpha: float = 16.0
    lora_targets: tuple[str, ...] = MIXERS
    precision: str = "float32"  # or "bfloat16": products of the forward and backward pass, weights stay float32
    rollout_precision: str = "float32"  # of the weights that answer
    max_num_seqs: int = 128  # answers under way at a time
    reward_seconds: float = 60.0  # that a user's reward may take for a batch
    recompute: bool = False
    checkpoint_minutes: float = 2.0
    log_every: int = 1  # updates

    def __post_init__(self) -> None:
        for shares in (self.shares, self.final_shares or self.shares):
            if unknown := shares.keys() - {DATA, *FAMILIES}:
                raise DataError(f"no task family {min(unknown)!r}; there are {', '.join(sorted({DATA, *FAMILIES}))}")
            numbers = all(type(share) in (int, float) and share >= 0 for share in shares.values())
            if not numbers or not abs(sum(shares.values()) - 1) <= 1e-6:
                raise DataError(f"shares must be numbers of at least 0 that sum to 1, got {dict(shares)}")
        if self.data and not self.reads_files:
            raise DataError(f"files of prompts need a share, {DATA}: got {list(self.data)} and {dict(self.shares)}")
        for name, (least, most) in _RANGES.items():
            if not least <= getattr(self, name) <= most or getattr(self, name) == math.inf:
                upper = "" if most == math.inf else f" and at most {most}"
                raise DataError(f"{name} must be at least {least}{upper}, got {getattr(self, name)}")
        for name in ("learning_rate", "clip_norm", "eps", "lora_alpha", "reward_seconds"):
            if not 0 < getattr(self, name) < math.inf:
                raise DataError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("data", "held_out", "rewards", "lora_targets"):
            if not all(isinstance(text, str) for text in getattr(self, name)):
                raise DataError(f"{name} must be texts, got {list(getattr(self, name))}")
        if self.repetition_window == 1:
            raise DataError("repetition_window must be 0 or at least 2, got 1")
        if len(self.betas) != 2 or not all(type(beta) in (int, float) and 0 <= beta < 1 for beta in self.betas):
            raise DataError(f"betas must be two numbers of at least 0 and below 1, got {list(self.betas)}")
        lengths = self.output_lengths
        if not lengths or not all(type(length) is int and length > 0 for length in lengths):
            raise DataError(f"output_lengths must be whole numbers above 0, got {list(lengths)}")
        if list(lengths) != sorted(lengths) or lengths[-1] >= self.context:
            raise DataError(f"output_lengths must rise and stay below context ({self.context}), got {list(lengths)}")
        for name in ("precision", "rollout_precision"):
            if getattr(self, name) not in ("float32", "bfloat16"):
                raise DataError(f'{name} must be "float32" or "bfloat16", got {getattr(self, name)!r}')
        if self.batch_tokens < self.context:
            raise DataError(f"batch_tokens must be at least context ({self.context}), got {self.batch_tokens}")

    @property
    def reads_files(self) -> bool:
        """Whether some of its prompts are the user's."""
        return bool(self.shares.get(DATA) or self.final_shares.get(DATA))

    @property
    def prompt_room(self) -> int:
        """Most tokens of a prompt."""
        return self.context - self.output_lengths[-1]

    def rate(self, update: int, progress: float) -> float:
        """Learning rate: linear warm-up over updates, constant, linear decay from a share of the run on."""
        warm = min(1.0, (update + 1) / max(self.warmup_steps, 1))
        fall = min(1.0, max(0.0, (progress - self.decay_from) / max(1 - self.decay_from, 1e-9)))
        return warm * (self.learning_rate + fall * (self.final_learning_rate - self.learning_rate))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the run's record."""
        told = {f.name: getattr(self, f.name) for f in fields(self)}
        told |= {"stage": "rl", "loss": asdict(self.loss)}
        told |= {name: {**told[name]} for name in ("shares", "final_shares")}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in told.items()}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Self:
        """The recipe that `to_dict` told of, perhaps in an earlier version that knew fewer fields."""
        known = {f.name for f in fields(cls)}
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in told.items() if k in known}
        return cls(**{**values, "loss": PolicyLoss(**told["loss"])})

    def override(self, settings: Sequence[str]) -> RLRecipe:
        """A copy with `key=value` settings applied; the fields of the loss are keys like the others.

        `null` takes back what the loss need not be given. Raises DataError, naming the key.
        """
        own = {f.name for f in fields(self)} - {"name", "loss"}
        of_loss = {f.name for f in fields(self.loss)} - {"rollout_weight_max"}  # the loop gives no second ratio
        changes: dict[str, Any] = {}
        loss: dict[str, Any] = {}
        for setting in settings:
            key, equals, text = setting.partition("=")
            if equals and key in of_loss and text == "null" and getattr(PolicyLoss(), key) is None:
                loss[key] = None
            elif equals and key in of_loss:
                loss[key] = typed_value(key, text, getattr(self.loss, key))
            elif equals and key in own:
                changes[key] = typed_value(key, text, getattr(self, key))
            else:
                raise DataError(f"cannot set {setting!r}; keys are {', '.join(sorted(own | of_loss))}")
        return replace(self, **changes, loss=replace(self.loss, **loss))


_RANGES: Mapping[str, tuple[float, float]] = {
    "turns": (1, math.inf),
    "batches": (1, math.inf),
    "prompts": (1, math.inf),
    "group": (2, 1024),
    "held_out_cases": (0, math.inf),
    "held_out_every": (1, math.inf),
    "updates": (1, math.inf),
    "refills": (0, 100),
    "overlong_share": (0, 1),
    "repetition_window": (0, math.inf),
    "max_difficulty": (1, 10),
    "easy": (0, 1),
    "pass_reward": (-1e9, 1e9),
    "final_learning_rate": (0, math.inf),
    "warmup_steps": (0, math.inf),
    "decay_from": (0, 1),
    "weight_decay": (0, math.inf),
    "lora_rank": (0, math.inf),
    "max_num_seqs": (1, 65536),
    "log_every": (1, math.inf),
    "checkpoint_minutes": (0, math.inf),
}
