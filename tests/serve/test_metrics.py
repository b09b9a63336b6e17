"""What /metrics tells, read back by Prometheus' own parser."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from minimax_m1.engine.holdings import Counts, Holdings
from minimax_m1.engine.routing import RoutingTrace
from minimax_m1.serve.bridge import Bridge, Status
from minimax_m1.serve.metrics import Metrics
from minimax_m1.serve.registry import Registry

HELD = Holdings(running=3, waiting=2, pages=8, pages_free=1, pages_available=6, checkpoints=4, checkpoint_bytes=1000)
COUNTS = Counts(
    queried=90, cached=60, hits=5, misses=7, replayed=11, loads=2, loaded=30, load_seconds=0.5, preemptions=1
)


def metrics(engine: object = None, status: Status = Status.READY) -> Metrics:
    return Metrics("nano", cast(Bridge, SimpleNamespace(status=status, loaded=SimpleNamespace(engine=engine))))


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """By name and the values of its labels, but for the model's name, which each must have."""
    body, kind = metrics.render()
    assert kind == "text/plain; version=0.0.4; charset=utf-8"
    found = {}
    for family in text_string_to_metric_families(body.decode()):
        assert family.documentation and family.type != "unknown"
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("model_name") == "nano"
            assert sample.name.startswith("minimax_m1_")
            key = (sample.name.removeprefix("minimax_m1_"), *labels.values())
            assert key not in found
            found[key] = sample.value
    return found


def run(registry: Registry, *, tokens: int, finish: str | None, kind: str = "chat", id: str = "a") -> None:
    with registry.opened(id, kind, answers=1, prompt_tokens=7, stop=lambda: None) as entry:
        registry.read(entry, 5, 2)
        for _ in range(tokens):
            registry.wrote(entry)
        if finish is not None:
            registry.finished(entry, finish, 2, 1, None)


def test_requests_and_tokens_are_counted_by_how_they_ended() -> None:
    told = metrics()
    registry = Registry(told)
    run(registry, tokens=3, finish="stop")
    run(registry, tokens=4, finish="stop")
    run(registry, tokens=1, finish="length", kind="messages")
    run(registry, tokens=0, finish=None)
    found = samples(told)
    assert found["requests_total", "chat"] == 3 and found["requests_total", "messages"] == 1
    ended = {key[1:]: value for key, value in found.items() if key[0] == "request_success_total"}
    assert ended == {("stop", "chat"): 2, ("length", "messages"): 1, ("abort", "chat"): 1}
    assert found["generation_tokens_total",] == 8
    assert found["reasoning_tokens_total",] == 3
    assert found["prompt_tokens_total",] == 3 * 7 + 5  # the one that was cut short had read five


def test_histograms_count_what_ended_by_itself() -> None:
    told = metrics()
    registry = Registry(told)
    run(registry, tokens=3, finish="stop")
    run(registry, tokens=6, finish=None)
    found = samples(told)
    for name, count in (
        ("time_to_first_token_seconds", 2),
        ("inter_token_latency_seconds", 2 + 5),
        ("e2e_request_latency_seconds", 1),
        ("request_prompt_tokens", 1),
        ("request_generation_tokens", 1),
    ):
        assert found[f"{name}_count",] == found[f"{name}_bucket", "+Inf"] == count, name
    assert found["request_prompt_tokens_sum",] == 7
    buckets = [found["request_generation_tokens_bucket", bound] for bound in ("1.0", "2.0", "5.0", "10.0")]
    assert buckets == [0, 0, 1, 1]


def test_times_fall_into_their_buckets() -> None:
    told = metrics()
    registry = Registry(told)
    with registry.opened("a", "chat", answers=1, prompt_tokens=7, stop=lambda: None) as entry:
        entry.began = time.monotonic() - 0.3
        told.token(entry, None)
        told.token(entry, 0.025)  # a bound belongs to its bucket
        told.token(entry, 1000.0)
        registry.finished(entry, "stop", 0, 0, None)
    found = samples(told)
    assert found["time_to_first_token_seconds_bucket", "0.25"] == 0
    assert found["time_to_first_token_seconds_bucket", "0.5"] == 1
    assert found["inter_token_latency_seconds_bucket", "0.01"] == 0
    assert found["inter_token_latency_seconds_bucket", "0.025"] == 1
    assert found["inter_token_latency_seconds_bucket", "80.0"] == 1
    assert found["inter_token_latency_seconds_bucket", "+Inf"] == 2
    assert found["inter_token_latency_seconds_sum",] == pytest.approx(1000.025)


def test_what_the_engine_holds_is_asked_at_the_scrape() -> None:
    engine = SimpleNamespace(holdings=HELD, counts=COUNTS)
    told = metrics(engine)
    expected = {
        "num_requests_running": 3,
        "num_requests_waiting": 2,
        "kv_cache_usage_perc": 0.25,
        "checkpoints": 4,
        "checkpoint_bytes": 1000,
        "num_preemptions_total": 1,
        "prefix_cache_queries_total": 90,
        "prefix_cache_hits_total": 60,
        "snapshot_hits_total": 5,
        "snapshot_misses_total": 7,
        "replayed_tokens_total": 11,
        "context_loads_total": 2,
        "context_load_tokens_total": 30,
        "context_load_seconds_total": 0.5,
    }
    assert {name: value for (name, *_), value in samples(told).items() if name in expected} == expected
    engine.holdings = replace(HELD, running=0)
    assert samples(told)["num_requests_running",] == 0


@pytest.mark.parametrize("status", [Status.LOADING, Status.FAILED, Status.CLOSED])
def test_without_a_model_the_rest_is_told(status: Status) -> None:
    told = metrics(SimpleNamespace(holdings=HELD, counts=COUNTS), status)
    told.responded(503)
    found = samples(told)
    assert ("num_requests_running",) not in found
    assert found["http_requests_total", "503"] == 1


def test_an_engine_that_holds_nothing_is_no_error() -> None:
    assert ("num_requests_running",) not in samples(metrics(object()))


def test_the_load_of_experts_adds_up_over_answers() -> None:
    told, traces = metrics(), list[RoutingTrace]()
    for _ in range(2):
        trace = RoutingTrace(layers=2, experts=3)
        trace.add(np.array([[[0, 1]], [[2, 2]]]), np.array([[[0.5, 0.5]], [[0.75, 0.25]]], np.float32))
        told.routed(trace)
        traces.append(trace)
    found = samples(told)
    load = [[found["expert_tokens_total", str(expert), str(layer)] for expert in range(3)] for layer in range(2)]
    assert load == [[2, 2, 0], [0, 0, 4]]
    assert found["router_entropy", "0"] == pytest.approx(np.log(2))
    assert [found["router_entropy", str(n)] for n in range(2)] == pytest.approx(
        [layer["entropy"] for layer in traces[0].report()["layers"]], abs=1e-6
    )
    assert traces[0].report() == traces[1].report()  # a trace that was counted is as it was


def test_the_name_of_a_model_cannot_break_the_page() -> None:
    told = Metrics('a"b\\c\nd', cast(Bridge, SimpleNamespace(status=Status.LOADING)))
    [*families] = text_string_to_metric_families(told.render()[0].decode())
    assert {sample.labels["model_name"] for family in families for sample in family.samples} == {'a"b\\c\nd'}
