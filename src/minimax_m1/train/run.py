"""A run's moving parts: model, optimizer, where the data stands, how far it has come; and how they are kept.

In: a recipe, or the checkpoint of an earlier run. Out: a `Run` that takes steps and saves itself. A run that goes on
from its checkpoint takes the same steps as one that was never stopped, to the bit on CPU.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from minimax_m1.kernels.ops import Ops
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train import checkpoint, randomness, weights
from minimax_m1.train.activations import Activations
from minimax_m1.train.family import FamilySource
from minimax_m1.train.jsonl import JsonlSource
from minimax_m1.train.mixture import Mixture
from minimax_m1.train.optimizer import adamw, restore
from minimax_m1.train.pack import pack
from minimax_m1.train.ready import Ready, ready
from minimax_m1.train.recipe import DATA, Recipe
from minimax_m1.train.sample import Sampler
from minimax_m1.train.source import Source
from minimax_m1.train.step import train_step
from minimax_m1.train.vocabulary import build_tokenizer

# What a run is made of: another value would make it another run, which begins anew.
FIXED = (
    *("stage", "model", "start", "data", "shares", "seed", "max_position"),
    *("lora_rank", "lora_alpha", "lora_targets"),
)


class Run:
    """`step` updates done, `tokens` read; `model` is what is trained, adapters included."""

    def __init__(self, settled: Ready, tokenizer: MiniMaxM1Tokenizer, model: MiniMaxM1ForCausalLM) -> None:
        """A run at its beginning; `begin` and `resume` make one. Raises DataError where there is no data."""
        recipe = settled.recipe
        self.recipe, self.skip, self.notes = recipe, settled.skip, settled.notes
        self.tokenizer, self.model = tokenizer, model
        self.optimizer = adamw(
            model, rate=recipe.learning_rate, betas=recipe.betas, eps=recipe.eps, decay=recipe.weight_decay
        )
        self.sources = _sources(recipe, tokenizer, settled.skip)
        self.mixture = Mixture(self.sources, {source.name: recipe.shares[source.name] for source in self.sources})
        self.step = self.tokens = 0
        self._sampler: Sampler | None = None
        self._sampled = time.monotonic()

    @classmethod
    def begin(
        cls,
        recipe: Recipe,
        *,
        device: torch.device | str = "cpu",
        skip_bad: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Run:
        """A new run; with `skip_bad`, lines of the user's files that cannot be used are left out.

        `progress` is told the bytes of each line of these files as they are read. Raises DataError naming bad lines,
        and what loading a model raises.
        """
        torch.manual_seed(recipe.seed)
        tokenizer = MiniMaxM1Tokenizer.from_pretrained(recipe.start) if recipe.start else build_tokenizer(recipe)
        settled = ready(recipe, tokenizer, skip_bad=skip_bad, progress=progress)
        if recipe.model is not None:
            ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
            shape = recipe.model.replace(vocab_size=tokenizer.vocab_size, **ends)
            # Drawn on the CPU, so that a seed gives the same weights wherever they train.
            model = MiniMaxM1ForCausalLM(shape, ops=Ops.default(torch.device(device))).to(device)
        else:
            model = weights.started(recipe.start, device, recipe.lora_rank, recipe.lora_alpha, recipe.lora_targets)
        return cls(settled, tokenizer, model)

    @classmethod
    def resume(cls, folder: Path, settings: Sequence[str] = (), *, device: torch.device | str = "cpu") -> Run:
        """The run as its checkpoint left it, with some settings changed from here on.

        Raises DataError: there is no checkpoint, or a setting is one of `FIXED`.
        """
        kept = checkpoint.resumed(folder, Recipe.from_dict, settings, FIXED)
        recipe, progress = kept.recipe, kept.progress
        model = weights.kept(folder, recipe.start, device, recipe.lora_rank)
        settled = Ready(recipe=recipe, skip=frozenset(progress["skip"]), notes=kept.notes)
        run = cls(settled, MiniMaxM1Tokenizer.from_pretrained(folder), model)
        state: dict[str, Any] = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
        restore(run.optimizer, state["optimizer"])
        randomness.restore(state, model.device)
        run.mixture.load(progress["mixture"])
        run.step, run.tokens = progress["step"], progress["tokens"]
        return run

    @property
    def done(self) -> float:
        """Tokens read."""
        return self.tokens

    @property
    def total(self) -> float:
        """Tokens of the whole run."""
        return self.recipe.tokens

    @property
    def position(self) -> dict[str, int]:
        """What lines of the logs are counted by."""
        return {"step": self.step}

    def size(self) -> str:
        """What is left to do, in words."""
        left = self.recipe.tokens - self.tokens
        return f"{left:,} tokens, about {-(-left // self.recipe.phases[-1].batch_tokens):,} steps"

    def open(self, folder: Path) -> None:
        """Where samples of what the model says are written down."""
        window = min(phase.length for phase in self.recipe.phases)
        self._sampler = Sampler(self.sources, self.tokenizer, folder / "samples.jsonl", self.recipe.seed, window)

    def said(self) -> list[str]:
        """What there is to show since this was last asked: every few minutes, some answers of the model."""
        minutes = self.recipe.sample_minutes
        if self._sampler is None or not minutes or time.monotonic() - self._sampled < minutes * 60:
            return []
        try:
            return [str(sample) for sample in self._sampler.ask(self.model, self.step)]
        except OSError as error:
            return [f"no samples: {error}"]
        finally:
            self._sampled = time.monotonic()

    def headline(self, figures: Mapping[str, float]) -> str:
        """What stands beside the progress bar."""
        return f"loss {figures['loss']:.4f}, {figures['tokens_per_second']:,.0f} tokens/s"

    def train_step(self, report: bool = True) -> dict[str, float]:
        """One update; gives the step's figures (step.py), with what activations took at the very first.

        Raises DataError: the gradient is not finite, or a file of data has changed.
        """
        recipe, phase = self.recipe, self.recipe.phase(self.tokens)
        documents = self.mixture.batch(phase.batch_tokens, phase.max_difficulty, phase.length)
        data = pack(documents, recipe.prompt_weight)
        kept = Activations(self.model) if self.step == 0 else None
        with kept or nullcontext():
            figures = train_step(
                self.model,
                self.optimizer,
                data,
                rate=recipe.rate(self.step, self.tokens),
                clip_norm=recipe.clip_norm,
                precision=recipe.precision,
                recompute=recipe.recompute,
                report=report,
            )
        if kept is not None:
            figures["activation_mb"] = kept.bytes / 1e6
        self.step += 1
        self.tokens += len(data.batch.ids)
        return {"step": self.step, "tokens": self.tokens, "documents": len(documents), **figures}

    def save(self, folder: Path) -> None:
        """Writes a checkpoint in place of the old one; raises OSError where it cannot, and the old one stays."""

        def fill(fresh: Path) -> None:
            weights.keep(self.model, self.tokenizer, fresh, self.recipe.start, self.recipe.lora_rank)
            state = {"optimizer": self.optimizer.state_dict(), **randomness.state(self.model.device)}
            torch.save(state, fresh / "optimizer.pt")
            progress = {"step": self.step, "tokens": self.tokens, "mixture": self.mixture.state()}
            kept = {**progress, "skip": sorted(self.skip), "recipe": self.recipe.to_dict()}
            (fresh / "progress.json").write_text(json.dumps(kept), "utf-8")

        checkpoint.write(folder, fill)

    def finish(self, folder: Path) -> None:
        """Writes the model as anyone opens it, adapters merged into their weights; raises OSError as `save`."""
        recipe = self.recipe
        checkpoint.write(
            folder, lambda fresh: weights.finish(self.model, self.tokenizer, fresh, recipe.start, recipe.lora_rank)
        )

    def close(self) -> None:
        """Nothing outlives a run of this kind."""


def _sources(recipe: Recipe, tokenizer: MiniMaxM1Tokenizer, skip: frozenset[str]) -> list[Source]:
    """One for each share above 0."""
    sources: list[Source] = []
    for name, share in recipe.shares.items():
        if share and name == DATA:
            files = [Path(file) for file in recipe.data]
            sources.append(JsonlSource(files, tokenizer, recipe.seed, recipe.max_position, name=DATA, skip=skip))
        elif share:
            sources.append(FamilySource(name, tokenizer, recipe.seed, recipe.max_position))
    return sources
