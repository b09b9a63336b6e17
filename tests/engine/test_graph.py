"""Decode steps on the device alone: the engine gives what it gives without them, whoever comes and goes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from minimax_m1.engine.config import EngineConfig
from minimax_m1.engine.engine import ModelEngine
from minimax_m1.engine.graph import DecodeGraphs
from minimax_m1.engine.request import Request, SamplingParams, TokenEvent
from minimax_m1.kernels.layer.reference import layer
from minimax_m1.kernels.ops import Ops
from minimax_m1.model.decode import decodable
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.presets import tiny

# Beside replies and the last token of a prompt, one token of another is read, which wants no logits.
ALONE = {"max_num_batched_tokens": 4, "prefill_tokens": 3, "checkpoint_every": 4}
PROMPTS = [[7] * 3, list(range(60)), [1, 2, 3, 4], list(range(63, 20, -1)), [9]]


@pytest.fixture(scope="module")
def model() -> MiniMaxM1ForCausalLM:
    torch.manual_seed(5)
    model = MiniMaxM1ForCausalLM(tiny(), ops=replace(Ops.torch(), layer=layer)).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(20)  # sharper choices, so that float noise cannot flip one
    return model


def replies(model: MiniMaxM1ForCausalLM, *, graphs: bool, **config: Any) -> tuple[dict[str, list[TokenEvent]], int]:
    """What each prompt gets, and how many steps ran on graphs."""
    small = {"prefill_tokens": 48, "max_num_batched_tokens": 16, "page_size": 4, **config}
    engine = ModelEngine(model, eos_ids=(), max_model_len=100, config=EngineConfig(**small))
    steps = 0
    if graphs:
        recorded = DecodeGraphs(model, engine._cache, capture=False)
        engine._runner._graphs = recorded
        run = recorded.run

        def counted(*args: Any) -> Any:
            nonlocal steps
            steps += 1
            return run(*args)

        recorded.run = counted  # type: ignore[method-assign]
    for n, prompt in enumerate(PROMPTS):
        params = SamplingParams(max_tokens=5 + 3 * n, temperature=0, expert_threshold=1.0 if n % 2 else 0.6)
        engine.submit(Request(id=str(n), prompt=prompt, params=params, routing=True, routed_experts=n == 3))
    events = defaultdict(list)
    while engine.busy:
        for event in engine.step():
            events[event.request_id].append(event)
    return events, steps


@pytest.mark.parametrize("config", [{}, {"max_num_seqs": 2}, {"kv_cache_bytes": 26 * 4 * 2 * 2 * 16 * 4}, ALONE])
def test_replies_are_the_same_with_and_without_graphs(model: MiniMaxM1ForCausalLM, config: dict[str, Any]) -> None:
    told, none = replies(model, graphs=False, **config)
    mine, steps = replies(model, graphs=True, **config)
    assert none == 0 and steps > 5
    for n in map(str, range(len(PROMPTS))):
        assert [e.token_id for e in mine[n]] == [e.token_id for e in told[n]]
        for a, b in zip(mine[n], told[n], strict=True):
            assert a.logprob is None or a.logprob == pytest.approx(b.logprob, abs=1e-4)
        ours, theirs = (events[n][-1].routing for events in (mine, told))
        assert ours is not None and theirs is not None
        for told_of, plain in zip(ours.sums(), theirs.sums(), strict=True):
            np.testing.assert_allclose(told_of, plain, rtol=1e-4)


def test_rows_that_are_nobodys_go_to_no_expert(model: MiniMaxM1ForCausalLM) -> None:
    engine = ModelEngine(model, eos_ids=(), max_model_len=100, config=EngineConfig(page_size=4))
    engine._runner._graphs = graphs = DecodeGraphs(model, engine._cache, capture=False)
    for n, prompt in enumerate(PROMPTS[:3]):
        params = SamplingParams(max_tokens=3, temperature=0, ignore_eos=True)
        engine.submit(Request(id=str(n), prompt=prompt, params=params))
    while engine.busy:
        engine.step()
    [step] = [each for (rows, _), each in graphs._recorded.items() if rows == 4]
    with torch.inference_mode():
        experts = graphs._step(step.given).experts[0]
    assert (experts[3] == -1).all() and (experts[:3, 0] >= 0).all()


def test_a_model_with_more_than_the_kernels_know_is_left_to_the_ops(model: MiniMaxM1ForCausalLM) -> None:
    assert decodable(model)
    assert not decodable(MiniMaxM1ForCausalLM(tiny()))  # its ops do no whole layers
    for more in ({"shared_intermediate_size": 24}, {"softmax_log_n": 64}):
        assert not decodable(MiniMaxM1ForCausalLM(tiny().replace(**more), ops=model.ops))
