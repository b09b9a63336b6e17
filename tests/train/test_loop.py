"""The whole road in small: log, samples, model folder, exact resume after a kill, full disks, and refusals."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from minimax_m1.errors import DataError
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.text.tokenizer import MiniMaxM1Tokenizer
from minimax_m1.train import curves, loop
from minimax_m1.train.loop import resume, train
from minimax_m1.train.recipes import recipe, rl_recipe
from minimax_m1.train.rl.recipe import RLRecipe
from minimax_m1.train.rl.run import RLRun
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
def test_a_resumed_run_takes_the_same_steps_to_the_bit(tmp_path: Path, start: Path, lora: int) -> None:
    plan = recipe("tiny", [f"start={start}", f"lora_rank={lora}"])
    run = Run.begin(plan)
    for _ in range(2):
        run.train_step()
    run.save(tmp_path / "checkpoint")
    again = Run.resume(tmp_path / "checkpoint")
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
    resume(tmp_path / "cut")
    whole = {line["step"]: line["loss"] for line in logged(tmp_path / "whole")}
    cut = logged(tmp_path / "cut")
    assert {line["step"]: line["loss"] for line in cut} == whole and len(cut) == len(whole)


def test_settings_may_change_on_the_way_and_what_a_run_is_made_of_may_not(tmp_path: Path) -> None:
    Run.begin(recipe("tiny", ["log_every=7"])).save(tmp_path / "checkpoint")
    again = Run.resume(tmp_path / "checkpoint", ["tokens=20000", "betas=[0.9, 0.99]"])
    assert again.notes == ("changed: tokens 16000 -> 20000; betas [0.9, 0.95] -> [0.9, 0.99]",)
    assert again.recipe.tokens == 20_000 and again.recipe.log_every == 7
    assert Run.resume(tmp_path / "checkpoint").notes == ()
    for setting, said in (
        ("seed=3", "with seed 0, not 3"),
        ("model.hidden_size=64", "with model"),
        ("lora_rank=2", "adapters"),
    ):
        with pytest.raises(DataError, match=said):
            Run.resume(tmp_path / "checkpoint", [setting])


def test_a_line_that_a_kill_cut_is_taken_out_of_the_log(tmp_path: Path) -> None:
    plan = recipe("tiny", SHORT)
    train(plan, tmp_path / "run")
    whole = logged(tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as log:
        log.write('{"step": 99, "loss": 1.0}\n{"step": 10')
    shutil.rmtree(tmp_path / "run" / "model")
    resume(tmp_path / "run")
    assert logged(tmp_path / "run") == whole


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Files end after so many bytes, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("limit", [2_000, 200_000, 500_000])  # in the config, in the weights, in the optimizer
def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path, limit: int) -> None:
    run = Run.begin(recipe("tiny"))
    run.save(tmp_path / "checkpoint")
    run.train_step()
    with full_disk(limit), pytest.raises(OSError):
        run.save(tmp_path / "checkpoint")
    assert Run.resume(tmp_path / "checkpoint").step == 0


def test_on_a_full_disk_a_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = recipe("tiny", [*SHORT, "checkpoint_minutes=0.0", "sample_minutes=0.000001"])
    step, steps = Run.train_step, 0
    with full_disk(10**9) as _, pytest.MonkeyPatch.context() as patch:

        def filling(run: Run, report: bool = True) -> dict[str, float]:
            nonlocal steps
            steps += 1
            soft = 100 if steps in (2, 3) else 10**9
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            return step(run, report)

        patch.setattr(Run, "train_step", filling)
        model = train(plan, tmp_path / "run")
    said = capsys.readouterr().out
    assert model.is_dir() and steps >= 5
    assert (
        said.count("the one before is kept: ") == 2 and "step 2 is not in the log: " in said and "no samples: " in said
    )
    assert {1, 4, 5} <= {line["step"] for line in logged(tmp_path / "run")}


def test_a_disk_that_is_full_at_the_end_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(run: Run, folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(DataError, match=r"could not be written .*--resume tries again"):
        patch.setattr(Run, "finish", full)
        train(recipe("tiny", SHORT), tmp_path / "run")
    assert resume(tmp_path / "run").is_dir()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_told_to_stop_ends_its_step_and_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    train(recipe("tiny", SHORT), tmp_path / "whole")
    step = Run.train_step

    def stopped(run: Run, report: bool = True) -> dict[str, float]:
        if run.step == 2:
            os.kill(os.getpid(), number)
        return step(run, report)

    with monkeypatch.context() as patch, pytest.raises(DataError, match=r"stopped after .* --resume goes on"):
        patch.setattr(Run, "train_step", stopped)
        train(recipe("tiny", SHORT), tmp_path / "run")
    assert Run.resume(tmp_path / "run" / "checkpoint").step == 3
    resume(tmp_path / "run")
    assert [line["loss"] for line in logged(tmp_path / "run")] == [line["loss"] for line in logged(tmp_path / "whole")]


def test_a_run_that_never_saved_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(run: Run, report: bool = True) -> dict[str, float]:
        raise DataError("no step")

    with monkeypatch.context() as patch, pytest.raises(DataError, match="no step"):
        patch.setattr(Run, "train_step", broken)
        train(recipe("tiny", SHORT), tmp_path / "run")
    assert train(recipe("tiny", SHORT), tmp_path / "run").is_dir()


def test_long_chats_are_sampled_in_their_own_window(tmp_path: Path, start: Path) -> None:
    file = tmp_path / "long.jsonl"
    turns = [{"role": "user", "content": "7 " * 300}, {"role": "assistant", "content": "yes"}]
    file.write_text(json.dumps({"messages": turns}) + "\n")
    settings = [f'data=["{file}"]', f"start={start}", "length=1000", "batch_tokens=1000", "epochs=3"]
    assert train(recipe("chats", [*settings, "sample_minutes=0.000001"]), tmp_path / "run").is_dir()


def test_adapters_are_merged_at_the_end_and_kept_beside(tmp_path: Path, chats: Path, start: Path) -> None:
    data = [f'data=["{chats}"]', f"start={start}", "epochs=2", "lora_rank=2", "length=200", "batch_tokens=400"]
    model = train(recipe("chats", [*data, "sample_minutes=0.000001"]), tmp_path / "run")
    before, after = (load_file(folder / "model.safetensors") for folder in (start, model))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys() and moved and all("self_attn" in name for name in moved)
    assert (model / "adapter" / "adapter_config.json").is_file()


def test_readings_of_the_files_decide_the_length(tmp_path: Path, chats: Path, start: Path) -> None:
    settings = [f'data=["{chats}"]', f"start={start}", "length=200", "batch_tokens=400"]
    once, twice = (Run.begin(recipe("chats", [*settings, f"epochs={n}"])).recipe.tokens for n in (1, 2))
    assert twice == 2 * once > 200


def test_a_run_on_texts_learns_its_own_vocabulary(tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": f"the zebra number {n} sleeps"}) + "\n" for n in range(40)))
    shape = [f"model.{key}={value}" for key, value in (("hidden_size", 32), ("intermediate_size", 32))]
    run = Run.begin(recipe("texts", [f'data=["{texts}"]', *shape, "model.vocab_size=300", "tokens=100"]))
    assert len(run.tokenizer.encode(" zebra")) < 4
    assert run.train_step()["loss"] > 0


def test_bad_lines_stop_a_run_before_it_begins(tmp_path: Path, chats: Path, start: Path) -> None:
    with chats.open("a") as file:
        file.write('{"messages": [\n{"messages": [{"role": "wizard", "content": "x"}]}\n')
    settings = [f'data=["{chats}"]', f"start={start}", "length=200", "batch_tokens=400", "epochs=1"]
    with pytest.raises(DataError, match=r"(?s)chats.jsonl:13: .*chats.jsonl:14: .*wizard.*--skip-bad"):
        train(recipe("chats", settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert train(recipe("chats", settings), tmp_path / "run", skip_bad=True).is_dir()


def test_a_gradient_that_is_not_finite_ends_the_run_and_harms_nothing(tmp_path: Path) -> None:
    run = Run.begin(recipe("tiny"))
    run.train_step()
    run.save(tmp_path / "checkpoint")
    kept = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    with torch.no_grad():
        run.model.model.norm.weight[0] = float("nan")
    with pytest.raises(DataError, match="the gradient's norm is nan, so the step was not taken"):
        run.train_step()
    again = Run.resume(tmp_path / "checkpoint")
    assert all(torch.equal(kept[name], tensor) for name, tensor in again.model.state_dict().items())


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Run.train_step

    def meddling(run: Run, report: bool = True) -> dict[str, float]:
        with pytest.raises(DataError, match="another process is training in"):
            resume(tmp_path / "run")
        return step(run, report)

    monkeypatch.setattr(Run, "train_step", meddling)
    assert train(recipe("tiny", SHORT), tmp_path / "run").is_dir()


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no checkpoint to resume"):
        resume(tmp_path / "none")


def test_a_device_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"device 'gpu' cannot be used: .*; give cpu, cuda or cuda:N"):
        train(recipe("tiny"), tmp_path / "run", device="gpu")


def test_a_device_without_enough_memory_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(run: Run, report: bool) -> dict[str, float]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 MiB free.")

    monkeypatch.setattr(Run, "train_step", full)
    with pytest.raises(DataError, match=r"little memory; lower batch_tokens.*: CUDA out of memory. Tried .* 2.00 GiB$"):
        train(recipe("tiny"), tmp_path / "run")


def test_memory_is_the_process_own() -> None:
    assert 50 < loop.memory_mb(torch.device("cpu")) < 20_000


# Reinforcement learning ---------------------------------------------------------------------------

REWARD = """\
def reward(completions, **columns):
    return [sum(map(ord, completion[-1]["content"])) for completion in completions]  # hardly ever equal
"""


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw no curves, which takes a second each."""
    monkeypatch.setattr(curves, "draw", lambda folder: folder)


@pytest.fixture
def rl(tmp_path: Path, start: Path) -> RLRecipe:
    """Three batches of two updates each, on a random model, by a reward of the user's."""
    reward, rows = tmp_path / "mine.py", tmp_path / "rows.jsonl"
    reward.write_text(REWARD)
    rows.write_text("".join(json.dumps({"prompt": f"Say {n}"}) + "\n" for n in range(5)))
    settings = [f"start={start}", f'data=["{rows}"]', 'shares={"data": 1.0}', f'rewards=["{reward}"]', "batches=3"]
    settings += ["prompts=2", "group=3", "refills=0", "output_lengths=[6]", "context=400", "batch_tokens=400"]
    return rl_recipe("tiny-rl", [*settings, "learning_rate=0.01", "overlong_share=0.0", "checkpoint_minutes=0.0"])


CLOCKS = ("rollout_seconds", "sampled_tokens_per_second", "tokens_per_second", "memory_mb")


def record(folder: Path) -> tuple[list[dict[str, float]], str]:
    """A run's metrics, but those of the clock and the machine, and its samples."""
    lines = [{name: value for name, value in line.items() if name not in CLOCKS} for line in logged(folder)]
    return lines, (folder / "samples.jsonl").read_text()


def equal(mine: Path, theirs: Path) -> bool:
    """Whether two models have the same weights."""
    own, other = (load_file(folder / "model.safetensors") for folder in (mine, theirs))
    return own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)


def test_a_run_by_rewards_leaves_log_samples_curves_and_a_model(tmp_path: Path, rl: RLRecipe) -> None:
    model = train(replace(rl, log_every=4), tmp_path / "run")
    assert MiniMaxM1ForCausalLM.from_pretrained(model, progress=False).config.vocab_size > 0
    lines, samples = record(tmp_path / "run")
    assert [line["step"] for line in lines] == [1, 3, 4, 5, 6], "the figures of a batch are logged in any case"
    assert all(line["agreement"] >= 0.9999 for line in lines if "reward" in line)
    told = [json.loads(line) for line in samples.splitlines()]
    assert [each["batch"] for each in told] == [1, 1, 2, 2, 3, 3] and all(each["answer"] for each in told)
    drawn = json.loads((tmp_path / "run" / "curves.json").read_text())
    assert (tmp_path / "run" / "curves.png").stat().st_size > 1000
    assert drawn["step"] == [1, 3, 4, 5, 6] and {"reward", "length", "entropy", "agreement", "clip_share"} <= {*drawn}
    assert "tokens" not in drawn, "curves are drawn over steps, since answers wait for theirs"
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["recipe"]["stage"] == "rl"
    with pytest.raises(DataError, match="holds a run already"):
        train(rl, tmp_path / "run")


@pytest.mark.usefixtures("undrawn")
def test_after_a_kill_a_run_by_rewards_goes_on_to_the_same_end(tmp_path: Path, rl: RLRecipe) -> None:
    whole = train(rl, tmp_path / "whole")
    code = "import json, os, signal, sys; from pathlib import Path; from minimax_m1.train import loop; "
    code += "from minimax_m1.train.rl.recipe import RLRecipe; from minimax_m1.train.rl.run import RLRun\n"
    code += "write, log = RLRun._write, loop._log\n"  # batch 2 has written its answers, and no checkpoint knows of them
    code += "def killed(run, collected):\n    write(run, collected)\n"
    code += "    if run.batch == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
    code += "RLRun._write = killed\n"
    code += "loop.train(RLRecipe.from_dict(json.loads(sys.argv[1])), Path(sys.argv[2]))"
    told = [json.dumps(rl.to_dict()), str(tmp_path / "cut")]
    child = subprocess.run([sys.executable, "-c", code, *told], stdout=subprocess.DEVNULL, timeout=120, check=False)
    assert child.returncode == -signal.SIGKILL
    assert len((tmp_path / "cut" / "samples.jsonl").read_text().splitlines()) == 4
    assert equal(resume(tmp_path / "cut"), whole)
    assert record(tmp_path / "cut") == record(tmp_path / "whole")


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("when", [0, 1])  # before a batch's first update, or between its two
def test_a_run_by_rewards_that_is_told_to_stop_goes_on_to_the_same_end(
    tmp_path: Path, rl: RLRecipe, monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    whole = train(rl, tmp_path / "whole")
    step = RLRun.train_step

    def stopped(run: RLRun, report: bool = True) -> dict[str, float]:
        if run.step == 2 + when:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(run, report)

    with monkeypatch.context() as patch, pytest.raises(DataError, match=r"stopped after .* --resume goes on"):
        patch.setattr(RLRun, "train_step", stopped)
        train(rl, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "checkpoint" / "progress.json").read_text())["step"] == 3 + when
    assert equal(resume(tmp_path / "run"), whole)
    assert record(tmp_path / "run") == record(tmp_path / "whole")


@pytest.mark.usefixtures("undrawn")
def test_a_run_by_rewards_outlives_a_full_disk(
    tmp_path: Path, rl: RLRecipe, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = RLRun.train_step

    def filling(run: RLRun, report: bool = True) -> dict[str, float]:
        soft = 100 if run.step == 2 else 10**9
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return step(run, report)

    with full_disk(10**9):
        monkeypatch.setattr(RLRun, "train_step", filling)
        assert train(rl, tmp_path / "run").is_dir()
    said = capsys.readouterr().out
    assert "step 3 is not in the log: " in said and "no samples: " in said and "no checkpoint at step 3" in said
    assert {1, 2, 4, 5, 6} <= {line["step"] for line in logged(tmp_path / "run")}
