"""Sets of kernels, and a whole model on the compiled ones: prefill and decode, alone and side by side."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from minimax_m1.errors import ConfigError
from minimax_m1.kernels.ops import Ops
from minimax_m1.kernels.pages import PageTable
from minimax_m1.model.batch import Batch
from minimax_m1.model.state import PagedKeyValues
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


@torch.inference_mode()
def test_a_bfloat16_model_on_compiled_kernels_stays_near_its_float32_self() -> None:
    torch.manual_seed(0)
    exact = MiniMaxM1ForCausalLM(tiny(), ops=Ops.reference()).eval().bfloat16()
    weights = exact.state_dict()
    low = MiniMaxM1ForCausalLM(tiny(), ops=Ops.cpu()).eval().bfloat16()
    low.load_state_dict(weights)
    exact.float()
    states, gaps = [exact.empty_state(3), low.empty_state(3)], []
    for prompts in ([[5, 9, 2], [7], [1, 2, 3, 4]], *([[t], [t + 1], [t + 2]] for t in range(20, 26))):
        runs = [m.run(Batch.of(prompts, s), s) for m, s in zip((exact, low), states, strict=True)]
        states = [run.state for run in runs]
        told, mine = (run.logits for run in runs)
        assert told is not None and mine is not None and mine.dtype == torch.float32
        gaps.append(float((mine - told).norm() / told.norm()))
    assert max(gaps) < 0.05


@torch.inference_mode()
def test_steps_of_replies_and_prompts_together_equal_each_alone() -> None:
    torch.manual_seed(0)
    config, size = tiny(), 3
    prompts = [[5, 9, 2, 60], [7], [1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11, 12, 13]]
    steps = [[4, 0, 0, 0], [0, 1, 2, 0], [1, 1, 1, 2], [1, 1, 0, 3], [2, 1, 5, 0]]  # tokens of each sequence
    texts = [prompt + list(range(20, 30)) for prompt in prompts]

    plain = MiniMaxM1ForCausalLM(config, ops=Ops.reference()).eval()
    weights = plain.state_dict()
    counts = [sum(column) for column in zip(*steps, strict=True)]
    state = plain.empty_state(4)
    expected = plain.run(Batch.of([t[:n] for t, n in zip(texts, counts, strict=True)], state), state, logits="all")
    assert expected.logits is not None
    alone = expected.logits.split(counts)
    for ops in (Ops.torch(), Ops.cpu()):
        model = MiniMaxM1ForCausalLM(config, ops=ops).eval()
        model.load_state_dict(weights)
        pages = np.random.default_rng(0).permutation(sum(-(-n // size) for n in counts)).astype(np.int64)
        owned = np.split(pages, np.cumsum([-(-n // size) for n in counts])[:-1])
        pool = torch.full((2, len(pages), size, config.num_key_value_heads, config.head_dim), float("nan"))
        empty = model.empty_state(4)
        paged = tuple(PagedKeyValues(pool.clone(), PageTable(tuple(owned), (0,) * 4, size)) for _ in empty.softmax)
        state, done = replace(empty, softmax=paged), [0] * 4
        for new in steps:
            ids = [text[at : at + n] for text, at, n in zip(texts, done, new, strict=True)]
            run = model.run(Batch.of(ids, state), state, logits=new)
            assert run.logits is not None
            for told, whole, at, n in zip(run.logits.split(new), alone, done, new, strict=True):
                torch.testing.assert_close(told, whole[at : at + n], rtol=1e-4, atol=1e-5)
            state, done = run.state, [at + n for at, n in zip(done, new, strict=True)]


def test_the_fastest_on_each_device() -> None:
    assert Ops.fastest(torch.device("cpu")) is Ops.cpu() and Ops.cpu().name == "cpu (numba)"
    differ = {f.name for f in fields(Ops) if getattr(Ops.cpu(), f.name) != getattr(Ops.torch(), f.name)}
    norms = {"norm", "add_norm", "gated_norm"}
    assert differ == {"attention", "layer", "lightning", "linear", "moe", "name"} | norms


def test_a_gpu_needs_triton_and_says_so() -> None:
    if find_spec("triton") is None:
        with pytest.raises(ConfigError, match=r"pip install 'minimax-m1\[gpu\]'"):
            Ops.fastest(torch.device("cuda"))
    else:
        assert Ops.fastest(torch.device("cuda")) is Ops.triton() and Ops.triton().name == "triton"


def test_only_the_compiled_kernels_load_numba() -> None:
    script = "import sys, minimax_m1.llm; from minimax_m1.kernels.ops import Ops; Ops.torch(); "
    done = subprocess.run([sys.executable, "-c", script + "sys.exit('numba' in sys.modules)"], timeout=60)
    assert done.returncode == 0
