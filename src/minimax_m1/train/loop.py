"""A run from its first step to its last: steps, log, samples, checkpoints, and the finished model.

In: a recipe and a folder. Out, in that folder: recipe.json, metrics.jsonl (a line each few steps), TensorBoard events,
samples.jsonl, checkpoint/ (what `resume` goes on from), curves, and model/ at the end.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from minimax_m1.errors import DataError
from minimax_m1.train import curves
from minimax_m1.train.board import Board
from minimax_m1.train.recipe import Recipe
from minimax_m1.train.run import Run
from minimax_m1.train.sample import Sampler


def train(recipe: Recipe, folder: Path, *, resume: bool = False, device: str = "cpu", skip_bad: bool = False) -> Path:
    """Runs a recipe to its end and gives the folder of the finished model.

    A run that is stopped with Ctrl-C saves itself first. Raises DataError: a folder in use, nothing to resume, a full
    disk at the end, or a gradient that is not finite; the last checkpoint is whole in each case.
    """
    metrics, checkpoint = folder / "metrics.jsonl", folder / "checkpoint"
    if not resume and metrics.exists():
        raise DataError(f"{folder} holds a run already: give --resume to go on with it, or another --out")
    if not resume:
        run = Run(recipe, device=device, skip_bad=skip_bad)
        folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        if resume:
            run = Run.resume(recipe, checkpoint, device=device, skip_bad=skip_bad)
            _forget(metrics, run.step)
        return _whole(run, folder)


def _whole(run: Run, folder: Path) -> Path:
    """The run to its end, its record before and its model after."""
    checkpoint = folder / "checkpoint"
    record = {"recipe": run.recipe.to_dict(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    (folder / "recipe.json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    console = Console()
    trained = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    size = f"{run.recipe.name}: {trained:,} weights to train, {run.recipe.tokens:,} tokens, in {folder}"
    for line in (*run.notes, size):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    try:
        _steps(run, folder, console)
    except KeyboardInterrupt:
        run.save(checkpoint)
        raise DataError(f"stopped after {run.tokens:,} tokens; --resume goes on from there") from None
    try:
        run.save(checkpoint)
        run.finish(folder / "model")
    except OSError as error:
        raise DataError(f"the model could not be written to {folder} ({error}); --resume tries again") from None
    try:
        curves.draw(folder)
    except DataError as error:  # a picture is worth less than the model
        console.print(str(error), soft_wrap=True, highlight=False, markup=False)
    return folder / "model"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps a second process out of a run's folder; raises DataError where there is a first, or no folder."""
    try:
        handle = (folder / ".lock").open("w")
    except FileNotFoundError:
        raise DataError(f"no checkpoint to resume in {folder / 'checkpoint'}") from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError(f"another process is training in {folder}") from None
        yield


def _steps(run: Run, folder: Path, console: Console) -> None:
    """Steps to the end of the recipe, logging, sampling and saving on the way."""
    plan, board = run.recipe, Board(folder, run.step)
    sampler = Sampler(run.sources, run.tokenizer, folder / "samples.jsonl", plan.seed)
    if not board.on:
        console.print("no TensorBoard log is written: pip install 'minimax-m1[train]'", soft_wrap=True)
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), TimeRemainingColumn())
    saved = sampled = last = time.monotonic()
    before = run.tokens
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as log, Progress(*columns, console=console) as bar:
        task = bar.add_task(plan.name, total=plan.tokens, completed=run.tokens)
        while run.tokens < plan.tokens:
            due = (run.step + 1) % plan.log_every == 0
            figures = run.train_step(report=due)
            if due or "activation_mb" in figures or run.tokens >= plan.tokens:
                now = time.monotonic()
                speed = (run.tokens - before) / max(now - last, 1e-9)
                before, last = run.tokens, now
                figures |= {"tokens_per_second": speed, "memory_mb": memory_mb(run.model.device)}
                log.write(json.dumps(figures) + "\n")
                log.flush()
                board.write(run.step, figures)
                bar.update(task, description=f"loss {figures['loss']:.4f}, {speed:,.0f} tokens/s")
            bar.update(task, completed=run.tokens)
            if plan.sample_minutes and time.monotonic() - sampled >= plan.sample_minutes * 60:
                for sample in sampler.ask(run.model, run.step):
                    bar.console.print(str(sample), markup=False, highlight=False, soft_wrap=True)
                sampled = time.monotonic()
            if time.monotonic() - saved >= plan.checkpoint_minutes * 60:
                _save(run, folder / "checkpoint", bar.console)
                saved = time.monotonic()
    board.close()


def _save(run: Run, folder: Path, console: Console) -> None:
    """A checkpoint that cannot be written costs a line and not the run: the last good one is still there."""
    try:
        run.save(folder)
    except OSError as error:
        line = f"no checkpoint at step {run.step}: {error}; the one before is kept"
        console.print(line, markup=False, soft_wrap=True)


def _forget(metrics: Path, step: int) -> None:
    """Takes lines of steps that the checkpoint does not know out of the log: they are about to be taken again."""
    if metrics.exists():
        lines = [line for line in metrics.read_text("utf-8").splitlines() if _step_of(line) <= step]
        metrics.write_text("".join(line + "\n" for line in lines), "utf-8")


def _step_of(line: str) -> float:
    try:
        told: Any = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line that a kill cut
    return float(told)


def memory_mb(device: torch.device) -> float:
    """The most memory taken so far: the device's where it counts it, else the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        status = Path("/proc/self/status").read_text("utf-8")
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1e3 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)
