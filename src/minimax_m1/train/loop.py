"""A run from its first step to its last: steps, log, samples, checkpoints, and the finished model.

In: a recipe, or the folder of a run to go on with. Out, in the run's folder: recipe.json, metrics.jsonl (a line each
few steps), TensorBoard events, samples.jsonl, checkpoint/, curves, and model/ at the end.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from threading import Event
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from minimax_m1.engine.device import usable
from minimax_m1.engine.durable import locked
from minimax_m1.errors import CheckpointError, DataError, RequestError
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.train import checkpoint, curves
from minimax_m1.train.board import Board
from minimax_m1.train.recipe import Recipe
from minimax_m1.train.rl.recipe import RLRecipe
from minimax_m1.train.rl.run import RLRun
from minimax_m1.train.run import Run

# Figures that do not come with every step, so that steps which have them are logged: of the first one, of a batch of
# rollouts.
_ONCE = frozenset({"activation_mb", "rollout_seconds"})


class Trainable(Protocol):
    """What the loop drives: `Run`, or `RLRun`."""

    model: MiniMaxM1ForCausalLM
    step: int
    tokens: int

    @property
    def recipe(self) -> Any: ...
    @property
    def notes(self) -> Sequence[str]: ...
    @property
    def done(self) -> float: ...
    @property
    def total(self) -> float: ...
    @property
    def position(self) -> Mapping[str, int]: ...
    def open(self, folder: Path) -> None: ...
    def train_step(self, report: bool = True) -> dict[str, float]: ...
    def said(self) -> list[str]: ...
    def headline(self, figures: Mapping[str, float]) -> str: ...
    def size(self) -> str: ...
    def save(self, folder: Path) -> None: ...
    def finish(self, folder: Path) -> None: ...
    def close(self) -> None: ...


def train(recipe: Recipe | RLRecipe, folder: Path, *, device: str = "cpu", skip_bad: bool = False) -> Path:
    """Runs a recipe to its end and gives the folder of the finished model.

    Ctrl-C or SIGTERM saves the run after the step under way; a second one ends it at once. Raises DataError: data that
    cannot be used, a folder in use, a device that is not there or has too little memory, a full disk at the end, or a
    gradient that is not finite. The last checkpoint is whole in each case.
    """
    _refuse_second(folder)
    console = Console()
    run: Trainable
    with _on(device):
        with _reading(recipe.data, console) as progress:
            if isinstance(recipe, RLRecipe):
                run = RLRun.begin(recipe, device=device, skip_bad=skip_bad, progress=progress)
            else:
                run = Run.begin(recipe, device=device, skip_bad=skip_bad, progress=progress)
        with closing(run):
            folder.mkdir(parents=True, exist_ok=True)
            with _alone(folder):
                _refuse_second(folder)
                return _whole(run, folder, console)


def resume(folder: Path, settings: Sequence[str] = (), *, device: str = "cpu") -> Path:
    """Goes on with the run in `folder` from its checkpoint, with some of the recipe's settings changed; as `train`."""
    with _on(device), _alone(folder):
        kind: Any = RLRun if _stage(folder / "checkpoint") == "rl" else Run
        run: Trainable = kind.resume(folder / "checkpoint", settings, device=device)
        with closing(run):
            return _whole(run, folder, Console())


def _stage(folder: Path) -> str:
    """What kind of run a checkpoint is of; "" where there is none."""
    if not checkpoint.whole(folder):
        return ""
    return str(json.loads((folder / "progress.json").read_text("utf-8"))["recipe"]["stage"])


def _whole(run: Trainable, folder: Path, console: Console) -> Path:
    """The run to its end, its record before and its model after."""
    for name in ("metrics.jsonl", "samples.jsonl"):
        _forget(folder / name, run.position)
    record = {
        "recipe": run.recipe.to_dict(),
        "torch": torch.__version__,
        "device": _named(run.model.device),
        "threads": torch.get_num_threads(),
    }
    (folder / "recipe.json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    trained = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    size = f"{run.recipe.name}: {trained:,} weights to train, {run.size()}, in {folder}"
    for line in (*run.notes, size):
        _print(console, line)
    with _stopping() as asked:
        _steps(run, folder, console, asked)
    try:
        run.save(folder / "checkpoint")
        if run.done < run.total:
            raise DataError(f"stopped after {run.step:,} steps and {run.tokens:,} tokens; --resume goes on from there")
        run.finish(folder / "model")
    except OSError as error:
        raise DataError(f"the model could not be written to {folder} ({error}); --resume tries again") from None
    try:
        curves.draw(folder)
    except DataError as error:  # a picture is worth less than the model
        _print(console, str(error))
    return folder / "model"


def _steps(run: Trainable, folder: Path, console: Console, asked: Event) -> None:
    """Steps to the end of the recipe, or until it is asked to stop; logging and saving on the way."""
    plan, board = run.recipe, Board(folder, run.step)
    run.open(folder)
    if not board.on:
        _print(console, "no TensorBoard log is written: pip install 'minimax-m1[train]'")
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), TimeRemainingColumn())
    saved = time.monotonic()
    before, stepping = run.tokens, 0.0
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(plan.name, total=run.total)
        bar.update(task, completed=run.done)
        while run.done < run.total and not asked.is_set():
            due = (run.step + 1) % plan.log_every == 0
            begun = time.monotonic()
            figures = run.train_step(report=due)
            stepping += time.monotonic() - begun
            if due or figures.keys() & _ONCE or run.done >= run.total:
                if run.tokens > before:  # the updates on one batch of rollouts share its tokens
                    figures["tokens_per_second"] = (run.tokens - before) / stepping
                    before, stepping = run.tokens, 0.0
                figures["memory_mb"] = memory_mb(run.model.device)
                with _disk(bar.console, f"step {run.step} is not in the log"):
                    _log(folder / "metrics.jsonl", figures)
                    board.write(run.step, figures)
                bar.update(task, description=run.headline(figures))
            bar.update(task, completed=run.done)
            for line in run.said():
                _print(bar.console, line)
            if time.monotonic() - saved >= plan.checkpoint_minutes * 60:
                with _disk(bar.console, f"no checkpoint at step {run.step}, the one before is kept"):
                    run.save(folder / "checkpoint")
                saved = time.monotonic()
    board.close()


def _print(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, highlight=False, markup=False)


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
def _reading(data: Sequence[str], console: Console) -> Iterator[Any]:
    """A bar over the bytes of the user's files while they are read and checked; None where there are none."""
    files = [Path(file) for file in data]
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


@contextmanager
def _on(device: str) -> Iterator[None]:
    """Makes a device the current one, which kernels for GPUs are launched on; raises DataError where there is none, or
    too little memory on it."""
    try:
        known = usable(device)
    except RequestError as error:
        raise DataError(f"{error}; give cpu, cuda or cuda:N") from None
    with torch.cuda.device(known) if known.type == "cuda" else nullcontext():
        try:
            yield
        except torch.OutOfMemoryError as error:
            told = ". ".join(str(error).split(". ")[:2])
            raise DataError(
                f"device {device!r} has too little memory; lower batch_tokens, or recompute=true keeps less for the "
                f"backward pass: {told}"
            ) from None


def _forget(log: Path, position: Mapping[str, int]) -> None:
    """Takes what came after `position` out of a log, and lines that a kill cut: all that is about to come again."""
    if log.exists():
        lines = [line for line in log.read_text("utf-8").splitlines() if _is_past(line, position)]
        fresh = log.with_name(log.name + ".new")
        fresh.write_text("".join(line + "\n" for line in lines), "utf-8")
        fresh.rename(log)


def _is_past(line: str, position: Mapping[str, int]) -> bool:
    try:
        told: Any = json.loads(line)
        return all(told[name] <= last for name, last in position.items())
    except (ValueError, KeyError, TypeError):
        return False


def _named(device: torch.device) -> str:
    """A GPU by its maker's name, else its kind."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def memory_mb(device: torch.device) -> float:
    """The most memory taken so far, in millions of bytes: the device's where it counts it, else the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        status = Path("/proc/self/status").read_text("utf-8")
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)
