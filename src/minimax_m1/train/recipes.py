"""The named recipes: functions that return whole `Recipe`s, and `RLRecipe`s for reinforcement learning.

In: a name and `key=value` overrides. Out: a checked recipe. nano's four stages follow each other: pretrain, extend,
sft, rl; `chats`, `texts` and `prompts` take the user's own files; `tiny` and `tiny-rl` are for tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from minimax_m1 import presets
from minimax_m1.errors import DataError
from minimax_m1.tasks.logic.families import FAMILIES as PUZZLES
from minimax_m1.train.recipe import DATA, Phase, Recipe, Stage
from minimax_m1.train.rl.recipe import RLRecipe


def nano() -> Recipe:
    """The embedded model from random weights: every task family at rising difficulty, on two CPU cores."""
    return Recipe(
        name="nano",
        stage="pretrain",
        model=presets.nano(),
        tokens=90_000_000,
        phases=(
            Phase(until=0.10, max_difficulty=4, batch_tokens=4096, length=2048),
            Phase(until=0.15, max_difficulty=6, batch_tokens=4096),
            Phase(until=0.20, max_difficulty=8, batch_tokens=4096),
            Phase(until=1.00, max_difficulty=10, batch_tokens=4096),
        ),
        shares=_shares(recall=0.08, tools=0.10, addition=0.06, arithmetic=0.12, strings=0.14, code=0.12),
        prompt_weight=0.1,
        max_position=1_048_576,
        learning_rate=1.2e-3,
        final_learning_rate=5e-4,
        decay_from=0.5,
        precision="bfloat16",
    )


def nano_extend() -> Recipe:
    """Longer texts: 8K, 32K, then 128K tokens, where recall and lookup write as far as a document may go."""
    return replace(
        nano(),
        name="nano-extend",
        model=None,
        start="runs/nano/model",
        tokens=2_000_000,
        phases=(
            Phase(until=0.50, batch_tokens=16_384, length=8192),
            Phase(until=0.75, batch_tokens=32_768, length=32_768),
            Phase(until=1.00, batch_tokens=131_072, length=131_072),
        ),
        shares=_shares(recall=0.34, tools=0.07, addition=0.05, arithmetic=0.06, strings=0.07, code=0.06, lookup=0.15),
        prompt_weight=0.0,
        learning_rate=6e-4,
        final_learning_rate=4e-4,
        warmup_steps=10,
        decay_from=0.0,
        recompute=True,
    )


def nano_sft() -> Recipe:
    """The last stage: what the assistant says and nothing else, at a rate that falls to nearly nothing."""
    return replace(
        nano_extend(),
        name="nano-sft",
        stage="sft",
        start="runs/nano-extend/model",
        tokens=9_500_000,
        phases=(Phase(length=8192),),
        shares=_shares(recall=0.16, tools=0.16, addition=0.08, arithmetic=0.10, strings=0.11, code=0.09),
        learning_rate=6e-4,
        final_learning_rate=1e-5,
        warmup_steps=20,
        recompute=False,
    )


def chats() -> Recipe:
    """Fine-tunes any model on the user's chats, and on nothing else."""
    return Recipe(
        name="chats",
        stage="sft",
        start="nano",
        epochs=3.0,
        phases=(Phase(batch_tokens=4096),),
        shares={DATA: 1.0},
        learning_rate=1e-3,
        final_learning_rate=5e-5,
        warmup_steps=10,
        decay_from=0.3,
        precision="bfloat16",
    )


def nano_chats() -> Recipe:
    """Fine-tunes nano on the user's chats, half of the tokens its own tasks, so that it forgets little of them."""
    kept = {name: share / 2 for name, share in nano_sft().shares.items()}
    return replace(chats(), name="nano-chats", epochs=30.0, shares={DATA: 0.5, **kept}, learning_rate=8e-4)


def texts() -> Recipe:
    """Pretrains a model of nano's shape, and its vocabulary, on the user's own texts."""
    return Recipe(
        name="texts",
        stage="pretrain",
        model=presets.nano().replace(vocab_size=4096),
        epochs=3.0,
        phases=(Phase(),),
        shares={DATA: 1.0},
        prompt_weight=0.1,
        max_position=1_048_576,
        precision="bfloat16",
    )


def tiny() -> Recipe:
    """Seconds long, for tests: the same road with a model that learns little."""
    return Recipe(
        name="tiny",
        stage="pretrain",
        model=presets.tiny().replace(vocab_size=320),
        tokens=16_000,
        phases=(
            Phase(until=0.5, max_difficulty=1, batch_tokens=1000, length=1000),
            Phase(until=1.0, max_difficulty=2, batch_tokens=1500, length=1500),
        ),
        shares={"addition": 0.5, "recall": 0.2, "tools": 0.2, "talk": 0.1},
        prompt_weight=0.1,
        max_position=4096,
        warmup_steps=2,
        log_every=1,
        sample_minutes=0.0,
    )


def nano_rl() -> RLRecipe:
    """The stage after nano-sft: CISPO on families in which one answer in two is right, and one of eight mostly."""
    return RLRecipe(
        name="nano-rl",
        start="runs/nano-sft/model",
        shares=_even("instructions", "lookup", "logic_arrows", "logic_sudoku"),
        batches=60,
        refills=1,
        learning_rate=6e-5,
        final_learning_rate=1e-5,
        decay_from=0.6,
        held_out_cases=25,
        precision="bfloat16",
        context=2048,
    )


def prompts() -> RLRecipe:
    """CISPO on the user's prompts, by the user's rewards."""
    return RLRecipe(
        name="prompts",
        start="nano",
        shares={DATA: 1.0},
        rewards=(),
        batches=30,
        prompts=32,
        updates=8,
        context=2048,
    )


def tiny_rl() -> RLRecipe:
    """Seconds long, for tests: the same road in small batches."""
    return RLRecipe(
        name="tiny-rl",
        start="nano",
        shares={"logic_knights": 0.5, "logic_countdown": 0.5},
        batches=2,
        prompts=4,
        group=4,
        updates=2,
        refills=1,
        max_difficulty=2,
        output_lengths=(96,),
        context=1024,
        batch_tokens=2048,
        max_num_seqs=16,
    )


RECIPES: Mapping[str, Callable[[], Recipe]] = MappingProxyType(
    {
        "nano": nano,
        "nano-extend": nano_extend,
        "nano-sft": nano_sft,
        "chats": chats,
        "nano-chats": nano_chats,
        "texts": texts,
        "tiny": tiny,
    }
)


RL_RECIPES: Mapping[str, Callable[[], RLRecipe]] = MappingProxyType(
    {"nano-rl": nano_rl, "prompts": prompts, "tiny-rl": tiny_rl}
)


def rl_recipe(name: str, settings: Sequence[str] = ()) -> RLRecipe:
    """A named recipe of reinforcement learning with overrides.

    Raises DataError: there is none, or it lacks the user's prompts or rewards.
    """
    if name not in RL_RECIPES:
        raise DataError(f"no recipe {name!r} for rl; there are {', '.join(sorted(RL_RECIPES))}")
    plan = RL_RECIPES[name]().override(settings)
    if plan.reads_files and not plan.data:
        raise DataError(f"the recipe {name} reads prompts of yours: give --data FILE")
    if plan.environment and not plan.rewards:
        plan = replace(plan, rewards=("environment",))  # what a world says at the end is why it is there
    if not plan.rewards:
        raise DataError(f"the recipe {name} has no reward of its own: give --reward FILE.py")
    return plan


def recipe(name: str, settings: Sequence[str] = (), stage: Stage | None = None) -> Recipe:
    """A named recipe with overrides; raises DataError where there is none, or none of the stage."""
    names = sorted(n for n, make in RECIPES.items() if stage in (None, make().stage))
    if name not in names:
        raise DataError(f"no recipe {name!r}{'' if stage is None else f' for {stage}'}; there are {', '.join(names)}")
    plan = RECIPES[name]().override(settings)
    if plan.shares.get(DATA) and not plan.data:
        raise DataError(f"the recipe {name} reads files of yours: give --data FILE")
    return plan


def _even(*families: str) -> dict[str, float]:
    """The same share for each."""
    return {name: 1 / len(families) for name in families}


def _shares(lookup: float = 0.08, **shares: float) -> dict[str, float]:
    """Shares of tokens of nano's families; the puzzles have what is left, in equal parts."""
    shares |= {"lookup": lookup, "sums": 0.02, "instructions": 0.05, "stories": 0.05, "talk": 0.02}
    return shares | {puzzle.name: (1 - sum(shares.values())) / len(PUZZLES) for puzzle in PUZZLES}
