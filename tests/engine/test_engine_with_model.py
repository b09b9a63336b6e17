"""The engine over a small real model: what comes out is what one pass over the same ids says."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch

from minimax_m1.engine.engine import ModelEngine
from minimax_m1.engine.request import Request, SamplingParams, TokenEvent
from minimax_m1.model.batch import Batch
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM
from minimax_m1.presets import tiny

PROMPTS = [[7] * 3, list(range(60)), [1, 2, 3, 4], list(range(63, 20, -1)), [9]]


@pytest.fixture(scope="module")
def model() -> MiniMaxM1ForCausalLM:
    torch.manual_seed(5)
    model = MiniMaxM1ForCausalLM(tiny()).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(20)  # sharper choices, so that float noise cannot flip one
    return model


def run(model: MiniMaxM1ForCausalLM, requests: list[Request]) -> dict[str, list[TokenEvent]]:
    engine = ModelEngine(model, eos_ids=(), max_model_len=200, prefill_chunk=16)
    for request in requests:
        engine.submit(request)
    events = defaultdict(list)
    while engine.busy:
        for event in engine.step():
            events[event.request_id].append(event)
    return events


@pytest.mark.parametrize("thresholds", [[1.0], [0.6], [1.0, 0.6, 0.8]])
def test_ids_logprobs_and_routing_equal_one_pass(model: MiniMaxM1ForCausalLM, thresholds: list[float]) -> None:
    requests = [
        Request(
            id=str(n),
            prompt=prompt,
            params=SamplingParams(temperature=0, max_tokens=8 + n, expert_threshold=thresholds[n % len(thresholds)]),
            routing=True,
        )
        for n, prompt in enumerate(PROMPTS)
    ]
    for request in requests:
        together = run(model, requests)[request.id]
        made = [event for event in together if event.token_id is not None]
        ids = [event.token_id for event in made if event.token_id is not None]
        assert len(ids) == request.params.max_tokens

        whole = [*request.prompt, *ids[:-1]]
        state = model.empty_state(1)
        with torch.inference_mode():
            out = model.run(
                Batch.of([whole], state), state, expert_threshold=request.params.expert_threshold, logits="all"
            )
        assert out.logits is not None
        scores = out.logits[len(request.prompt) - 1 :].log_softmax(-1)
        assert ids == scores.argmax(-1).tolist()
        assert [event.logprob for event in made] == pytest.approx(scores.amax(-1).tolist(), abs=1e-3)

        report = made[-1].routing.report() if made[-1].routing else {}
        assert report["tokens"] == len(whole)
        counts = [torch.bincount(layer[layer >= 0], minlength=4).tolist() for layer in out.routing.experts]
        assert [layer["tokens_per_expert"] for layer in report["layers"]] == counts


def test_a_seeded_request_says_the_same_alone_and_in_company(model: MiniMaxM1ForCausalLM) -> None:
    seeded = [
        Request(id=str(n), prompt=prompt, params=SamplingParams(seed=n, temperature=2.0, max_tokens=12))
        for n, prompt in enumerate(PROMPTS)
    ]
    together = run(model, seeded)
    for request in seeded:
        alone = run(model, [request])[request.id]
        assert [event.token_id for event in alone] == [event.token_id for event in together[request.id]]
