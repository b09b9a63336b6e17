"""A run's moving parts: model, optimizer, where the data stands, how far it has come; and how they are kept.

In: a recipe, or the checkpoint of an earlier run. Out: a `Run` that takes steps and saves itself. A run that goes on
from its checkpoint takes the same steps as one that was never stopped, to the bit on CPU.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from minimax_m1.errors import DataError
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train import checkpoint
from minimax_m1.train.family import FamilySource
from minimax_m1.train.jsonl import JsonlSource
from minimax_m1.train.lora import add_lora, load_lora, merge, save_lora
from minimax_m1.train.mixture import Mixture
from minimax_m1.train.pack import pack
from minimax_m1.train.ready import ready
from minimax_m1.train.recipe import DATA, Recipe
from minimax_m1.train.source import Source
from minimax_m1.train.step import Activations, adamw, train_step
from minimax_m1.train.vocabulary import build_tokenizer


class Run:
    """`step` updates done, `tokens` read; `model` is what is trained, adapters included."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        device: torch.device | str = "cpu",
        skip_bad: bool = False,
        tokenizer: MiniMaxM1Tokenizer | None = None,
        adapters: Path | None = None,
    ) -> None:
        """A run at its beginning, its adapters new or from a folder.

        With `skip_bad`, lines of the user's files that cannot be used are left out. Raises DataError naming such lines
        otherwise, and what loading a model raises.
        """
        torch.manual_seed(recipe.seed)
        self.tokenizer = tokenizer or tokenizer_of(recipe)
        settled = ready(recipe, self.tokenizer, skip_bad=skip_bad)
        self.recipe = recipe = settled.recipe
        self.notes = settled.notes
        self.model = _model(recipe, self.tokenizer).to(device)
        if adapters is not None:
            load_lora(self.model, adapters)
        elif recipe.lora_rank:
            add_lora(self.model, recipe.lora_rank, recipe.lora_alpha, recipe.lora_targets)
        self.optimizer = adamw(
            self.model, rate=recipe.learning_rate, betas=recipe.betas, eps=recipe.eps, decay=recipe.weight_decay
        )
        self.sources = _sources(recipe, self.tokenizer, settled.skip)
        self.mixture = Mixture(self.sources, {source.name: recipe.shares[source.name] for source in self.sources})
        self.step = self.tokens = 0

    def train_step(self, report: bool = True) -> dict[str, float]:
        """One update; gives the step's figures (step.py), with what activations took at the very first."""
        recipe, phase = self.recipe, self.recipe.phase(self.tokens)
        documents = self.mixture.batch(phase.batch_tokens, phase.max_difficulty, phase.length)
        data = pack(documents, recipe.prompt_weight)
        kept = Activations(self.model)
        try:
            if self.step == 0:
                kept.__enter__()
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
        finally:
            if self.step == 0:
                kept.__exit__()
        if self.step == 0:
            figures["activation_mb"] = kept.bytes / 1e6
        self.step += 1
        self.tokens += len(data.batch.ids)
        return {"step": self.step, "tokens": self.tokens, "documents": len(documents), **figures}

    def save(self, folder: Path) -> None:
        """Writes a checkpoint in place of the old one, which stays where that fails (checkpoint.py)."""

        def fill(fresh: Path) -> None:
            if self.recipe.lora_rank:
                save_lora(self.model, fresh, self.recipe.start)
            else:
                self.model.save_pretrained(fresh)
            self.tokenizer.save_pretrained(fresh)
            torch.save({"optimizer": self.optimizer.state_dict(), "rng": torch.get_rng_state()}, fresh / "optimizer.pt")
            progress = {"step": self.step, "tokens": self.tokens, "mixture": self.mixture.state()}
            (fresh / "progress.json").write_text(json.dumps({**progress, "recipe": self.recipe.to_dict()}), "utf-8")

        checkpoint.write(folder, fill)

    def finish(self, folder: Path) -> None:
        """Writes the model as anyone opens it: adapters merged into their weights, and beside them in `adapter`."""

        def fill(fresh: Path) -> None:
            if self.recipe.lora_rank:
                save_lora(self.model, fresh / "adapter", self.recipe.start)
                merge(self.model)
            self.model.save_pretrained(fresh)
            self.tokenizer.save_pretrained(fresh)
            (fresh / "generation_config.json").write_text(json.dumps(_ANSWERS, indent=2) + "\n", "utf-8")

        checkpoint.write(folder, fill)

    @classmethod
    def resume(
        cls,
        recipe: Recipe,
        folder: Path,
        *,
        device: torch.device | str = "cpu",
        skip_bad: bool = False,
    ) -> Run:
        """The run as its checkpoint left it; raises DataError where there is none or it does not fit the recipe."""
        if not checkpoint.whole(folder):
            raise DataError(f"no checkpoint to resume in {folder}")
        progress: dict[str, Any] = json.loads((folder / "progress.json").read_text("utf-8"))
        if progress["recipe"]["lora_rank"] != recipe.lora_rank:
            trained = f"lora_rank {progress['recipe']['lora_rank']}"
            raise DataError(f"the checkpoint in {folder} was trained with {trained}, the recipe has {recipe.lora_rank}")
        run = cls(
            recipe,
            device=device,
            skip_bad=skip_bad,
            tokenizer=MiniMaxM1Tokenizer.from_pretrained(folder),
            adapters=folder if recipe.lora_rank else None,
        )
        if not recipe.lora_rank:
            saved = MiniMaxM1ForCausalLM.from_pretrained(folder, dtype=torch.float32, progress=False)
            run.model.load_state_dict(saved.state_dict())
        kept: dict[str, Any] = torch.load(folder / "optimizer.pt", weights_only=True)
        run.optimizer.load_state_dict(kept["optimizer"])
        torch.set_rng_state(kept["rng"])
        run.mixture.load(progress["mixture"])
        run.step, run.tokens = progress["step"], progress["tokens"]
        now = run.recipe.to_dict()
        changed = [f"{key} {old} -> {now[key]}" for key, old in progress["recipe"].items() if old != now[key]]
        if changed:
            run.notes = (*run.notes, f"changed since the checkpoint: {'; '.join(changed)}")
        return run


# How a model of ours answers where nobody says otherwise: these tasks have one right answer each.
_ANSWERS = {"do_sample": False, "max_new_tokens": 2048}


def tokenizer_of(recipe: Recipe) -> MiniMaxM1Tokenizer:
    """The start's, or one learned from the run's own texts."""
    return MiniMaxM1Tokenizer.from_pretrained(recipe.start) if recipe.start else build_tokenizer(recipe)


def _model(recipe: Recipe, tokenizer: MiniMaxM1Tokenizer) -> MiniMaxM1ForCausalLM:
    """Trained whole, weights are float32; frozen under adapters, they stay as they are."""
    if recipe.model is None:
        dtype = "auto" if recipe.lora_rank else torch.float32
        return MiniMaxM1ForCausalLM.from_pretrained(recipe.start, dtype=dtype)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return MiniMaxM1ForCausalLM(recipe.model.replace(vocab_size=tokenizer.vocab_size, **ends))


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
