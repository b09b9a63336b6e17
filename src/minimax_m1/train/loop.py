"""A run from its first step to its last: steps, log, samples, checkpoints, and the finished model.

In: a recipe, or the folder of a run to go on with. Out, in the run's folder: recipe.json, metrics.jsonl (a line each
few steps), TensorBoard events, samples.jsonl, checkpoint/, curves, and model/ at the end.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from minimax_m1.engine.durable import locked
from minimax_m1.errors import CheckpointError, DataError
from minimax_m1.train import checkpoint, curves
from minimax_m1.train.board import Board
from minimax_m1.train.recipe import Recipe
from minimax_m1.train.run import Run
from minimax_m1.train.sample import Sampler


def train(recipe: Recipe, folder: Path, *, device: str = "cpu", skip_bad: bool = False) -> Path:
    """Runs a recipe to its end and gives the folder of the finished model.

    Ctrl-C or SIGTERM saves the run after the step under way; a second one ends it at once. Raises DataError: data that
    cannot be used, a folder in use, a device that is not there, a full disk at the end, or a gradient that is not
    finite. The last checkpoint is whole in each case.
    """
    _refuse_second(folder)
    _check_device(device)
    console = Console()
    with _reading(recipe, console) as progress:
        run = Run.begin(recipe, device=device, skip_bad=skip_bad, progress=progress)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        _refuse_second(folder)
        return _whole(run, folder, console)


def resume(folder: Path, settings: Sequence[str] = (), *, device: str = "cpu") -> Path:
    """Goes on with the run in `folder` from its checkpoint, with some of the recipe's settings changed; as `train`."""
    _check_device(device)
    with _alone(folder):
        return _whole(Run.resume(folder / "checkpoint", settings, device=device), folder, Console())


def _whole(run: Run, folder: Path, console: Console) -> Path:
    """The run to its end, its record before and its model after."""
    plan = run.recipe
    for name in ("metrics.jsonl", "samples.jsonl"):
        _forget(folder / name, run.step)
    record = {"recipe": plan.to_dict(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    (folder / "recipe.json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    trained = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    steps = f"about {-(-(plan.tokens - run.tokens) // plan.phases[-1].batch_tokens):,} steps"
    size = f"{plan.name}: {trained:,} weights to train, {plan.tokens - run.tokens:,} tokens, {steps}, in {folder}"
    for line in (*run.notes, size):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    with _stopping() as asked:
        _steps(run, folder, console, asked)
    try:
        run.save(folder / "checkpoint")
        if run.tokens < plan.tokens:
            raise DataError(f"stopped after {run.tokens:,} tokens; --resume goes on from there")
        run.finish(folder / "model")
    except OSError as error:
        raise DataError(f"the model could not be written to {folder} ({error}); --resume tries again") from None
    try:
        curves.draw(folder)
    except DataError as error:  # a picture is worth less than the model
        console.print(str(error), soft_wrap=True, highlight=False, markup=False)
    return folder / "model"


def _steps(run: Run, folder: Path, console: Console, asked: Event) -> None:
    """Steps to the end of the recipe, or until it is asked to stop; logging, sampling and saving on the way."""
    plan, board = run.recipe, Board(folder, run.step)
    window = min(phase.length for phase in plan.phases)
    sampler = Sampler(run.sources, run.tokenizer, folder / "samples.jsonl", plan.seed, window)
    if not board.on:
        console.print("no TensorBoard log is written: pip install 'minimax-m1[train]'", soft_wrap=True)
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), TimeRemainingColumn())
    saved = sampled = time.monotonic()
    before, stepping = run.tokens, 0.0
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(plan.name, total=plan.tokens, completed=run.tokens)
        while run.tokens < plan.tokens and not asked.is_set():
            due = (run.step + 1) % plan.log_every == 0
            begun = time.monotonic()
            figures = run.train_step(report=due)
            stepping += time.monotonic() - begun
            if due or "activation_mb" in figures or run.tokens >= plan.tokens:
                speed = (run.tokens - before) / stepping
                before, stepping = run.tokens, 0.0
                figures |= {"tokens_per_second": speed, "memory_mb": memory_mb(run.model.device)}
                with _disk(bar.console, f"step {run.step} is not in the log"):
                    _log(folder / "metrics.jsonl", figures)
                    board.write(run.step, figures)
                bar.update(task, description=f"loss {figures['loss']:.4f}, {speed:,.0f} tokens/s")
            bar.update(task, completed=run.tokens)
            if plan.sample_minutes and time.monotonic() - sampled >= plan.sample_minutes * 60:
                with _disk(bar.console, "no samples"):
                    for sample in sampler.ask(run.model, run.step):
                        bar.console.print(str(sample), markup=False, highlight=False, soft_wrap=True)
                sampled = time.monotonic()
            if time.monotonic() - saved >= plan.checkpoint_minutes * 60:
                with _disk(bar.console, f"no checkpoint at step {run.step}, the one before is kept"):
                    run.save(folder / "checkpoint")
                saved = time.monotonic()
    board.close()


def _log(metrics: Path, figures: Mapping[str, float]) -> None:
    with metrics.open("a", encoding="utf-8") as file:
        file.write(json.dumps(figures) + "\n")


@contextmanager
def _disk(console: Console, what: str) -> Iterator[None]:
    """What a full disk refuses costs a line on the screen and not the run."""
    try:
        yield
    except OSError as error:
        console.print(f"{what}: {error}", markup=False, soft_wrap=True)


@contextmanager
def _stopping() -> Iterator[Event]:
    """Set by Ctrl-C or SIGTERM and looked at between steps, so that none is cut; a second one interrupts at once."""
    asked = Event()

    def hear(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps a second process out of a run's folder; raises DataError where there is a first, or no folder."""
    with ExitStack() as held:
        try:
            held.enter_context(locked(folder))
        except FileNotFoundError:
            raise DataError(f"no checkpoint to resume in {folder / 'checkpoint'}") from None
        except CheckpointError:
            raise DataError(f"another process is training in {folder}") from None
        yield


@contextmanager
def _reading(recipe: Recipe, console: Console) -> Iterator[Any]:
    """A bar over the bytes of the user's files while they are read and checked; None where there are none."""
    files = [Path(file) for file in recipe.data]
    if not files:
        yield None
        return
    columns = (TextColumn("checking the data"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=sum(file.stat().st_size for file in files if file.is_file()))
        yield lambda read: bar.update(task, advance=read)


def _refuse_second(folder: Path) -> None:
    if checkpoint.whole(folder / "checkpoint") or (folder / "model").exists():
        raise DataError(f"{folder} holds a run already: give --resume to go on with it, or another --out")


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise DataError(f"no device {device!r} here: give cpu, cuda or cuda:N") from None


def _forget(log: Path, step: int) -> None:
    """Takes lines of later steps out of a log, and lines that a kill cut: these steps are about to be taken again."""
    if log.exists():
        lines = [line for line in log.read_text("utf-8").splitlines() if _step_of(line) <= step]
        fresh = log.with_name(log.name + ".new")
        fresh.write_text("".join(line + "\n" for line in lines), "utf-8")
        fresh.rename(log)


def _step_of(line: str) -> float:
    try:
        told: Any = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
    return float(told)


def memory_mb(device: torch.device) -> float:
    """The most memory taken so far, in millions of bytes: the device's where it counts it, else the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        status = Path("/proc/self/status").read_text("utf-8")
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)
