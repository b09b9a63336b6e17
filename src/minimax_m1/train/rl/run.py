"""`RLRun`: reinforcement learning under way: the model that learns, the one that answers, and how both are kept.

In: an `RLRecipe`, or the checkpoint of an earlier run. Out: updates, one by one. Every `updates` of them the actor
takes the weights over and answers new prompts. What a checkpoint keeps: weights, optimizer, the curriculum, and the
rollouts that have not been learned yet; a run that goes on from it takes the same steps to the bit on CPU.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from minimax_m1.errors import DataError
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train import checkpoint, randomness, weights
from minimax_m1.train.lora import merged_weights
from minimax_m1.train.optimizer import adamw, restore
from minimax_m1.train.recipe import DATA
from minimax_m1.train.rl.actor import Actor, Answer
from minimax_m1.train.rl.collector import Collected, Collector
from minimax_m1.train.rl.curriculum import Curriculum
from minimax_m1.train.rl.environment import Environments
from minimax_m1.train.rl.environment_file import environments_of
from minimax_m1.train.rl.held_out import HeldOut
from minimax_m1.train.rl.prompt import Prompt, PromptSource
from minimax_m1.train.rl.prompt_family import FamilyPrompts
from minimax_m1.train.rl.prompt_jsonl import JsonlPrompts, PromptReport, check_prompts
from minimax_m1.train.rl.recipe import RLRecipe
from minimax_m1.train.rl.report import line, samples
from minimax_m1.train.rl.reward import RewardSet
from minimax_m1.train.rl.rewards import rewards_of
from minimax_m1.train.rl.rollout import RolloutBatch
from minimax_m1.train.rl.scoring import KNOWN
from minimax_m1.train.rl.update import update

# What a run is made of: another value would make it another run, which begins anew.
FIXED = ("start", "data", "shares", "final_shares", "seed", "lora_rank", "lora_alpha", "lora_targets", "environment")
_MOST_LOST = 3  # batches in a row in which no answer gets a reward: then the fault is not one batch's


class RLRun:
    """`step` updates done, `batch` batches of rollouts begun, `tokens` written by the actor."""

    def __init__(
        self,
        recipe: RLRecipe,
        tokenizer: MiniMaxM1Tokenizer,
        model: MiniMaxM1ForCausalLM,
        *,
        skip: frozenset[str] | None = None,
        skip_bad: bool = False,
        notes: Sequence[str] = (),
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """A run at its beginning; `begin` and `resume` make one. Files are read and checked unless `skip` is known."""
        if recipe.context > (limit := model.config.max_position_embeddings):
            raise DataError(f"context is {recipe.context} tokens, the model takes at most {limit}")
        self.recipe, self.tokenizer, self.model = recipe, tokenizer, model
        self.optimizer = adamw(
            model, rate=recipe.learning_rate, betas=recipe.betas, eps=recipe.eps, decay=recipe.weight_decay
        )
        self.step = self.batch = self.tokens = 0
        self._waiting: list[RolloutBatch] = []  # of this batch, not learned yet
        self._shares = 1  # updates that this batch makes
        self._lost = 0
        self._said: list[str] = []
        self._samples: Path | None = None
        self._environments: Environments | None = None
        self._rewards: RewardSet | None = None
        try:
            if recipe.environment:
                self._environments = environments_of(recipe.environment, timeout=recipe.reward_seconds)
            self._rewards = rewards_of(recipe)
            lenient = skip_bad or skip is not None  # what was left out at the beginning stays out
            self._report = self._read(progress) if recipe.data and skip is None else None
            if self._report is not None:
                notes = (*notes, *_told(self._report, skip_bad))
                skip = self._report.bad
            self.skip, self.notes = skip or frozenset(), tuple(notes)
            self._collector = self._collected_by(self._rewards)
            self._held_out = self._kept_back(lenient)
        except BaseException:
            self.close()
            raise

    def _collected_by(self, rewards: RewardSet) -> Collector:
        recipe = self.recipe
        final = recipe.final_shares or recipe.shares
        names = [name for name in {**recipe.shares, **final} if recipe.shares.get(name) or final.get(name)]
        sources = [self._source(name) for name in names]
        curriculum = Curriculum(
            sources,
            {name: recipe.shares.get(name, 0.0) for name in names},
            final_shares={name: final.get(name, 0.0) for name in names},
            seed=recipe.seed,
            max_difficulty=recipe.max_difficulty,
            easy=recipe.easy,
            adaptive=recipe.adaptive,
        )
        self._check({name for source in sources for name in self._columns(source)})
        actor = Actor(
            self.model.config,
            self.tokenizer,
            precision=getattr(torch, recipe.rollout_precision),
            device=self.model.device,
            context=recipe.context,
            max_num_seqs=recipe.max_num_seqs,
        )
        self._actor = actor
        return Collector(recipe, actor, curriculum, rewards, self._environments)

    def _kept_back(self, skip_bad: bool) -> HeldOut:
        """The files of prompts that are only measured on, or else examples of the families."""
        recipe, room = self.recipe, self.recipe.prompt_room
        if recipe.held_out:
            files = [Path(file) for file in recipe.held_out]
            report = check_prompts(files, self.tokenizer, room, tools=self._tools)
            _told(report, skip_bad)
            return HeldOut.of_files([JsonlPrompts(files, self.tokenizer, 0, room, skip=report.bad, tools=self._tools)])
        names = [name for name in sorted({**recipe.shares, **recipe.final_shares}) if name != DATA]
        return HeldOut.of_families(
            names, self.tokenizer, recipe.held_out_cases, recipe.seed, room, recipe.max_difficulty
        )

    def _measured(self) -> dict[str, float]:
        """What the weights that the actor has now are worth on what is held out."""
        assert self._rewards is not None
        recipe, begun = self.recipe, time.monotonic()

        def play(prompts: Sequence[Prompt]) -> list[Answer]:
            return self._actor.play(
                prompts,
                1,
                seed="held out",
                max_tokens=recipe.output_lengths[-1],
                repetition_window=recipe.repetition_window,
                environments=self._environments,
                turns=recipe.turns if self._environments else 1,
            )

        figures, faults = self._held_out.measure(play, self._rewards)
        self._said += [f"held out: {fault}" for fault in faults]
        if figures:
            count = len(self._held_out.prompts)
            self._said.append(f"held out: reward {figures['held_out_reward']:.3f} on {count} prompts")
            figures["held_out_seconds"] = time.monotonic() - begun
        return figures

    def _source(self, name: str) -> PromptSource:
        recipe, room = self.recipe, self.recipe.prompt_room
        if name == DATA:
            files = [Path(file) for file in recipe.data]
            return JsonlPrompts(files, self.tokenizer, recipe.seed, room, skip=self.skip, tools=self._tools)
        return FamilyPrompts(name, self.tokenizer, recipe.seed, room)

    @property
    def _tools(self) -> tuple[dict[str, Any], ...]:
        return () if self._environments is None else self._environments.tools

    def _read(self, progress: Callable[[int], None] | None) -> PromptReport:
        """What the user's files hold."""
        files = [Path(file) for file in self.recipe.data]
        return check_prompts(files, self.tokenizer, self.recipe.prompt_room, progress, tools=self._tools)

    def _columns(self, source: PromptSource) -> Collection[str]:
        """What a source's prompts carry for rewards; of files what every row has, where they were read."""
        if source.name == DATA and self._report is not None:
            return self._report.columns
        # Each level once: one whose prompts are all too long is told now and not hours into the run.
        levels = [level for level in source.levels if level <= self.recipe.max_difficulty] or [0]
        columns = {name for level in levels for name in source.draw(0, level).columns}
        return {*columns, "answer"} if source.levels else columns

    def _check(self, columns: Collection[str]) -> None:
        """Raises DataError where a reward or an environment needs a column that no prompts carry."""
        assert self._rewards is not None
        if self._environments is not None and any(
            name != DATA for name in {**self.recipe.shares, **self.recipe.final_shares}
        ):
            raise DataError("an environment answers to prompts of yours: the share of data must be 1")
        self._rewards.check({*columns, *KNOWN, "prompts", "completions"})
        if self._environments is not None and (missing := self._environments.needs - {*columns}):
            there = ", ".join(sorted(columns)) or "none"
            where = self._environments.place or self._environments.name
            raise DataError(f"{where} needs the column {min(missing)!r}; the rows have {there:.200}")

    @classmethod
    def begin(
        cls,
        recipe: RLRecipe,
        *,
        device: torch.device | str = "cpu",
        skip_bad: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> RLRun:
        """A new run; with `skip_bad`, rows of the user's files that cannot be used are left out.

        `progress` is told the bytes of each row as it is read. Raises DataError naming bad rows, rewards and
        environments that cannot be used, and what loading a model raises.
        """
        torch.manual_seed(recipe.seed)
        tokenizer = MiniMaxM1Tokenizer.from_pretrained(recipe.start)
        model = weights.started(recipe.start, device, recipe.lora_rank, recipe.lora_alpha, recipe.lora_targets)
        return cls(recipe, tokenizer, model, skip_bad=skip_bad, progress=progress)

    @classmethod
    def resume(cls, folder: Path, settings: Sequence[str] = (), *, device: torch.device | str = "cpu") -> RLRun:
        """The run as its checkpoint left it, with some settings changed from the next batch on.

        Raises DataError: there is no checkpoint, or a setting is one of `FIXED`.
        """
        kept = checkpoint.resumed(folder, RLRecipe.from_dict, settings, FIXED)
        recipe, progress = kept.recipe, kept.progress
        model = weights.kept(folder, recipe.start, device, recipe.lora_rank)
        tokenizer = MiniMaxM1Tokenizer.from_pretrained(folder)
        run = cls(recipe, tokenizer, model, skip=frozenset(progress["skip"]), notes=kept.notes)
        try:
            run._restore(folder, progress, forgiven="rewards" in kept.changed)
        except BaseException:  # the processes of rewards are on their way already
            run.close()
            raise
        return run

    def _restore(self, folder: Path, kept: Mapping[str, Any], forgiven: bool) -> None:
        """Puts everything where a checkpoint has it; other rewards begin with no batch lost."""
        self._collector.load(kept["collector"])
        state: dict[str, Any] = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
        restore(self.optimizer, state["optimizer"])
        randomness.restore(state, self.model.device)
        self._waiting = [RolloutBatch(**each) for each in state["waiting"]]
        self.step, self.batch, self.tokens = kept["step"], kept["batch"], kept["tokens"]
        self._shares, self._lost = kept["shares"], 0 if forgiven else kept["lost"]

    @property
    def done(self) -> float:
        """Batches that have been learned, in part too."""
        return self.batch - len(self._waiting) / self._shares

    @property
    def total(self) -> float:
        """Batches of the whole run."""
        return self.recipe.batches

    @property
    def position(self) -> dict[str, int]:
        """What lines of the logs are counted by: answers come before their updates, and some batches have none."""
        return {"step": self.step, "batch": self.batch}

    def size(self) -> str:
        """What is left to do, in words."""
        recipe = self.recipe
        return (
            f"{self.total - self.done:g} batches of {recipe.prompts} x {recipe.group} answers, "
            f"{recipe.updates} updates on each"
        )

    def open(self, folder: Path) -> None:
        """Where answers are written down."""
        self._samples = folder / "samples.jsonl"

    def said(self) -> list[str]:
        """What there is to show since this was last asked."""
        said, self._said = self._said, []
        return said

    def headline(self, figures: Mapping[str, float]) -> str:
        """What stands beside the progress bar."""
        return f"batch {self.batch} of {self.recipe.batches}, update {self.step}"

    def train_step(self, report: bool = True) -> dict[str, float]:
        """One update, with a new batch of rollouts before it where none waits; gives the figures of both.

        A batch in which no answer can be learned from is passed over without an update. Raises DataError: the gradient
        is not finite, a file of prompts has changed, or no answer got a reward for some batches in a row.
        """
        collected = None if self._waiting else self._roll()
        figures = {} if collected is None else dict(collected.figures)
        if self._waiting:
            recipe = self.recipe
            rollouts = self._waiting.pop(0)
            figures |= update(
                self.model,
                self.optimizer,
                rollouts,
                recipe.loss,
                rate=recipe.rate(self.step, min(1.0, self.done / self.total)),
                clip_norm=recipe.clip_norm,
                batch_tokens=recipe.batch_tokens,
                precision=recipe.precision,
                recompute=recipe.recompute,
            )
            self.step += 1
            if collected is not None and "pearson" in figures:  # no update lies between sampler and trainer yet
                figures["agreement"] = figures["pearson"]
        if collected is not None:
            self._said += [*collected.said, line(self.batch, figures)]
        if self.done >= self.total and self._held_out.prompts:
            self._actor.load(merged_weights(self.model))
            figures |= self._measured()
        if "tokens" in figures:  # of this update alone, while curves are drawn over tokens that count up
            figures["learned_tokens"] = figures.pop("tokens")
        return {"step": self.step, "batch": self.batch, **figures}

    def _roll(self) -> Collected:
        self._actor.load(merged_weights(self.model))
        measured = self._measured() if self.batch % self.recipe.held_out_every == 0 else {}
        collected = self._collector.collect(self.batch, min(1.0, self.batch / self.total))
        collected.figures.update(measured)
        self.batch += 1
        self.tokens += sum(answer.length for group in collected.groups for answer in group.answers)
        self._write(collected)
        if collected.rollouts is not None:
            self._waiting = collected.rollouts.updates(self.recipe.updates)
            self._shares = len(self._waiting)
        rewarded = any(group.rewards for group in collected.groups)
        self._lost = 0 if rewarded else self._lost + 1
        if self._lost >= _MOST_LOST:
            why = "; ".join(collected.said[:3]) or "none of the rewards applies to any"
            raise DataError(f"no answer got a reward in {self._lost} batches in a row, so the run ends: {why}")
        return collected

    def _write(self, collected: Collected) -> None:
        """Some answers with their rewards; a full disk costs them and no more."""
        if self._samples is None:
            return
        try:
            with self._samples.open("a", encoding="utf-8") as file:
                for sample in samples(collected.groups, self.tokenizer):
                    told = {"step": self.step, "batch": self.batch, **sample}
                    file.write(json.dumps(told, ensure_ascii=False) + "\n")
        except OSError as error:
            self._said.append(f"no samples: {error}")

    def save(self, folder: Path) -> None:
        """Writes a checkpoint in place of the old one; raises OSError where it cannot, and the old one stays."""
        recipe = self.recipe

        def fill(fresh: Path) -> None:
            weights.keep(self.model, self.tokenizer, fresh, recipe.start, recipe.lora_rank)
            waiting = [each.state() for each in self._waiting]
            state = {"optimizer": self.optimizer.state_dict(), "waiting": waiting}
            torch.save({**state, **randomness.state(self.model.device)}, fresh / "optimizer.pt")
            progress = {"step": self.step, "batch": self.batch, "tokens": self.tokens, "lost": self._lost}
            kept = {**progress, "shares": self._shares, "skip": sorted(self.skip), "collector": self._collector.state()}
            (fresh / "progress.json").write_text(json.dumps({**kept, "recipe": recipe.to_dict()}), "utf-8")

        checkpoint.write(folder, fill)

    def finish(self, folder: Path) -> None:
        """Writes the model as anyone opens it; raises OSError as `save`."""
        recipe = self.recipe
        checkpoint.write(
            folder, lambda fresh: weights.finish(self.model, self.tokenizer, fresh, recipe.start, recipe.lora_rank)
        )

    def close(self) -> None:
        """Ends the processes of rewards and environments."""
        if self._rewards is not None:
            self._rewards.close()
        if self._environments is not None:
            self._environments.close()


def _told(report: PromptReport, skip_bad: bool) -> tuple[str, ...]:
    """What the user should know of the files; raises DataError where rows cannot be used and are not to be left out."""
    report.refuse(skip_bad, "rows")
    notes = [f"data: {report.rows:,} prompts, the longest of {report.longest:,} tokens"]
    if report.bad:
        notes.append(f"{len(report.bad):,} rows are left out, the first {report.faults[0]}")
    return tuple(notes)
