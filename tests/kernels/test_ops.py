"""Sets of kernels, and a whole model on the compiled ones: prefill and decode, alone and side by side."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

import pytest
import torch

from minimax_m1.kernels.ops import Ops
from minimax_m1.model.batch import Batch
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.presets import tiny


@torch.inference_mode()
@pytest.mark.parametrize("prompts", [[[5, 9, 2, 60, 7]], [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11]], [[3]] * 12])
@pytest.mark.parametrize("shared", [0, 24])
def test_a_model_on_compiled_kernels_equals_the_plain_one(prompts: list[list[int]], shared: int) -> None:
    logits = {}
    for ops in (Ops.reference(), Ops.torch(), Ops.cpu()):
        torch.manual_seed(0)
        model = MiniMaxM1ForCausalLM(tiny().replace(shared_intermediate_size=shared), ops=ops).eval()
        run = model.run(Batch.of(prompts, state := model.empty_state(len(prompts))), state)
        told = [run.logits]
        for token in range(20, 26):
            run = model.run(Batch.of([[token]] * len(prompts), run.state), run.state, expert_threshold=0.6)
            told.append(run.logits)
        logits[ops.name] = torch.stack(told)  # type: ignore[arg-type]
    for name in ("torch", "cpu (numba)"):
        torch.testing.assert_close(logits[name], logits["reference"], rtol=1e-4, atol=1e-5)


def test_the_fastest_on_each_device() -> None:
    assert Ops.fastest(torch.device("cpu")) is Ops.cpu() and Ops.cpu().name == "cpu (numba)"
    assert Ops.fastest(torch.device("cuda")) == Ops.torch()
    differ = {f.name for f in fields(Ops) if getattr(Ops.cpu(), f.name) != getattr(Ops.torch(), f.name)}
    assert differ == {"lightning", "linear", "moe", "norm", "name"}


def test_only_the_compiled_kernels_load_numba() -> None:
    script = "import sys, minimax_m1.llm; from minimax_m1.kernels.ops import Ops; Ops.torch(); "
    done = subprocess.run([sys.executable, "-c", script + "sys.exit('numba' in sys.modules)"], timeout=60)
    assert done.returncode == 0
