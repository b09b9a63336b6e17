"""The whole road in small: log, samples, model folder, exact resume after a kill, full disks, and refusals."""

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
from safetensors.torch import load_file

from minimax_m1.errors import DataError
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train import loop
from minimax_m1.train.loop import train
from minimax_m1.train.recipes import recipe
from minimax_m1.train.run import Run

SHORT = ["tokens=5000"]


def logged(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_gives_a_model_that_loads(tmp_path: Path) -> None:
    folder = train(recipe("tiny", ["sample_minutes=0.000001"]), tmp_path / "run")
    model = MiniMaxM1ForCausalLM.from_pretrained(folder, progress=False)
    tokenizer = MiniMaxM1Tokenizer.from_pretrained(folder)
    assert model.config.vocab_size == tokenizer.vocab_size and model.config.eos_token_id == tokenizer.eos_token_id
    assert json.loads((folder / "generation_config.json").read_text())["do_sample"] is False
    lines = logged(tmp_path / "run")
    assert lines[-1]["tokens"] >= recipe("tiny").tokens and lines[-1]["loss"] < lines[0]["loss"]
    assert lines[0]["activation_mb"] > 1 and 0 < lines[1]["router_entropy"] < 2 and lines[1]["memory_mb"] > 50
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["recipe"]["seed"] == 0
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert len(samples) >= 3 and {"step", "source", "question", "answer", "reference"} == samples[0].keys()
    with pytest.raises(DataError, match="holds a run already"):
        train(recipe("tiny"), tmp_path / "run")


def test_samples_leave_the_run_as_it_is(tmp_path: Path) -> None:
    train(recipe("tiny", SHORT), tmp_path / "quiet")
    train(recipe("tiny", [*SHORT, "sample_minutes=0.000001"]), tmp_path / "told")
    assert [line["loss"] for line in logged(tmp_path / "quiet")] == [line["loss"] for line in logged(tmp_path / "told")]


@pytest.mark.parametrize("lora", [0, 2])
def test_a_resumed_run_takes_the_same_steps_to_the_bit(tmp_path: Path, lora: int) -> None:
    start = tmp_path / "start"
    Run(recipe("tiny")).finish(start)
    plan = recipe("tiny", [f"start={start}", f"lora_rank={lora}"])
    run = Run(plan)
    for _ in range(2):
        run.train_step()
    run.save(tmp_path / "checkpoint")
    again = Run.resume(plan, tmp_path / "checkpoint")
    for _ in range(3):
        assert again.train_step() == run.train_step()
    for mine, theirs in zip(again.model.parameters(), run.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_after_a_kill_the_same_command_with_resume_gives_the_same_losses(tmp_path: Path) -> None:
    settings = ["checkpoint_minutes=0.0"]
    train(recipe("tiny", settings), tmp_path / "whole")
    code = "import sys; from pathlib import Path; from minimax_m1.train.loop import train; "
    code += f"from minimax_m1.train.recipes import recipe; train(recipe('tiny', {settings!r}), Path(sys.argv[1]))"
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "cut")], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "cut" / "checkpoint" / "progress.json").exists():
        assert time.monotonic() < deadline and child.poll() is None, "no checkpoint came"
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    train(recipe("tiny", settings), tmp_path / "cut", resume=True)
    whole = {line["step"]: line["loss"] for line in logged(tmp_path / "whole")}
    cut = logged(tmp_path / "cut")
    assert {line["step"]: line["loss"] for line in cut} == whole and len(cut) == len(whole)


def test_a_recipe_that_changed_on_the_way_is_told(tmp_path: Path) -> None:
    run = Run(recipe("tiny"))
    run.save(tmp_path / "checkpoint")
    again = Run.resume(recipe("tiny", ["tokens=20000", "betas=[0.9, 0.99]"]), tmp_path / "checkpoint")
    assert again.notes == ("changed since the checkpoint: tokens 16000 -> 20000; betas [0.9, 0.95] -> [0.9, 0.99]",)
    assert Run.resume(recipe("tiny"), tmp_path / "checkpoint").notes == ()


def test_a_line_that_a_kill_cut_is_taken_out_of_the_log(tmp_path: Path) -> None:
    plan = recipe("tiny", SHORT)
    train(plan, tmp_path / "run")
    whole = logged(tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as log:
        log.write('{"step": 99, "loss": 1.0}\n{"step": 10')
    train(plan, tmp_path / "run", resume=True)
    assert logged(tmp_path / "run") == whole


def test_a_checkpoint_that_cannot_be_written_costs_a_line_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save, fails = Run.save, iter([False, True, True] + [False] * 100)

    def full(run: Run, folder: Path) -> None:
        if next(fails):
            raise OSError(28, "No space left on device")
        save(run, folder)

    monkeypatch.setattr(Run, "save", full)
    train(recipe("tiny", [*SHORT, "checkpoint_minutes=0.0"]), tmp_path / "run")
    assert capsys.readouterr().out.count("No space left on device; the one before is kept") == 2


def test_a_disk_that_is_full_at_the_end_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(run: Run, folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(DataError, match=r"could not be written .*--resume tries again"):
        patch.setattr(Run, "finish", full)
        train(recipe("tiny", SHORT), tmp_path / "run")
    assert train(recipe("tiny", SHORT), tmp_path / "run", resume=True).is_dir()


def test_ctrl_c_saves_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Run.train_step

    def stopped(run: Run, report: bool = True) -> dict[str, float]:
        if run.step == 3:
            raise KeyboardInterrupt
        return step(run, report)

    with monkeypatch.context() as patch, pytest.raises(DataError, match=r"stopped after .* --resume goes on"):
        patch.setattr(Run, "train_step", stopped)
        train(recipe("tiny", SHORT), tmp_path / "run")
    assert Run.resume(recipe("tiny", SHORT), tmp_path / "run" / "checkpoint").step == 3


def test_adapters_are_merged_at_the_end_and_kept_beside(tmp_path: Path, chats: Path) -> None:
    start = tmp_path / "start"
    Run(recipe("tiny")).finish(start)
    data = [f'data=["{chats}"]', f"start={start}", "epochs=2", "lora_rank=2", "length=200", "batch_tokens=400"]
    model = train(recipe("chats", [*data, "sample_minutes=0.000001"]), tmp_path / "run")
    before, after = (load_file(folder / "model.safetensors") for folder in (start, model))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys() and moved and all("self_attn" in name for name in moved)
    assert (model / "adapter" / "adapter_config.json").is_file()


def test_readings_of_the_files_decide_the_length(tmp_path: Path, chats: Path) -> None:
    start = tmp_path / "start"
    Run(recipe("tiny")).finish(start)
    settings = [f'data=["{chats}"]', f"start={start}", "length=200", "batch_tokens=400"]
    once, twice = (Run(recipe("chats", [*settings, f"epochs={n}"])).recipe.tokens for n in (1, 2))
    assert twice == 2 * once > 200


def test_a_run_on_texts_learns_its_own_vocabulary(tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": f"the zebra number {n} sleeps"}) + "\n" for n in range(40)))
    shape = [f"model.{key}={value}" for key, value in (("hidden_size", 32), ("intermediate_size", 32))]
    run = Run(recipe("texts", [f'data=["{texts}"]', *shape, "model.vocab_size=300", "tokens=100"]))
    assert len(run.tokenizer.encode(" zebra")) < 4
    assert run.train_step()["loss"] > 0


def test_bad_lines_stop_a_run_before_it_begins(tmp_path: Path, chats: Path) -> None:
    start = tmp_path / "start"
    Run(recipe("tiny")).finish(start)
    with chats.open("a") as file:
        file.write('{"messages": [\n{"messages": [{"role": "wizard", "content": "x"}]}\n')
    settings = [f'data=["{chats}"]', f"start={start}", "length=200", "batch_tokens=400", "epochs=1"]
    with pytest.raises(DataError, match=r"(?s)chats.jsonl:13: .*chats.jsonl:14: .*wizard.*--skip-bad"):
        train(recipe("chats", settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert train(recipe("chats", settings), tmp_path / "run", skip_bad=True).is_dir()


def test_a_gradient_that_is_not_finite_ends_the_run_and_harms_nothing(tmp_path: Path) -> None:
    run = Run(recipe("tiny"))
    run.train_step()
    run.save(tmp_path / "checkpoint")
    kept = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    with torch.no_grad():
        run.model.model.norm.weight[0] = float("nan")
    with pytest.raises(DataError, match="the gradient's norm is nan, so the step was not taken"):
        run.train_step()
    again = Run.resume(recipe("tiny"), tmp_path / "checkpoint")
    assert all(torch.equal(kept[name], tensor) for name, tensor in again.model.state_dict().items())


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Run.train_step

    def meddling(run: Run, report: bool = True) -> dict[str, float]:
        with pytest.raises(DataError, match="another process is training in"):
            train(recipe("tiny", SHORT), tmp_path / "run", resume=True)
        return step(run, report)

    monkeypatch.setattr(Run, "train_step", meddling)
    assert train(recipe("tiny", SHORT), tmp_path / "run").is_dir()


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no checkpoint to resume"):
        train(recipe("tiny"), tmp_path / "none", resume=True)


def test_memory_is_the_process_own() -> None:
    assert 50 < loop.memory_mb(torch.device("cpu")) < 20_000
