"""Pretraining: documents in, a model folder out, with a log, checkpoints and exact resume.

In: a recipe. Out, under the run's folder: recipe.json, metrics.jsonl (one line each few steps), checkpoint/ (model,
optimizer and cursor; a killed run goes on from it with the same losses to the bit on CPU), model/ at the end.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch.nn.functional import cross_entropy

from minimax_m1.errors import DataError
from minimax_m1.model.moe import balance_loss
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.data import Cursor, documents
from minimax_m1.train.pack import TrainingBatch, pack
from minimax_m1.train.recipe import Recipe, recipe
from minimax_m1.train.vocabulary import build_tokenizer

# How a model of ours answers where nobody says otherwise: these tasks have one right answer each.
_ANSWERS = {"do_sample": False, "max_new_tokens": 2048}


class Run:
    """A run's moving parts: model, optimizer, where the data stands, and how far it has come."""

    def __init__(self, recipe: Recipe, tokenizer: MiniMaxM1Tokenizer) -> None:
        torch.manual_seed(recipe.seed)
        config = recipe.model.replace(
            vocab_size=tokenizer.vocab_size, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id
        )
        self.recipe, self.tokenizer = recipe, tokenizer
        self.model = MiniMaxM1ForCausalLM(config)
        self.optimizer = optimizer(self.model, recipe)
        self.cursor = Cursor()
        self.step = self.tokens = 0

    def next_batch(self) -> TrainingBatch:
        """Documents until the phase's step is full; the last may reach over, none is cut."""
        phase = self.recipe.phase(self.tokens)
        packed, size = [], 0
        while size < phase.batch_tokens:
            for document in documents(self.recipe, self.tokenizer, self.cursor, phase.max_difficulty):
                packed.append(document)
                size += len(document.ids)
        return pack(packed, self.recipe.prompt_weight)

    def train_step(self) -> dict[str, float]:
        """One update; gives the step's figures."""
        data = self.next_batch()
        rate = self.recipe.rate(self.step, self.tokens)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        state = self.model.empty_state(len(data.batch.segments))
        low = self.recipe.precision == "bfloat16"
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=low):
            run = self.model.run(data.batch, state, logits="all")
        assert run.logits is not None
        losses = cross_entropy(run.logits, data.targets, reduction="none")
        loss = (losses * data.weights).sum() / data.weights.sum()
        balance = balance_loss(run.routing)
        (loss + self.model.config.router_aux_loss_coef * balance).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        if not torch.isfinite(norm):
            raise DataError(f"the gradient norm of step {self.step} is {norm.item()}; the last checkpoint is kept")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        said = data.weights == 1
        self.step += 1
        self.tokens += len(data.targets)
        return {
            "step": self.step,
            "tokens": self.tokens,
            "loss": loss.item(),
            "answer_loss": losses[said].mean().item(),
            "answer_accuracy": (run.logits[said].argmax(-1) == data.targets[said]).float().mean().item(),
            "balance": balance.item(),
            "grad_norm": norm.item(),
            "rate": rate,
        }

    def save(self, folder: Path) -> None:
        """Writes a checkpoint beside the old one and swaps them, so that a kill at any moment leaves one whole."""
        fresh, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
        shutil.rmtree(fresh, ignore_errors=True)
        self.model.save_pretrained(fresh)
        self.tokenizer.save_pretrained(fresh)
        progress = {"step": self.step, "tokens": self.tokens, "cursor": asdict(self.cursor)}
        torch.save({"optimizer": self.optimizer.state_dict(), **progress}, fresh / "training.pt")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
        shutil.rmtree(old, ignore_errors=True)

    @classmethod
    def resume(cls, recipe: Recipe, folder: Path) -> Run:
        """The run as its checkpoint left it; raises DataError where there is none."""
        if not folder.exists() and (old := folder.with_name(folder.name + ".old")).exists():
            old.rename(folder)  # killed between the two renames of `save`
        if not (folder / "training.pt").is_file():
            raise DataError(f"no checkpoint to resume in {folder}")
        run = cls(recipe, MiniMaxM1Tokenizer.from_pretrained(folder))
        saved = MiniMaxM1ForCausalLM.from_pretrained(folder, progress=False)
        run.model.load_state_dict(saved.state_dict())
        progress: dict[str, Any] = torch.load(folder / "training.pt", weights_only=True)
        run.optimizer.load_state_dict(progress["optimizer"])
        run.step, run.tokens, run.cursor = progress["step"], progress["tokens"], Cursor(**progress["cursor"])
        return run


def optimizer(model: MiniMaxM1ForCausalLM, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only, not on norms or the embedding."""
    decayed = [p for n, p in model.named_parameters() if p.dim() > 1 and "embed_tokens" not in n]
    free = [p for n, p in model.named_parameters() if p.dim() == 1 or "embed_tokens" in n]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, fused=True)


def main(name: str, settings: list[str], out: Path | None = None, resume: bool = False) -> Path:
    """Runs a named recipe to its end and gives the folder of the finished model.

    Raises DataError: an unknown recipe or key, a folder in use, or nothing to resume.
    """
    plan = recipe(name, settings)
    folder = out if out is not None else Path("runs") / name
    checkpoint = folder / "checkpoint"
    if resume:
        run = Run.resume(plan, checkpoint)
    elif (folder / "metrics.jsonl").exists():
        raise DataError(f"{folder} holds a run already: give --resume to go on with it, or another --out")
    else:
        run = Run(plan, build_tokenizer(plan))
    folder.mkdir(parents=True, exist_ok=True)
    record = {"recipe": plan.to_dict(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    (folder / "recipe.json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    _train(run, folder, checkpoint)
    run.save(checkpoint)
    model = folder / "model"
    run.model.save_pretrained(model)
    run.tokenizer.save_pretrained(model)
    (model / "generation_config.json").write_text(json.dumps(_ANSWERS, indent=2) + "\n", "utf-8")
    return model


def _train(run: Run, folder: Path, checkpoint: Path) -> None:
    """Steps to the end of the recipe, logging and saving on the way."""
    plan, saved = run.recipe, time.monotonic()
    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as log, Progress(*columns) as bar:
        task = bar.add_task(plan.name, total=plan.tokens, completed=run.tokens)
        began, before = time.monotonic(), run.tokens
        while run.tokens < plan.tokens:
            figures = run.train_step()
            speed = (run.tokens - before) / (time.monotonic() - began)
            told = f"loss {figures['loss']:.3f}  answers {figures['answer_accuracy']:.1%}  {speed:,.0f} tok/s"
            bar.update(task, completed=run.tokens, description=told)
            if run.step % plan.log_every == 0:
                log.write(json.dumps({**figures, "tokens_per_second": round(speed)}) + "\n")
                log.flush()
                if not bar.console.is_terminal:
                    print(f"step {run.step}  {run.tokens:,} tokens  {told}", flush=True)
            if time.monotonic() - saved > plan.checkpoint_minutes * 60:
                run.save(checkpoint)
                os.sync()
                saved = time.monotonic()
