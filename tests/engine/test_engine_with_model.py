"""The engine over a small real model: what comes out is what one pass over the same ids says."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from minimax_m1.engine.config import EngineConfig
from minimax_m1.engine.engine import ModelEngine
from minimax_m1.engine.request import Request, SamplingParams, TokenEvent
from minimax_m1.engine.snapshot import Snapshot
from minimax_m1.model.batch import Batch
from minimax_m1.model.transformer import MiniMaxM1ForCausalLM, Run
from minimax_m1.presets import tiny

PROMPTS = [[7] * 3, list(range(60)), [1, 2, 3, 4], list(range(63, 20, -1)), [9]]


@pytest.fixture(scope="module")
def model() -> MiniMaxM1ForCausalLM:
    torch.manual_seed(5)
    model = MiniMaxM1ForCausalLM(tiny()).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(20)  # sharper choices, so that float noise cannot flip one
    return model


def engine_of(model: MiniMaxM1ForCausalLM, **config: Any) -> ModelEngine:
    small = {"prefill_tokens": 48, "max_num_batched_tokens": 16, "page_size": 4, **config}
    return ModelEngine(model, eos_ids=(), max_model_len=200, config=EngineConfig(**small))


def run(engine: ModelEngine, requests: list[Request]) -> dict[str, list[TokenEvent]]:
    for request in requests:
        engine.submit(request)
    events = defaultdict(list)
    while engine.busy:
        for event in engine.step():
            events[event.request_id].append(event)
    return events


def ids_of(events: list[TokenEvent]) -> list[int]:
    return [event.token_id for event in events if event.token_id is not None]


def one_pass(model: MiniMaxM1ForCausalLM, ids: list[int], threshold: float = 1.0) -> Run:
    state = model.empty_state(1)
    with torch.inference_mode():
        return model.run(Batch.of([ids], state), state, expert_threshold=threshold, logits="all")


def scores_of(out: Run) -> Tensor:
    assert out.logits is not None
    return out.logits.log_softmax(-1)


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
    together = run(engine_of(model), requests)
    for request in requests:
        made = [event for event in together[request.id] if event.token_id is not None]
        ids = ids_of(made)
        assert len(ids) == request.params.max_tokens

        whole = [*request.prompt, *ids[:-1]]
        out = one_pass(model, whole, request.params.expert_threshold)
        scores = scores_of(out)[len(request.prompt) - 1 :]
        assert ids == scores.argmax(-1).tolist()
        assert [event.logprob for event in made] == pytest.approx(scores.amax(-1).tolist(), abs=1e-3)

        report = made[-1].routing.report() if made[-1].routing else {}
        assert report["tokens"] == len(whole)
        counts = [torch.bincount(layer[layer >= 0], minlength=4).tolist() for layer in out.routing.experts]
        assert [layer["tokens_per_expert"] for layer in report["layers"]] == counts


def test_logprobs_of_the_prompt_and_of_the_reply_equal_one_pass(model: MiniMaxM1ForCausalLM) -> None:
    requests = [
        Request(
            id=str(n), prompt=prompt, params=SamplingParams(temperature=0, max_tokens=5, logprobs=3, prompt_logprobs=2)
        )
        for n, prompt in enumerate(PROMPTS)
    ]
    together = run(engine_of(model, prefill_tokens=7, max_num_batched_tokens=7), requests)
    for request in requests:
        events = [event for event in together[request.id] if event.token_id is not None]
        prompt, ids = list(request.prompt), ids_of(events)
        scores = scores_of(one_pass(model, [*prompt, *ids]))
        told = events[0].prompt_logprobs
        assert told is not None and told[0] == () and len(told) == len(prompt)
        assert all(event.prompt_logprobs is None for event in events[1:])
        tops = [*told[1:], *(event.top_logprobs for event in events)]
        for row, token, top, count in zip(
            scores, [*prompt[1:], *ids], tops, [2] * (len(prompt) - 1) + [3] * len(ids), strict=False
        ):
            best = row.topk(count)
            others = [(i, v) for i, v in zip(best.indices.tolist(), best.values.tolist(), strict=True) if i != token]
            assert [top[0].token_id, *(each.token_id for each in top[1:])] == [token, *(i for i, _ in others)]
            assert [each.logprob for each in top] == pytest.approx(
                [row[token].item(), *(value for _, value in others)], abs=2e-3
            )
            assert top[0].rank == int((row > row[token]).sum()) + 1


def test_a_seeded_request_says_the_same_alone_and_in_company(model: MiniMaxM1ForCausalLM) -> None:
    seeded = [
        Request(id=str(n), prompt=prompt, params=SamplingParams(seed=n, temperature=2.0, max_tokens=12))
        for n, prompt in enumerate(PROMPTS)
    ]
    together = run(engine_of(model), seeded)
    for request in seeded:
        alone = run(engine_of(model), [request])[request.id]
        assert ids_of(alone) == ids_of(together[request.id])


@pytest.mark.parametrize("case", range(6))
def test_with_and_without_reuse_the_ids_are_equal(model: MiniMaxM1ForCausalLM, case: int) -> None:
    draw = np.random.default_rng(case)
    stems = [draw.integers(0, 64, draw.integers(30, 90)).tolist() for _ in range(2)]
    requests = []
    for n in range(10):
        stem = stems[int(draw.integers(2))]
        prompt = [*stem[: int(draw.integers(20, len(stem) + 1))], *draw.integers(0, 64, draw.integers(0, 9)).tolist()]
        params = SamplingParams(temperature=0, max_tokens=int(draw.integers(1, 25)))
        requests.append(Request(id=str(n), prompt=prompt, params=params, priority=int(draw.integers(2))))
    plain = run(engine_of(model, enable_prefix_caching=False), requests)
    page = 2 * 4 * 2 * 8 * 4
    tight = engine_of(model, kv_cache_bytes=50 * page, checkpoint_every=16, max_num_seqs=4)  # 200 tokens for all
    roomy = engine_of(model, page_size=7)
    for engine in (tight, roomy):
        for start in (0, 5):  # some come when the others have been read
            reused = run(engine, requests[start : start + 5])
            for id, events in reused.items():
                assert ids_of(events) == ids_of(plain[id])
        cached = [each[-1].cached_tokens for each in run(engine, requests).values()]
        assert max(cached) >= 16
        assert engine.holdings.running == engine.holdings.waiting == 0
        engine.forget()
        assert engine.holdings.pages_free == engine.holdings.pages


class Past:
    """What was saved, as it was saved."""

    def __init__(self, ids: list[int], snapshots: list[Snapshot]) -> None:
        self.ids, self.snapshots = np.array(ids, np.int32), snapshots

    def load(self, put: Any) -> tuple[Tensor, ...]:
        for snapshot in self.snapshots:
            put(snapshot.start, snapshot.keys_values)
        return self.snapshots[-1].lightning


def test_a_saved_prompt_answers_in_another_engine_as_if_it_had_been_read_there(model: MiniMaxM1ForCausalLM) -> None:
    text, question = list(range(60)) * 2, [5, 6, 7]
    snapshots: list[Snapshot] = []
    save = Request(id="s", prompt=text, params=SamplingParams(max_tokens=0), save=snapshots.append, save_every=50)
    run(engine_of(model), [save])
    assert [(each.start, each.stop) for each in snapshots] == [(0, 50), (50, 100), (100, 120)]
    out = one_pass(model, text)
    torch.testing.assert_close(snapshots[-1].lightning, tuple(each[0] for each in out.state.lightning))
    params = SamplingParams(temperature=0, max_tokens=20)
    asked = Request(id="q", prompt=[*text, *question], params=params, past=Past(text, snapshots))
    read = Request(id="q", prompt=[*text, *question], params=params)
    loaded = run(engine_of(model, page_size=9), [asked])["q"]
    assert ids_of(loaded) == ids_of(run(engine_of(model), [read])["q"])
    assert loaded[-1].cached_tokens == 120
