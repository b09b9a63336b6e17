"""A whole model on Triton's kernels: prefill, decode, training and an engine, against the plain one."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from minimax_m1.engine.config import EngineConfig
from minimax_m1.engine.engine import ModelEngine
from minimax_m1.engine.graph import DecodeGraphs
from minimax_m1.engine.request import Request, SamplingParams
from minimax_m1.kernels.ops import Ops
from minimax_m1.model.batch import Batch
from minimax_m1.model.decode import decodable
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.presets import tiny

CONFIG = tiny().replace(head_dim=16, rotary_dim=8)
PROMPTS = [[5, 9, 2, 60, 7], [4], list(range(40))]


def model_of(ops: Ops, device: torch.device, **more: Any) -> MiniMaxM1ForCausalLM:
    torch.manual_seed(5)
    return MiniMaxM1ForCausalLM(CONFIG.replace(**more), ops=ops).eval().to(device)


@torch.inference_mode()
@pytest.mark.parametrize("more", [{}, {"shared_intermediate_size": 32}])
def test_prefill_and_decode_equal_the_plain_model(more: dict[str, int], device: torch.device) -> None:
    told = []
    for ops in (Ops.reference(), Ops.triton()):
        model = model_of(ops, device, **more)
        run = model.run(Batch.of(PROMPTS, state := model.empty_state(3), device), state, logits="all")
        logits = [run.logits]
        for new in ([[1], [2], [3]], [[4], [5, 6, 7], []], [[8]] * 3):
            run = model.run(Batch.of(new, run.state, device), run.state, expert_threshold=0.7, logits="all")
            logits.append(run.logits)
        told.append(torch.cat(logits))  # type: ignore[arg-type]
    torch.testing.assert_close(told[1], told[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recompute", [False, True])
def test_training_gradients_equal_the_plain_ones(recompute: bool, device: torch.device) -> None:
    grads: list[dict[str, Tensor | None]] = []
    for ops in (Ops.reference(), Ops.triton()):
        model = model_of(ops, device).train()
        run = model.run(
            Batch.of(PROMPTS, state := model.empty_state(3), device),
            state,
            logits="all",
            head=False,
            recompute=recompute,
        )
        assert run.hidden is not None
        targets = torch.arange(len(run.hidden), device=device) % CONFIG.vocab_size
        (-ops.head(run.hidden, model.lm_head.weight, targets).logprob.mean()).backward()
        grads.append({name: p.grad for name, p in model.named_parameters()})
    for name, told in grads[0].items():
        mine = grads[1][name]
        assert (mine is None) == (told is None), name
        if mine is not None and told is not None:
            assert (mine - told).norm() <= 1e-4 * told.norm() + 1e-7, name


@torch.inference_mode()
@pytest.mark.parametrize("quantization", [None, "int8"])
def test_an_engine_on_recorded_steps_says_what_the_plain_one_says(
    quantization: str | None, device: torch.device
) -> None:
    said = []
    for ops in (Ops.torch(), Ops.triton()):
        model = model_of(ops, device, quantization=quantization)
        model.lm_head.weight.mul_(20)  # sharper choices, so that float noise cannot flip one
        config = EngineConfig(prefill_tokens=32, max_num_batched_tokens=16, page_size=16, enforce_eager=True)
        engine = ModelEngine(model, eos_ids=(), max_model_len=96, config=config)
        if decodable(model):
            engine._runner._graphs = DecodeGraphs(model, engine._cache, capture=device.type == "cuda")
        for n, prompt in enumerate(PROMPTS):
            engine.submit(Request(id=str(n), prompt=prompt, params=SamplingParams(max_tokens=4 + n, temperature=0)))
        ids = defaultdict(list)
        while engine.busy:
            for event in engine.step():
                ids[event.request_id].append(event.token_id)
        said.append(ids)
    assert said[0] == said[1]


@torch.inference_mode()
def test_the_layer_may_be_left_to_the_ops(device: torch.device) -> None:
    logits = []
    for ops in (Ops.triton(), replace(Ops.triton(), layer=None)):
        model = model_of(ops, device)
        state = model.run(Batch.of(PROMPTS, s := model.empty_state(3), device), s).state
        logits.append(model.run(Batch.of([[1], [2], [3]], state, device), state).logits)
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-5)  # type: ignore[arg-type]
