"""Training on a device that is not the host: everything is where it must be, and the host seldom waits for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Pretending = Callable[..., None]

AGAIN = """
again = type(run).resume(folder / "checkpoint", device="gpu")
assert again.train_step()[figure] == run.train_step()[figure]
weights = zip(run.model.parameters(), again.model.parameters(), strict=True)
assert all(one.cpu().equal(two.cpu()) for one, two in weights)  # so the optimizer knew what it had known
"""

PRETRAIN = """\
import sys
from pathlib import Path
from pretend_gpu import register
waits = register()
from minimax_m1.train import sample
from minimax_m1.train.recipes import recipe
from minimax_m1.train.run import Run
folder, sample._MOST_TOKENS = Path(sys.argv[1]), 6
run, plain = (Run.begin(recipe("tiny"), device=device) for device in ("gpu", "cpu"))
assert all(p.device.type == "gpu" for p in run.model.parameters())
for report in (False, True):
    waits.clear()
    mine, theirs = run.train_step(report), plain.train_step(report)
    assert mine.keys() == theirs.keys() and "router_entropy" in mine or not report
    for name in mine.keys() - {"activation_mb"}:
        near = 0.1 if name == "expert_load_max" else 1e-3  # a last bit may send a token elsewhere
        assert abs(mine[name] - theirs[name]) <= near * abs(theirs[name]), name
    own = {place: count for place, count in waits.items() if place.startswith("train/")}
    assert sum(own.values()) <= 2, own
run.save(folder / "checkpoint")
run.open(folder)
assert all(sample.answer for sample in run._sampler.ask(run.model, 1))
figure = "loss"
"""

LORA = """\
import sys
from pathlib import Path
from pretend_gpu import register
register()
from minimax_m1.train.recipes import recipe
from minimax_m1.train.run import Run
folder, start = Path(sys.argv[1]), sys.argv[2]
settings = [f"start={start}", "lora_rank=2", "batch_tokens=1000", "length=1000", "recompute=true"]
run = Run.begin(recipe("tiny", settings), device="gpu")
run.train_step()
run.save(folder / "checkpoint")
figure = "loss"
"""

REINFORCE = """\
import sys
from pathlib import Path
from pretend_gpu import register
register()
from minimax_m1.train.recipes import rl_recipe
from minimax_m1.train.rl import collector
from minimax_m1.train.rl.run import RLRun
folder, start = Path(sys.argv[1]), sys.argv[2]
settings = [f"start={start}", 'shares={"addition": 1.0}', "prompts=2", "group=2", "refills=0", "output_lengths=[4]"]
collector._teaches = lambda group: True  # a random model's answers are worth the same
run = RLRun.begin(rl_recipe("tiny-rl", [*settings, "context=400", "batch_tokens=400"]), device="gpu")
first = run.train_step()
assert first["agreement"] > 0.999, first
run.save(folder / "checkpoint")
figure = "grad_norm"
"""


@pytest.mark.parametrize(
    "script",
    [
        PRETRAIN + AGAIN + 'again.finish(folder / "model")',
        LORA + AGAIN + 'run.finish(folder / "model")',
        REINFORCE + AGAIN + "run.close()\nagain.close()",
    ],
    ids=["pretrain", "lora", "rl"],
)
def test_a_run_on_a_device_is_the_one_on_the_host(
    script: str, start: Path, tmp_path: Path, pretending: Pretending
) -> None:
    pretending(script, tmp_path, start)
