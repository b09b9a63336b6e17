"""The whole road in small: log, model folder, exact resume after a kill, and refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from minimax_m1.errors import DataError
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train.pretrain import Run, main
from minimax_m1.train.recipe import recipe
from minimax_m1.train.vocabulary import build_tokenizer


def logged(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_gives_a_model_that_loads(tmp_path: Path) -> None:
    folder = main("tiny", [], tmp_path / "run")
    model = MiniMaxM1ForCausalLM.from_pretrained(folder, progress=False)
    tokenizer = MiniMaxM1Tokenizer.from_pretrained(folder)
    assert model.config.vocab_size == tokenizer.vocab_size and model.config.eos_token_id == tokenizer.eos_token_id
    assert json.loads((folder / "generation_config.json").read_text())["do_sample"] is False
    lines = logged(tmp_path / "run")
    assert lines[-1]["tokens"] >= recipe("tiny").tokens and lines[-1]["loss"] < lines[0]["loss"]
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["recipe"]["seed"] == 0
    with pytest.raises(DataError, match="holds a run already"):
        main("tiny", [], tmp_path / "run")


def test_a_resumed_run_takes_the_same_steps_to_the_bit(tmp_path: Path) -> None:
    plan = recipe("tiny")
    run = Run(plan, build_tokenizer(plan))
    for _ in range(2):
        run.train_step()
    run.save(tmp_path / "checkpoint")
    again = Run.resume(plan, tmp_path / "checkpoint")
    for _ in range(3):
        assert again.train_step() == run.train_step()
    for mine, theirs in zip(again.model.parameters(), run.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_after_a_kill_the_same_command_with_resume_gives_the_same_losses(tmp_path: Path) -> None:
    settings = ["checkpoint_minutes=0.0", "tokens=6000"]
    main("tiny", settings, tmp_path / "whole")
    code = "import sys; from pathlib import Path; from minimax_m1.train.pretrain import main; "
    code += f"main('tiny', {settings!r}, Path(sys.argv[1]))"
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "cut")], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "cut" / "checkpoint" / "training.pt").exists():
        assert time.monotonic() < deadline and child.poll() is None, "no checkpoint came"
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    main("tiny", settings, tmp_path / "cut", resume=True)
    whole = {line["step"]: line["loss"] for line in logged(tmp_path / "whole")}
    cut = {line["step"]: line["loss"] for line in logged(tmp_path / "cut")}
    assert cut == whole


def test_a_kill_between_the_renames_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    plan = recipe("tiny")
    run = Run(plan, build_tokenizer(plan))
    run.save(tmp_path / "checkpoint")
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")
    assert Run.resume(plan, tmp_path / "checkpoint").step == 0


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no checkpoint to resume"):
        main("tiny", [], tmp_path / "none", resume=True)
